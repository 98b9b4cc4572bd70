"""The audit log: it only grows, is bounded, and tells what it had to leave out."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
from pathlib import Path

import pytest

from backend.audit import REJECT_BURST, Audit, LogFile
from backend.worker import Worker
from tests.unit.backend.rig import Now, read_audit


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
