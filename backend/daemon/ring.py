"""One log of the audit on disk: a ring of files that are only ever appended to, each entry durable when it is written.

What each fault leads to: a last line that a power cut left unfinished is cut off, and an entry says so; a damaged line
elsewhere stays as it is, the chain goes on from its bytes, and a check tells its place; a file that is missing shows as
a gap in the numbers; a folder that is missing is an empty log, and numbers begin at 1. All calls block.
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
"""Bytes of a file's end that are looked at when it is opened."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Kind:
    """A class of entries with a ring of its own, so that none of another class can push them out.

    Args:
        name: in the files' names.
        files: that are kept at most.
        file_bytes: of one of them.
        rate: entries per second in the long run; more are only counted. 0: no limit here.
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
        """Give the entry its place in the chain and write it durably.

        Raises:
            OSError: it is not in the log. The next call opens the file afresh.
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
        """The newest entries, oldest first: those at the end of the newest file that has any. Then `end` holds."""
        try:
            paths = chain.files(self._folder, self.kind.name)
        except OSError as error:
            # Nobody is locked out by it: `append` says with each entry that it is lost.
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
        """Remove the oldest file, and with ``last`` the only one, too; returns its name, empty if there was none."""
        paths = chain.files(self._folder, self.kind.name)
        if not paths or (len(paths) == 1 and not (last and paths[0].stat().st_size)):
            return ""
        if len(paths) == 1:
            # The chain goes on from what is remembered.
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
        """Find where the chain ends, and cut off what never became an entry."""
        kept, torn = _tail(path)
        size = os.fstat(fd).st_size
        if 0 < torn < chain.MAX_LINE:
            size -= torn
            os.ftruncate(fd, size)
            os.fsync(fd)
            self._cut += torn
        elif torn:
            # More than any entry: this is damage, which is not ours to remove.
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
        # Of a damaged line only its place is known.
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
            # Else the next one to open it would find and report an unfinished entry.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._size)
            raise
        self._size += written
        self._seq += 1
        self._prev = chain.digest(line)

    def _rotate(self) -> int:
        self.close()
        paths = chain.files(self._folder, self.kind.name)
        # Before the new one is made: the sum of all files is bounded at every moment.
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
    """All logs of a folder, and the room that they give up when the disk is full."""

    def __init__(self, folder: Path, kinds: tuple[Kind, ...]) -> None:
        self.folder = folder
        self.by_kind = {kind.name: Ring(folder, kind) for kind in kinds}
        self._kinds = kinds
        self.dropped: list[str] = []
        """Names of files that were dropped to make room, until somebody has noted them."""

    def make_room(self) -> bool:
        """Drop the oldest file of the least important log that can spare one; False: there is nothing left to drop.

        The kinds are given by importance. The most important one's last file is never dropped.
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
    """The whole lines in the last `TAIL` bytes of a file, and how many bytes of an unfinished one follow."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        tail = os.pread(fd, TAIL, max(0, size - TAIL))
    finally:
        os.close(fd)
    end = tail.rfind(b"\n") + 1
    return tail[:end], len(tail) - end
