"""The audit log: who did what and what was turned away, one JSON object per line, only ever appended to.

Two ways in, because the writer's other end may be hostile. `Audit.record` is for what an operator did: always
written and fsynced. `Audit.reject` is for what anybody can provoke: it passes a token bucket, and what the
bucket holds back is counted in the next entry, so that a hostile front-end fills no disk and wears no flash.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from backend import store
from backend.limits import Bucket, Clock
from backend.refusal import printable
from backend.worker import Worker

log = logging.getLogger("audit")

FILE_LIMIT = 8 * 2**20
"""Bytes of one file."""
OLD_FILES = 4
REJECT_BURST = 50.0
REJECT_RATE = 0.1
"""Entries for rejected messages: at once, and per second after that."""


class Entry(Struct, frozen=True):
    """One line of the log."""

    time: str
    """UTC, ISO 8601, as the host's clock had it."""
    boot_id: str
    event: str
    instruction: str
    peer: str
    outcome: str
    detail: str
    suppressed: int
    """Rejections before this entry that were only counted."""
    lost: int
    """Entries before this one that could not be written (disk full)."""


class LogFile:
    """A file that grows to `limit` bytes, then becomes ``.1`` and so on up to `keep`. All calls block."""

    def __init__(self, path: Path, limit: int = FILE_LIMIT, keep: int = OLD_FILES) -> None:
        self._path = path
        self._limit = limit
        self._keep = keep
        self._fd: int | None = None
        self._size = 0
        self._torn = False

    def append(self, line: bytes) -> None:
        """Append one line (with its newline) durably.

        Raises:
            OSError: it is not in the log, or not surely. The next call opens the file afresh.
        """
        try:
            fd = self._open()
            if self._size and self._size + len(line) > self._limit:
                fd = self._rotate()
            # A line that a power cut or a full disk tore must not swallow this one.
            data = b"\n" + line if self._torn else line
            written = os.write(fd, data)
            self._size += written
            if written != len(data):
                raise OSError(errno.ENOSPC, "written in part only", str(self._path))
            self._torn = False
            os.fsync(fd)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
            self._torn = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"
            store.sync_folder(self._path.parent)
        return self._fd

    def _rotate(self) -> int:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        return self._open()


class Audit:
    """The log. Never raises for a full or failing disk: management must go on; the loss is counted and logged."""

    def __init__(self, file: LogFile, disk: Worker, boot_id: str, clock: Clock = time.monotonic) -> None:
        self._file = file
        self._disk = disk
        self._boot_id = boot_id
        self._bucket = Bucket(REJECT_RATE, REJECT_BURST, clock)
        self._suppressed = 0
        self._lost = 0

    async def record(
        self, event: str, *, outcome: str, instruction: str = "", peer: str = "", detail: str = ""
    ) -> None:
        """Write one entry; returns when it is on the disk (or known to be lost). Never pass a secret."""
        entry = Entry(
            time=_utc_now(),
            boot_id=self._boot_id,
            event=event,
            instruction=instruction,
            peer=printable(peer),
            outcome=outcome,
            detail=printable(detail),
            suppressed=self._suppressed,
            lost=self._lost,
        )
        self._suppressed = self._lost = 0
        line = msgspec.json.encode(entry) + b"\n"
        try:
            await self._disk.run(lambda: self._file.append(line))
        except OSError as error:
            self._suppressed += entry.suppressed
            self._lost += entry.lost + 1
            log.error("entry lost (%s): %s", error.strerror, line.decode().rstrip())

    async def reject(
        self, event: str, *, outcome: str, instruction: str = "", peer: str = "", detail: str = ""
    ) -> None:
        """Write or only count one rejection."""
        if self._bucket.take() > 0.0:
            self._suppressed += 1
            return
        await self.record(event, outcome=outcome, instruction=instruction, peer=peer, detail=detail)

    async def close(self) -> None:
        """Write the last entry, with what was counted and not yet said, and close the file."""
        await self.record("backend.stop", outcome="ok")
        await self._disk.run(self._file.close)


def _utc_now() -> str:
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
