"""Hash chain of an audit log: each entry has the hash of the one before; none can be changed, removed or inserted.

A log is a sequence of files, ``<kind>-<number of its first entry>.jsonl``, with one JSON object per line. An entry's
``prev`` is the SHA-256 of the line before it, without its newline; the first entry of a file continues the chain of the
file before. The oldest files are removed over time, so a log may begin at any number. Nothing inside a log shows that
its end was cut off, so the hash of its last entry (`Chain.head`) should be noted elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta, Struct

MAX_LINE = 2048
"""Bytes of one entry with its newline: its two free texts have up to 200 characters, which JSON may double."""
MAX_BREAKS = 16
"""Faults of one log that are described; further ones are only counted."""
_NAME = re.compile(r"([a-z]+)-([0-9]{10})\.jsonl")


class Entry(Struct, frozen=True, omit_defaults=True):
    """One line. Unknown fields, of a newer version, are ignored; the hash covers them all the same."""

    seq: Annotated[int, Meta(ge=1)]
    """Number of the entry in its log; the first is 1."""
    prev: str
    time: str
    """UTC, ISO 8601, by the host's clock."""
    boot_id: str
    event: str
    outcome: str
    instruction: str = ""
    peer: str = ""
    session: str = ""
    """The session: the first characters of its token's SHA-256."""
    vm: str = ""
    """Which event of the VM: the supervisor's history and a number (`backend.common.vm_state`)."""
    detail: str = ""
    suppressed: int = 0
    """Entries of this log before this one that were only counted."""
    lost: int = 0
    """Entries before this one that could not be written."""
    budget: int | None = None
    """Changes that may still be made at once (`Settings.change_burst`)."""


class _Link(Struct):
    """The fields of an entry that make the chain."""

    seq: int
    prev: str


_link = msgspec.json.Decoder(_Link)
_entry = msgspec.json.Decoder(Entry)
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


def genesis(kind: str) -> str:
    """``prev`` of the first entry: different for each kind, so that one log cannot be passed off as another."""
    return digest(f"sallyport audit {kind}".encode())


def digest(line: bytes) -> str:
    """The hash of an entry: SHA-256 of its line without the newline, hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def file_name(kind: str, first: int) -> str:
    """Name of the file whose first entry has the number ``first``."""
    return f"{kind}-{first:010d}.jsonl"


def first_of(path: Path) -> int:
    """Number of a file's first entry, from its name.

    Raises:
        ValueError: it is not the name of such a file.
    """
    if match := _NAME.fullmatch(path.name):
        return int(match[2])
    raise ValueError(f"{path.name!r} is not the name of an audit log's file")


def files(folder: Path, kind: str) -> list[Path]:
    """The files of one log, oldest first; none if the folder is missing."""
    try:
        found = [path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and match[1] == kind]
    except FileNotFoundError:
        return []
    return sorted(found)


def decode(line: bytes) -> Entry | None:
    """The entry in a line; None if it is not one."""
    try:
        return _entry.decode(line)
    except _UNREADABLE:
        return None


@dataclass
class Chain:
    """Result of verifying one log.

    Attributes:
        kind: which log.
        first: number of the first entry that is still there; 0 if there is none.
        last: number of its last entry.
        head: the last entry's hash.
        breaks: the first places where the chain is broken, and why.
        broken: number of all such places.
        unfinished: bytes of an unfinished entry at the very end, from a power cut; not a break.
    """

    kind: str
    first: int = 0
    last: int = 0
    head: str = ""
    breaks: list[str] = field(default_factory=list)
    broken: int = 0
    unfinished: int = 0
    known: dict[int, str] = field(default_factory=dict)
    """Hashes that were noted elsewhere, by number of the entry; those that have not been found yet."""

    def fault(self, where: str, why: str) -> None:
        """Record a place where the chain is broken."""
        self.broken += 1
        if len(self.breaks) < MAX_BREAKS:
            self.breaks.append(f"{where}: {why}")


def verify(folder: Path, kind: str, known: dict[int, str] | None = None) -> Chain:
    """Verify one log. Blocks; its memory is bounded, whatever the files contain.

    Args:
        folder: where its files are, or copies of them.
        kind: which log.
        known: hashes of entries that were noted earlier, by number. Each must be found, unless its file was removed.

    Raises:
        OSError: the folder cannot be read. A file that the writer removes meanwhile is skipped.
    """
    found = Chain(kind, known=dict(known or {}))
    paths = files(folder, kind)
    expected = genesis(kind)
    for path in paths:
        try:
            expected = _walk(found, path, expected, newest=path == paths[-1])
        except FileNotFoundError:
            continue
        except OSError as error:
            found.fault(path.name, f"cannot be read ({error.strerror or error})")
            expected = ""
    for number, known_hash in sorted(found.known.items()):
        if not found.first or number >= found.first:
            found.fault(f"entry {number}", f"is not there with the hash {known_hash[:16]}..., which was noted before")
    return found


def _walk(found: Chain, path: Path, expected: str, *, newest: bool) -> str:
    """Check one file. Takes the hash that its first entry must have in ``prev``; returns the one for the next file."""
    with _open(path) as file:
        first = first_of(path)
        if not found.last:
            found.last, expected = first - 1, genesis(found.kind) if first == 1 else ""
        elif first != found.last + 1:
            found.fault(path.name, f"begins at entry {first}, and the file before ends at entry {found.last}")
        for line, ended in _lines(file):
            if line is not None and not ended and newest:
                found.unfinished = len(line)
                break
            expected = _step(found, path.name, line, expected)
    return expected


def _step(found: Chain, name: str, line: bytes | None, expected: str) -> str:
    """Check one line; returns the hash that the next one must have in ``prev``, empty if it is not known."""
    number = found.last + 1
    where = f"{name}, entry {number}"
    try:
        link = _link.decode(line or b"")
    except _UNREADABLE:
        found.fault(where, "is not readable")
        link = _Link(number, expected)
    if link.seq != number:
        found.fault(where, f"has the number {link.seq}")
    if expected and link.prev != expected:
        found.fault(where, "does not name the hash of the entry before it")
    found.first = found.first or link.seq
    found.last, found.head = link.seq, digest(line or b"")
    if found.known.get(link.seq) == found.head:
        del found.known[link.seq]
    return "" if line is None else found.head


def _open(path: Path) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(fd, "rb")


def _lines(file: BinaryIO) -> Iterator[tuple[bytes | None, bool]]:
    """Each line without its newline, None if it is too long for an entry; and whether it had a newline."""
    while line := file.readline(MAX_LINE):
        if line.endswith(b"\n"):
            yield line[:-1], True
        elif len(line) < MAX_LINE:
            yield line, False
        else:
            while (piece := file.readline(MAX_LINE)) and not piece.endswith(b"\n"):
                pass
            yield None, True
