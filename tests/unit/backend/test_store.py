"""Files that the backend reads and replaces, and what it lets through as text."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.common import store
from backend.protocol.refusal import printable


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
        "import sys; from pathlib import Path; from backend.common import store\n"
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
