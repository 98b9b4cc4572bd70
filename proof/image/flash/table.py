"""The partition table and all that lies outside of partitions (UEFI specification 2.10, chapter 5)."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from proof.image.flash.flash_check import FlashCheck
from proof.image.flash.view import View
from proof.image.tree.entries import TreeError

ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
PARTITIONS: Mapping[str, tuple[uuid.UUID, int]] = {
    "esp": (ESP, 0),
    "slot-a": (ROOT, 0),
    "slot-b": (ROOT, 0),
    "data": (DATA, 0),
}
"""Declared: every partition in its order, with its type and attributes (bit 2: legacy BIOS bootable)."""
_SIZES = (512, 4096)
_ENTRIES, _ENTRY, _HEADER = 128, 128, 92


@dataclass(frozen=True)
class Header:
    """A header of the partition table; all places are in sectors.

    ``at`` is where it was read; by its own fields ``mine`` is its place and ``other`` that of the other copy, ``first``
    and ``last`` are the sectors that partitions may use, and ``entries`` is where the table begins.
    """

    at: int
    mine: int
    other: int
    first: int
    last: int
    disk: bytes
    entries: int


@dataclass(frozen=True)
class Disk:
    """An image with the sizes that its partitions must have, in bytes."""

    view: View
    sizes: Mapping[str, int]

    @property
    def sector(self) -> int:
        """Bytes of a sector: where the table is found.

        Raises:
            TreeError: there is none.
        """
        found = [size for size in _SIZES if self.view.read(size, 8) == b"EFI PART"]
        if len(found) != 1:
            raise TreeError("there is no partition table" if not found else "there are two partition tables")
        return found[0]

    def header(self, at: int) -> Header:
        """Return the header in sector ``at``.

        Raises:
            TreeError: it is none, or not of the one known form.
        """
        raw = self.view.read(at * self.sector, self.sector).ljust(self.sector, b"\0")
        signature, revision, length, crc, zero, mine, other, first, last, disk, entries, count, size, _ = (
            struct.unpack_from("<8s4I4Q16sQ3I", raw)
        )
        if (signature, revision, length, count, size) != (b"EFI PART", 0x10000, _HEADER, _ENTRIES, _ENTRY):
            raise TreeError(f"sector {at} has no header of a partition table, or one of an unknown form")
        if zero or any(raw[_HEADER:]) or zlib.crc32(raw[:16] + bytes(4) + raw[20:_HEADER]) != crc:
            raise TreeError(f"the table's header in sector {at} is damaged")
        return Header(at, mine, other, first, last, disk, entries)

    def table(self, header: Header) -> bytes:
        """Return the table that a header names, as bytes.

        Raises:
            TreeError: their sum is wrong.
        """
        raw = self.view.read(header.entries * self.sector, _ENTRIES * _ENTRY)
        (crc,) = struct.unpack_from("<I", self.view.read(header.at * self.sector, _HEADER), 88)
        if len(raw) != _ENTRIES * _ENTRY or zlib.crc32(raw) != crc:
            raise TreeError(f"the table that the header in sector {header.at} names is damaged")
        return raw

    def partitions(self) -> list[tuple[str, int, int]]:
        """Return (name, first byte, end) of each partition by the first table.

        Raises:
            TreeError: there is no table.
        """
        return [(name, first, end) for name, _, _, first, end in self._entries()]

    def _entries(self) -> list[tuple[str, uuid.UUID, int, int, int]]:
        raw = self.table(self.header(1))
        found = []
        for at in range(0, len(raw), _ENTRY):
            kind, _, first, last, attributes, name = struct.unpack_from("<16s16sQQQ72s", raw, at)
            if any(raw[at : at + _ENTRY]):
                text = name.decode("utf-16-le", "replace").rstrip("\0")
                place = (first * self.sector, (last + 1) * self.sector)
                found.append((text, uuid.UUID(bytes_le=kind), attributes, *place))
        return found

    def with_table(self, change: Callable[[list[bytes]], list[bytes]]) -> Disk:
        """Return the disk with other entries in both copies, with correct checksums, as a forger would write them."""
        view, first = self.view, self.header(1)
        raw = self.table(first)
        used = [raw[at : at + _ENTRY] for at in range(0, len(raw), _ENTRY) if any(raw[at : at + _ENTRY])]
        table = b"".join(change(used)).ljust(len(raw), b"\0")
        for header in (first, self.header(first.other)):
            head = bytearray(view.read(header.at * self.sector, _HEADER))
            struct.pack_into("<I", head, 88, zlib.crc32(table))
            struct.pack_into("<I", head, 16, 0)
            struct.pack_into("<I", head, 16, zlib.crc32(head))
            view = view.plant(header.at * self.sector, bytes(head)).plant(header.entries * self.sector, table)
        return replace(self, view=view)


def find(disk: Disk) -> Iterator[str]:
    """Yield what differs from the declared table, and bytes outside of partitions that are not zero."""
    sector = disk.sector
    first = disk.header(1)
    end = disk.view.size // sector - 1
    if disk.view.size % sector or first.other != end:
        yield f"{disk.view.size} bytes, and the table ends the disk at {(first.other + 1) * sector}"
    yield from _boot_record(disk.view.read(0, sector), first.other)
    entries = disk._entries()
    declared = list(PARTITIONS)
    if [entry[0] for entry in entries] != declared:
        yield f"its partitions are {', '.join(repr(entry[0]) for entry in entries)}, not {', '.join(declared)}"
    for name, kind, attributes, begin, behind in entries:
        if (kind, attributes) != PARTITIONS.get(name):
            yield f"{name!r} is of type {kind}, attributes {attributes:#x}"
        if behind - begin != disk.sizes.get(name):
            yield f"{name!r} has {behind - begin} bytes, not {disk.sizes.get(name)}"
    raw = disk.table(first)
    unique = {raw[at + 16 : at + 32] for at in range(0, len(entries) * _ENTRY, _ENTRY)}
    if len(unique) != len(entries) or first.disk in unique or bytes(16) in unique | {first.disk}:
        yield "two partitions have the same identifier, or one has none"
    # The firmware uses the second copy when the first one is damaged.
    try:
        second = disk.header(first.other)
        if replace(second, at=1, mine=second.other, other=second.mine, entries=first.entries) != first:
            yield "the second copy of the header tells of another disk"
        if disk.table(second) != raw:
            yield "the second copy of the table has other partitions"
    except TreeError as error:
        yield f"the second copy: {error}"
        return
    yield from _between(disk, first, second)


def _boot_record(raw: bytes, last: int) -> Iterator[str]:
    """Yield what is wrong with the protective MBR (section 5.2.3), whose code a BIOS would run."""
    if any(raw[:446]):
        yield "the boot record has code or a signature of its own"
    status, _, kind, _, start, size = struct.unpack_from("<B3sB3sII", raw, 446)
    if (status, kind, start) != (0, 0xEE, 1) or size not in (last, 0xFFFFFFFF) or any(raw[462:510]):
        yield "the boot record has other partitions than the one that protects the disk"
    if raw[510:512] != b"\x55\xaa" or any(raw[512:]):
        yield "the boot record has no signature, or something behind it"


def _between(disk: Disk, first: Header, second: Header) -> Iterator[str]:
    """Yield overlaps, partitions outside their area, and bytes outside of partitions that are not zero."""
    sector = disk.sector
    at = 0
    for begin, behind in _taken(disk, first, second):
        if begin < at:
            yield f"sectors {begin} to {min(at, behind) - 1} are used twice"
        for here, there in disk.view.differences(None, at * sector, begin * sector):
            yield f"{there - here} bytes at {here:#x}, in no partition, are not zero"
        at = max(at, behind)
    for here, there in disk.view.differences(None, at * sector, disk.view.size):
        yield f"{there - here} bytes at {here:#x}, behind the second table, are not zero"
    for name, begin, behind in disk.partitions():
        if not first.first * sector <= begin < behind <= (first.last + 1) * sector:
            yield f"{name!r} is outside of where partitions may be"


def _taken(disk: Disk, first: Header, second: Header) -> list[tuple[int, int]]:
    """Return the sectors in use, as (first, behind the last): boot record, both copies of the table, partitions."""
    sector = disk.sector
    length = _ENTRIES * _ENTRY // sector
    copies = [(header.entries, header.entries + length) for header in (first, second)]
    partitions = [(begin // sector, behind // sector) for _, begin, behind in disk.partitions()]
    return sorted([(0, 2), *copies, (second.at, second.at + 1), *partitions])


def _entry(kind: uuid.UUID, first: int, last: int, name: str, attributes: int = 0) -> bytes:
    own = uuid.uuid5(kind, name).bytes_le
    return struct.pack("<16s16sQQQ72s", kind.bytes_le, own, first, last, attributes, name.encode("utf-16-le"))


def _changed(number: int, at: int, layout: str, value: object, entries: list[bytes]) -> list[bytes]:
    entry = bytearray(entries[number])
    struct.pack_into(layout, entry, at, value)
    return [*entries[:number], bytes(entry), *entries[number + 1 :]]


def second_esp(entries: list[bytes]) -> list[bytes]:
    """Return the entries with one more partition that firmware would boot, in the second half of slot B."""
    first, last = struct.unpack_from("<QQ", entries[2], 32)
    middle = (first + last) // 2 | 7
    halved = _changed(2, 40, "<Q", middle, entries)
    return [*halved, _entry(ESP, middle + 1, last, "esp", 4)]


def gap(disk: Disk) -> int:
    """Return the offset of a byte outside of partitions: between two if there is room, else behind a header."""
    first = disk.header(1)
    taken = _taken(disk, first, disk.header(first.other))
    for (_, end), (begin, _) in pairwise(taken):
        if begin > end:
            return end * disk.sector
    return first.other * disk.sector + _HEADER


def _flip(at: int) -> Callable[[Disk], Disk]:
    return lambda disk: replace(disk, view=disk.view.flip(at))


def _table(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Disk], Disk]:
    return lambda disk: disk.with_table(change)


def _backup(disk: Disk) -> Disk:
    """Return the disk with another table in the second copy alone, with correct checksums."""
    both = disk.with_table(second_esp).view
    first = disk.header(1)
    length = _ENTRIES * _ENTRY
    view = disk.view
    for at, size in ((first.at * disk.sector, _HEADER), (first.entries * disk.sector, length)):
        both = both.plant(at, view.read(at, size))
    return replace(disk, view=both)


CHECK: FlashCheck[Disk] = FlashCheck(
    "partitions",
    "both partition tables against the declared partitions, sizes and types; zeroes everywhere outside of partitions",
    find,
    {
        "second esp": _table(second_esp),
        "another type": _table(partial(_changed, 3, 0, "<16s", ESP.bytes_le)),
        "another name": _table(partial(_changed, 2, 56, "<4s", b"x\0y\0")),
        "attribute": _table(partial(_changed, 1, 48, "<Q", 1)),
        "overlap": _table(lambda entries: _changed(3, 32, "<8s", entries[2][40:48], entries)),
        "another order": _table(lambda entries: [entries[2], entries[1], entries[0], entries[3]]),
        "smaller": _table(partial(_changed, 1, 40, "<Q", 100_000)),
        "same identifier": _table(lambda entries: _changed(2, 16, "<16s", entries[1][16:32], entries)),
        "boot code": _flip(0),
        "second copy": _backup,
        "bytes behind the end": lambda disk: replace(disk, view=disk.view.plant(disk.view.size, b"x" * 512)),
        "between table and partitions": lambda disk: replace(disk, view=disk.view.flip(gap(disk))),
    },
)
