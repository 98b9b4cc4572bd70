"""The small parts by themselves: limits, sessions, order, files, log, passwords."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from backend import host_status, notify, store
from backend import instructions as ins
from backend.audit import REJECT_BURST, Audit, LogFile
from backend.credential import Passwords, first_password, make
from backend.gate import SEQ_FREE, Gate
from backend.limits import Bucket, SlowDown
from backend.refusal import Refused, printable
from backend.sessions import Sessions
from backend.worker import Worker
from tests.unit.backend.rig import read_audit


class Now:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    now = Now()
    bucket = Bucket(2.0, 3.0, now)
    assert [bucket.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 0.5]
    now.s += 0.5
    assert [bucket.take() for _ in range(2)] == [0.0, 0.5]
    now.s += 3600
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_failed_logins_wait_twice_as_long_each_time_up_to_a_minute() -> None:
    now = Now()
    slow = SlowDown(now)
    waits = []
    for _ in range(12):
        slow.failed()
        waits.append(slow.wait())
        now.s += slow.wait()
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    for _ in range(5000):
        slow.failed()
    assert slow.wait() == 60
    slow.succeeded()
    assert slow.wait() == 0
    slow.failed()
    assert slow.wait() == 0


def test_sessions_end_when_idle_and_at_the_end_of_their_life() -> None:
    now = Now()
    sessions = Sessions(most=4, idle_s=10, life_s=100, clock=now)
    token = sessions.open("a")
    for _ in range(12):
        now.s += 8
        found = sessions.find(token)
        assert found is not None
        assert found.peer == "a"
    now.s += 8
    assert sessions.find(token) is None
    token = sessions.open("b")
    now.s += 10
    assert sessions.find(token) is None
    assert len(sessions) == 0


def test_the_session_that_is_idle_longest_makes_room() -> None:
    now = Now()
    sessions = Sessions(most=3, idle_s=100, life_s=1000, clock=now)
    tokens = []
    for name in "abc":
        tokens.append(sessions.open(name))
        now.s += 1
    sessions.find(tokens[0])
    tokens.append(sessions.open("d"))
    assert [sessions.find(token) is not None for token in tokens] == [True, False, True, True]
    assert len(sessions) == 3


def test_tokens_fit_the_schema_and_are_not_kept() -> None:
    sessions = Sessions(most=3, idle_s=100, life_s=1000)
    token = sessions.open("a")
    msgspec.convert(token, ins.Token)
    assert token not in repr(vars(sessions))
    assert token.encode() not in b"".join(sessions._by_digest)


def _line(seq: int) -> bytes:
    return ins.encode(ins.Request(v=1, seq=seq, do=ins.Heartbeat()))


def test_a_vm_cannot_use_up_the_numbers_for_its_successors() -> None:
    now = Now()
    gate = Gate(1e6, 1e6, now)
    assert gate.admit(_line(1)).seq == 1
    assert gate.admit(_line(SEQ_FREE)).seq == SEQ_FREE
    for greedy in 2**63 - 1, SEQ_FREE + 2**40:
        with pytest.raises(Refused) as refused:
            gate.admit(_line(greedy))
        assert (refused.value.error.code, refused.value.error.last_seq) == ("replayed", SEQ_FREE)
    # The honest successor, whose clock is behind, goes on from last_seq.
    assert gate.admit(_line(SEQ_FREE + 1))
    now.s += 1
    assert gate.admit(_line(SEQ_FREE + 2**31))


def test_a_client_clock_that_jumps_ahead_is_followed() -> None:
    gate = Gate(1e6, 1e6, Now())
    assert gate.admit(_line(1))
    assert gate.admit(_line(time.time_ns()))
    assert gate.admit(_line(4 * 10**18))


def test_a_refused_request_uses_its_number_up() -> None:
    gate = Gate(1.0, 1.0, Now())
    gate.admit(_line(1))
    with pytest.raises(Refused) as refused:
        gate.admit(_line(2))
    assert (refused.value.seq, refused.value.error.code) == (2, "limited")
    with pytest.raises(Refused) as refused:
        gate.admit(_line(2))
    assert refused.value.error.code == "replayed"


def test_messages_are_printable_and_short() -> None:
    assert printable("a\n\x1b[2J\u202e\u00e9") == "a\\n\\x1b[2J\\u202e\\xe9"
    assert len(printable("\x00" * 10000)) == 200


# Files


def test_reading_refuses_links_devices_pipes_and_long_files(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"x" * 10)
    assert store.read(target, 10) == b"x" * 10
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    for path, limit, number in (
        (target, 9, errno.EFBIG),
        (tmp_path / "link", 10, errno.ELOOP),
        (tmp_path / "pipe", 10, errno.EINVAL),
        (Path("/dev/zero"), 10, errno.EINVAL),
        (tmp_path, 10, errno.EINVAL),
        (tmp_path / "none", 10, errno.ENOENT),
    ):
        with pytest.raises(OSError) as failed:  # noqa: PT011 - the number is looked at below
            store.read(path, limit)
        assert failed.value.errno == number


def test_a_replacement_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    store.replace(path, b"old")

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    for call in "write", "fsync":
        with monkeypatch.context() as broken:
            broken.setattr(os, call, fail)
            with pytest.raises(OSError, match="full"):
                store.replace(path, b"new")
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_replacement_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    store.replace(path, b"old")
    seen: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        what = os.readlink(f"/proc/self/fd/{fd}")
        seen.append(f"{Path(what).name} while {path.read_text()}")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    store.replace(path, b"new")
    assert seen == [".file.new while old", f"{tmp_path.name} while new"]


def test_kill_9_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = (
        "import sys; from pathlib import Path; from backend import store\n"
        "path = Path(sys.argv[1]); print('go', flush=True)\n"
        "while True:\n"
        "    for byte in b'ab': store.replace(path, bytes([byte]) * 300000)\n"
    )
    for round_ in range(6):
        child = subprocess.Popen([sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.003 * round_)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        content = path.read_bytes()
        assert content in (b"a" * 300000, b"b" * 300000)
    store.replace(path, b"after all")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# The audit log


def _audit(path: Path, now: Now) -> tuple[Audit, Worker]:
    disk = Worker("disk")
    return Audit(LogFile(path), disk, "boot", now), disk


def test_rejections_are_bounded_and_counted_in_the_next_entry(tmp_path: Path) -> None:
    async def test() -> None:
        now = Now()
        audit, disk = _audit(tmp_path / "audit.jsonl", now)
        for _ in range(1000):
            await audit.reject("message", outcome="malformed")
        assert len(read_audit(tmp_path)) == REJECT_BURST
        await audit.record("instruction", outcome="ok", instruction="hostname.set")
        assert read_audit(tmp_path)[-1]["suppressed"] == 950
        for _ in range(100):
            now.s += 1.001
            await audit.reject("message", outcome="malformed")
        entries = read_audit(tmp_path)
        assert len(entries) == REJECT_BURST + 1 + 10
        counted = sum(entry["suppressed"] for entry in entries[-10:])
        assert 80 <= counted <= 90
        await audit.close()
        assert read_audit(tmp_path)[-1] | {"time": ""} == {
            "time": "",
            "boot_id": "boot",
            "event": "backend.stop",
            "instruction": "",
            "peer": "",
            "outcome": "ok",
            "detail": "",
            "suppressed": 90 - counted,
            "lost": 0,
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read_audit(tmp_path)[-1]["time"])
        disk.stop()

    asyncio.run(test())


def test_what_a_full_disk_swallowed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        audit, disk = _audit(tmp_path / "audit.jsonl", Now())
        await audit.record("one", outcome="ok")
        real = os.write

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        def half(fd: int, data: bytes) -> int:
            return real(fd, data[: len(data) // 2])

        for broken in full, half:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", broken)
                await audit.record("lost", outcome="ok")
        await audit.record("two", outcome="ok", peer="\x9b2J", detail="\u202e" + "x" * 5000)
        lines = (tmp_path / "audit.jsonl").read_bytes().splitlines()
        assert [json.loads(lines[number])["event"] for number in (0, 2)] == ["one", "two"]
        assert json.loads(lines[2])["lost"] == 2
        assert lines[2].isascii()
        assert len(json.loads(lines[2])["detail"]) == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(lines[1])
        disk.stop()

    asyncio.run(test())


def test_a_torn_last_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"a":1}\n{"tor')
    LogFile(path).append(b'{"b":2}\n')
    assert path.read_bytes() == b'{"a":1}\n{"tor\n{"b":2}\n'


def test_the_log_rotates_and_keeps_so_many(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = LogFile(path, limit=100, keep=2)
    for number in range(40):
        file.append(b"%09d\n" % number)
    sizes = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert sizes == {"audit.jsonl": 100, "audit.jsonl.1": 100, "audit.jsonl.2": 100}
    assert path.read_bytes().startswith(b"000000030")
    assert (tmp_path / "audit.jsonl.2").read_bytes().startswith(b"000000010")
    file.close()


def test_the_log_is_opened_to_append_only(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "audit.jsonl")
    file.append(b"one\n")
    assert file._fd is not None
    os.lseek(file._fd, 0, os.SEEK_SET)
    file.append(b"two\n")
    assert (tmp_path / "audit.jsonl").read_bytes() == b"one\ntwo\n"
    file.close()


# Passwords


def test_passwords_are_hashed_with_scrypt_at_full_cost() -> None:
    begin = time.process_time()
    credential = make("password", used=True)
    assert time.process_time() - begin > 0.01
    assert credential.hash == hashlib.scrypt(b"password", salt=credential.salt, n=2**14, r=8, p=1, dklen=32)
    assert credential.salt != make("password", used=True).salt


async def _start(path: Path) -> tuple[Passwords, str | None]:
    passwords = Passwords(path, Worker("disk"), Worker("cpu"), Bucket(100.0, 100.0))
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
            await passwords.check("admin", first)
        for user in "root", "Admin", "":
            with pytest.raises(Refused):
                await passwords.check(user, second)
        _, third = await _start(path)
        assert third not in (None, second)
        passwords, fourth = await _start(path)
        assert fourth
        await passwords.check("admin", fourth)
        passwords, none = await _start(path)
        assert none is None
        await passwords.check("admin", fourth)
        with pytest.raises(Refused):
            await passwords.check("admin", third or "")

    asyncio.run(test())


@pytest.mark.usefixtures("cheap_hash")
def test_a_login_that_succeeds_forgets_the_failures(tmp_path: Path) -> None:
    async def test() -> None:
        now = Now()
        passwords = Passwords(tmp_path / "credential.json", Worker("disk"), Worker("cpu"), Bucket(100.0, 100.0), now)
        first = await passwords.start()
        assert first
        for _ in range(2):
            for wait in 0, 0, 1:
                with pytest.raises(Refused) as refused:
                    await passwords.check("admin", "wrong")
                assert (refused.value.error.code, refused.value.error.retry_after_s) == ("denied", wait)
            with pytest.raises(Refused) as refused:
                await passwords.check("admin", first)
            assert refused.value.error.code == "limited"
            now.s += 1
            await passwords.check("admin", first)

    asyncio.run(test())


def test_without_a_disk_the_first_password_still_works(tmp_path: Path) -> None:
    async def test() -> None:
        passwords, first = await _start(tmp_path / "none" / "credential.json")
        assert first
        await passwords.check("admin", first)

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
                await passwords.change(first, "another long one")
        await passwords.check("admin", first)

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
            await passwords.check("admin", "password")
        assert refused.value.error.code == "failed"
        with pytest.raises(Refused):
            await passwords.change("password", "another long one")

    asyncio.run(test())
    assert path.read_bytes() == content


# The host and systemd


def test_the_root_hash_comes_from_the_command_line() -> None:
    value = "0123456789abcdef" * 4
    assert host_status.root_hash(f"a=b sallyport.roothash={value} quiet\n") == value
    assert host_status.root_hash(f"sallyport.roothash={value}\n") == value
    assert host_status.root_hash(f"xsallyport.roothash={value}\n") == ""
    assert host_status.root_hash("sallyport.roothash=<script>\n") == ""
    assert host_status.root_hash("quiet\n") == ""


def test_memory_is_in_bytes() -> None:
    assert host_status.memory("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n") == (2097152, 1048576)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    address = f"@sallyport-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
    notify.notify("READY=1")  # nobody listens


def test_the_watchdog_is_fed_at_half_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for text, expected in (("30000000", 15.0), ("", None), ("0", None), ("x", None)):
        monkeypatch.setenv("WATCHDOG_USEC", text)
        assert notify.watchdog_interval() == expected
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_interval() is None
