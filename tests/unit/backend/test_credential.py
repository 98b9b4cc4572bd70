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

from backend import store
from backend.credential import Passwords, first_password, make
from backend.peers import Peer
from backend.refusal import Refused
from backend.throttle import Rates, Throttle
from backend.worker import Worker
from tests.unit.backend.rig import Now

HERE, ELSEWHERE = Peer.parse("192.0.2.7"), Peer.parse("192.0.2.8")


def test_passwords_are_hashed_with_scrypt_at_full_cost() -> None:
    begin = time.process_time()
    credential = make("password", used=True)
    assert time.process_time() - begin > 0.01
    assert credential.hash == hashlib.scrypt(b"password", salt=credential.salt, n=2**14, r=8, p=1, dklen=32)
    assert credential.salt != make("password", used=True).salt


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
