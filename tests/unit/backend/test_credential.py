"""Passwords: the first one, the stored one, a damaged one."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
import time
from pathlib import Path

import msgspec
import pytest

import backend.daemon.credential
from backend.common import store
from backend.daemon.credential import COSTS, Passwords, affordable, first_password, make
from backend.daemon.throttle import Rates, Throttle
from backend.daemon.worker import Worker
from backend.protocol.peers import Peer
from backend.protocol.refusal import Refused
from tests.unit.backend.rig import Now

HERE, ELSEWHERE = Peer.parse("192.0.2.7"), Peer.parse("192.0.2.8")


def test_passwords_are_hashed_with_scrypt() -> None:
    begin = time.process_time()
    credential = make("password", used=True)
    assert time.process_time() - begin > 0.01
    assert credential.hash == hashlib.scrypt(b"password", salt=credential.salt, n=2**14, r=8, p=1, dklen=32)
    assert credential.salt != make("password", used=True).salt


@pytest.mark.parametrize(
    ("n", "seconds", "expected"),
    [
        (2**14, 0.05, 2**17),
        (2**14, 0.125, 2**17),
        (2**14, 0.126, 2**16),
        (2**14, 0.9, 2**14),
        # Never less than what is there, however slow the device is today.
        (2**14, 30.0, 2**14),
        (2**16, 30.0, 2**16),
        (2**16, 0.3, 2**17),
        (2**17, 0.0, 2**17),
    ],
)
def test_a_password_costs_what_the_device_can_do_in_a_second(n: int, seconds: float, expected: int) -> None:
    assert affordable(n, seconds) == expected


def test_the_dearest_hash_is_what_is_recommended_today() -> None:
    """OWASP Password Storage Cheat Sheet, scrypt: n = 2**17, r = 8, p = 1."""
    credential = make("password", COSTS[-1], used=True)
    assert credential.hash == hashlib.scrypt(
        b"password", salt=credential.salt, n=2**17, r=8, p=1, dklen=32, maxmem=2**28
    )


def _stored(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_bytes()))


@pytest.mark.parametrize("used", [True, False], ids=["a stored one", "the first one"])
def test_a_cheap_hash_becomes_as_dear_as_the_device_allows_when_its_password_is_next_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    monkeypatch.setattr(backend.daemon.credential, "COSTS", (2**14, 2**15))
    monkeypatch.setattr(backend.daemon.credential, "BUDGET_S", 60.0)
    path = tmp_path / "credential.json"
    if used:
        store.replace(path, msgspec.json.encode(make("password", used=True)))

    async def test() -> None:
        passwords, first = await _start(path)
        password = first or "password"
        assert _stored(path)["n"] == 2**14
        with pytest.raises(Refused):
            await passwords.check("admin", "wrong", HERE)
        assert _stored(path)["n"] == 2**14
        await passwords.check("admin", password, HERE)
        assert (_stored(path)["n"], _stored(path)["used"]) == (2**15, True)
        kept = path.read_bytes()
        await passwords.check("admin", password, HERE)
        assert path.read_bytes() == kept  # done once
        again, _ = await _start(path)
        await again.check("admin", password, HERE)
        with pytest.raises(Refused):
            await again.check("admin", "wrong", HERE)
        await again.change(password, "another long one", HERE)
        assert _stored(path)["n"] == 2**15

    asyncio.run(test())


def test_a_hash_is_never_made_cheaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.daemon.credential, "BUDGET_S", 0.0)
    path = tmp_path / "credential.json"
    store.replace(path, msgspec.json.encode(make("password", 2**15, used=True)))

    async def test() -> None:
        passwords, _ = await _start(path)
        await passwords.check("admin", "password", HERE)
        await passwords.change("password", "another long one", HERE)
        assert _stored(path)["n"] == 2**15

    asyncio.run(test())


async def _start(path: Path) -> tuple[Passwords, str | None]:
    passwords = Passwords(path, Worker("disk"), Worker("cpu"), Throttle(Rates()))
    return passwords, await passwords.start()


def test_first_passwords_are_random_and_easy_to_type() -> None:
    made = {first_password() for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch(r"[2-9a-hjkmnp-z]{5}(-[2-9a-hjkmnp-z]{5}){3}", password) for password in made)


@pytest.mark.usefixtures("cheap_hash")
def test_the_first_password_is_new_at_every_start_until_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "credential.json"

    async def test() -> None:
        _, first = await _start(path)
        passwords, second = await _start(path)
        assert first
        assert second
        assert first != second
        with pytest.raises(Refused):
            await passwords.check("admin", first, HERE)
        for user in "root", "Admin", "":
            with pytest.raises(Refused):
                await passwords.check(user, second, HERE)
        _, third = await _start(path)
        assert third not in (None, second)
        passwords, fourth = await _start(path)
        assert fourth
        await passwords.check("admin", fourth, HERE)
        passwords, none = await _start(path)
        assert none is None
        await passwords.check("admin", fourth, HERE)
        with pytest.raises(Refused):
            await passwords.check("admin", third or "", HERE)

    asyncio.run(test())


@pytest.mark.usefixtures("cheap_hash")
def test_a_login_that_succeeds_forgets_the_failures(tmp_path: Path) -> None:
    async def test() -> None:
        now = Now()
        passwords = Passwords(tmp_path / "credential.json", Worker("disk"), Worker("cpu"), Throttle(Rates(), now))
        first = await passwords.start()
        assert first
        for _ in range(2):
            for wait in 0, 0, 1:
                with pytest.raises(Refused) as refused:
                    await passwords.check("admin", "wrong", HERE)
                assert (refused.value.error.code, refused.value.error.retry_after_s) == ("denied", wait)
            with pytest.raises(Refused) as refused:
                await passwords.check("admin", first, HERE)
            assert refused.value.error.code == "limited"
            now.s += 1
            await passwords.check("admin", first, HERE)

    asyncio.run(test())


def test_without_a_disk_the_first_password_still_works(tmp_path: Path) -> None:
    async def test() -> None:
        passwords, first = await _start(tmp_path / "none" / "credential.json")
        assert first
        await passwords.check("admin", first, HERE)

    asyncio.run(test())


def test_a_password_that_cannot_be_stored_is_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        passwords, first = await _start(tmp_path / "credential.json")
        assert first

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as broken:
            broken.setattr(store, "replace", full)
            with pytest.raises(OSError, match="full"):
                await passwords.change(first, "another long one", HERE)
        await passwords.check("admin", first, HERE)

    asyncio.run(test())


def _corrupt() -> dict[str, bytes]:
    good = json.loads(msgspec.json.encode(make("password", used=True)))
    changes: dict[str, dict[str, object]] = {
        "memory bomb": {"n": 2**30},
        "weak": {"n": 2},
        "short hash": {"hash": "AAAA"},
        "short salt": {"salt": ""},
        "not base64": {"hash": "!" * 44},
        "used is a number": {"used": 0},
        "extra field": {"admin": True},
    }
    files = {name: json.dumps(good | change).encode() for name, change in changes.items()}
    del good["used"]
    return files | {
        "used is missing": json.dumps(good).encode(),
        "empty": b"",
        "cut": files["weak"][:50],
        "zeros": bytes(150),
        "deep": b"[" * 4000,
        "not utf-8": b'{"salt":"\xff"}',
        "long": b" " * 5000,
    }


CORRUPT = _corrupt()


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_damaged_credential_fails_closed_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "credential.json"
    path.write_bytes(content)

    async def test() -> None:
        passwords, first = await _start(path)
        assert first is None
        assert "credential.json" in passwords.problem
        with pytest.raises(Refused) as refused:
            await passwords.check("admin", "password", HERE)
        assert refused.value.error.code == "failed"
        with pytest.raises(Refused):
            await passwords.change("password", "another long one", HERE)

    asyncio.run(test())
    assert path.read_bytes() == content


# The host and systemd
