"""One audit log on disk: a ring of files that are only appended to. An entry is durable when `Ring.append` returns.

Damage is handled as follows. An unfinished last line (power cut) is cut off, and an entry records that. A damaged line
elsewhere stays as it is; the chain continues from its bytes, and a check reports its place. A missing file is a gap in
the numbers. A missing folder is an empty log, whose numbers begin at 1. All calls block.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backend.common import store
from backend.daemon import chain
from backend.daemon.chain import Entry

log = logging.getLogger("audit")

TAIL = 65536
"""Bytes at the end of a file that are read when it is opened."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Kind:
    """A class of entries with files of its own, so that entries of other classes do not push them out.

    Args:
        name: in the files' names.
        files: number of files at most.
        file_bytes: bytes of one file at most.
        rate: entries per second in the long run; more are only counted. 0: no limit.
        burst: entries at once.
    """

    name: str
    files: int
    file_bytes: int
    rate: float = 0.0
    burst: float = 0.0


class Ring:
    """The files of one `Kind`."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.kind = kind
        self._folder = folder
        self._fd: int | None = None
        self._size = 0
        self._seq = 0
        self._prev = chain.genesis(kind.name)
        self._cut = 0

    @property
    def end(self) -> tuple[int, str]:
        """Number and hash of the last entry."""
        return self._seq, self._prev

    def append(self, entry: Entry) -> None:
        """Chain the entry to the one before it and write it durably.

        Raises:
            OSError: the entry is not in the log. The next call opens the file again.
        """
        try:
            self._open()
            if self._cut:
                detail = f"{self._cut} bytes of an unfinished entry cut off"
                self._write(
                    Entry(0, "", entry.time, entry.boot_id, "audit.repaired", "ok", detail=detail, budget=entry.budget)
                )
                self._cut = 0
            self._write(entry)
        except OSError:
            self.close()
            raise

    def recent(self) -> list[Entry]:
        """The entries at the end of the newest file that has any, oldest first. Afterwards `end` is known."""
        try:
            paths = chain.files(self._folder, self.kind.name)
        except OSError as error:
            # Not fatal, so that operators can still log in: `append` reports each lost entry.
            log.error("%s cannot be read: %s", self._folder, error.strerror)
            return []
        if paths:
            with contextlib.suppress(OSError):
                self._open()
        for path in reversed(paths):
            with contextlib.suppress(OSError):
                lines = _tail(path)[0].split(b"\n")
                if entries := [entry for line in lines if (entry := chain.decode(line)) is not None]:
                    return entries
        return []

    def drop_oldest(self, *, last: bool = False) -> str:
        """Remove the oldest file, with ``last`` even the only one. Returns its name; empty if there was none to
        remove."""
        paths = chain.files(self._folder, self.kind.name)
        if not paths or (len(paths) == 1 and not (last and paths[0].stat().st_size)):
            return ""
        if len(paths) == 1:
            # Number and hash of the last entry stay in memory, and the chain continues from them.
            self._open()
            self.close()
        paths[0].unlink()
        store.sync_folder(self._folder)
        return paths[0].name

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700)
                store.sync_folder(self._folder.parent)
            paths = chain.files(self._folder, self.kind.name)
            path = paths[-1] if paths else self._folder / chain.file_name(self.kind.name, self._seq + 1)
            fd = os.open(path, _FLAGS, 0o600)
            try:
                self._resume(fd, path, paths[:-1])
                store.sync_folder(self._folder)
            except OSError:
                os.close(fd)
                raise
            self._fd = fd
        return self._fd

    def _resume(self, fd: int, path: Path, older: list[Path]) -> None:
        """Find the end of the chain, and cut off an unfinished entry."""
        kept, torn = _tail(path)
        size = os.fstat(fd).st_size
        if 0 < torn < chain.MAX_LINE:
            size -= torn
            os.ftruncate(fd, size)
            os.fsync(fd)
            self._cut += torn
        elif torn:
            # Longer than any entry: damage, which is kept for the check.
            size += os.write(fd, b"\n")
            kept, _ = _tail(path)
        self._size = size
        if kept:
            self._go_on(path, kept)
        elif older:
            self._go_on(older[-1], _tail(older[-1])[0])
        elif (first := chain.first_of(path)) > self._seq + 1:
            self._seq, self._prev = first - 1, "0" * 64

    def _go_on(self, path: Path, kept: bytes) -> None:
        line = kept.rstrip(b"\n").rpartition(b"\n")[2]
        entry = chain.decode(line)
        # Of a damaged last line only its position is known.
        self._seq = entry.seq if entry else chain.first_of(path) + path.read_bytes().count(b"\n") - 1
        self._prev = chain.digest(line)

    def _write(self, entry: Entry) -> None:
        line = msgspec.json.encode(msgspec.structs.replace(entry, seq=self._seq + 1, prev=self._prev))
        fd = self._open()
        if self._size and self._size + len(line) + 1 > self.kind.file_bytes:
            fd = self._rotate()
        try:
            written = os.write(fd, line + b"\n")
            if written != len(line) + 1:
                raise OSError(errno.ENOSPC, "written in part only", self.kind.name)
            os.fsync(fd)
        except OSError:
            # Else the next open would report an unfinished entry.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._size)
            raise
        self._size += written
        self._seq += 1
        self._prev = chain.digest(line)

    def _rotate(self) -> int:
        self.close()
        paths = chain.files(self._folder, self.kind.name)
        # Before the new file is created, so that the limit on all files holds at every moment.
        for path in paths[: max(0, len(paths) - self.kind.files + 1)]:
            path.unlink()
        fd = os.open(self._folder / chain.file_name(self.kind.name, self._seq + 1), _FLAGS | os.O_EXCL, 0o600)
        try:
            store.sync_folder(self._folder)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size = fd, 0
        return fd


class Rings:
    """All logs of a folder, and how they free space when the disk is full."""

    def __init__(self, folder: Path, kinds: tuple[Kind, ...]) -> None:
        self.folder = folder
        self.by_kind = {kind.name: Ring(folder, kind) for kind in kinds}
        self._kinds = kinds
        self.dropped: list[str] = []
        """Names of files that were removed to free space, until the caller has recorded them."""

    def make_room(self) -> bool:
        """Remove the oldest file of the least important log that has one to spare; returns False if there is none.

        The last file of the most important log is never removed.
        """
        for last in False, True:
            for kind in reversed(self._kinds if not last else self._kinds[1:]):
                with contextlib.suppress(OSError):
                    if name := self.by_kind[kind.name].drop_oldest(last=last):
                        self.dropped.append(name)
                        return True
        return False

    def close(self) -> None:
        """Close all files."""
        for ring in self.by_kind.values():
            ring.close()


def _tail(path: Path) -> tuple[bytes, int]:
    """The complete lines in the last `TAIL` bytes of a file, and the number of bytes of an unfinished line after
    them."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        tail = os.pread(fd, TAIL, max(0, size - TAIL))
    finally:
        os.close(fd)
    end = tail.rfind(b"\n") + 1
    return tail[:end], len(tail) - end
