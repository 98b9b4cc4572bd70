"""GUID partition tables, written and read, in sectors of 512 or of 4096 bytes (UEFI specification 2.10, section 5.3).

Own code, because no program of the tools tree writes a table in sectors of 4096 bytes into a file; and because sfdisk
accepts damaged and truncated tables (docs/decisions/gpt-reader.md).
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from rootfs.base import untrusted
from rootfs.base.errors import SallyportError

SECTORS = (512, 4096)
"""Sizes of logical blocks that disks have, in bytes."""
_SIGNATURE = b"EFI PART"
_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")
"""Section 5.3.2: signature, revision, length, checksum, reserved; this header, the other, first and last usable block;
disk; where the entries are, how many, how long, their checksum."""
_ENTRY = struct.Struct("<16s16sQQQ72s")
"""Section 5.3.3: type, identifier, first and last block, attributes, name."""
_ENTRIES = 128
_REVISION = 0x10000
_PROTECTIVE = struct.Struct("<B3sB3sII")
"""Section 5.2.3: one partition of type 0xEE over the whole disk, at byte 446."""


@dataclass(frozen=True)
class Partition:
    """One partition; ``start`` and ``size`` in bytes."""

    name: str
    type: UUID
    identifier: UUID
    start: int
    size: int


@dataclass(frozen=True)
class Table:
    """A disk of ``size`` bytes with its partitions, in the order of the table."""

    sector: int
    size: int
    disk: UUID
    partitions: tuple[Partition, ...]


def write(file: BinaryIO, table: Table) -> None:
    """Write the protective MBR, the table and its copy at the end into a file of ``table.size`` bytes.

    Raises:
        ValueError: a partition does not lie on whole sectors, overlaps another one or the table.
    """
    sector = table.sector
    blocks = table.size // sector
    room = _ENTRIES * _ENTRY.size // sector
    first, last = 2 + room, blocks - 2 - room
    entries = bytearray()
    end = first
    for part in sorted(table.partitions, key=lambda part: part.start):
        if part.start % sector or part.size % sector or part.size <= 0 or part.start // sector < end:
            raise ValueError(f"partition {part.name}: {part.start} and {part.size} bytes")
        end = (part.start + part.size) // sector
    if table.size % sector or end > last + 1:
        raise ValueError(f"a disk of {table.size} bytes is too small")
    for part in table.partitions:
        begin, after = part.start // sector, (part.start + part.size) // sector
        name = part.name.encode("utf-16-le")
        entries += _ENTRY.pack(part.type.bytes_le, part.identifier.bytes_le, begin, after - 1, 0, name)
    entries = entries.ljust(_ENTRIES * _ENTRY.size, b"\0")

    def header(here: int, other: int, where: int) -> bytes:
        fields = [_SIGNATURE, _REVISION, _HEADER.size, 0, 0, here, other, first, last, table.disk.bytes_le]
        fields += [where, _ENTRIES, _ENTRY.size, zlib.crc32(entries)]
        fields[3] = zlib.crc32(_HEADER.pack(*fields))
        return _HEADER.pack(*fields).ljust(sector, b"\0")

    protective = _PROTECTIVE.pack(0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(blocks - 1, 0xFFFFFFFF))
    file.seek(0)
    file.write((bytes(446) + protective + bytes(48) + b"\x55\xaa").ljust(sector, b"\0"))
    file.write(header(1, blocks - 1, 2) + entries)
    file.seek((blocks - 1 - room) * sector)
    file.write(bytes(entries) + header(blocks - 1, 1, blocks - 1 - room))


def read(path: Path) -> Table:
    """Read the partition table of an untrusted image.

    Raises:
        SallyportError: there is no intact table or more than one, or the file does not have the length in the table.
    """
    with untrusted.open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        found = [sector for sector in SECTORS if _at(file, sector, len(_SIGNATURE)) == _SIGNATURE]
        if not found:
            raise SallyportError(
                f"{path} is not a disk image: it has no GUID partition table", "`invoke image` makes one"
            )
        if len(found) > 1:
            raise SallyportError(
                f"{path} has two partition tables, for sectors of {' and '.join(map(str, found))} bytes",
                "build or copy the image again",
            )
        (sector,) = found
        header = _at(file, sector, _HEADER.size).ljust(_HEADER.size, b"\0")
        (_, _, length, crc, _, _, _, _, _, disk, start, count, entry, entries_crc) = _HEADER.unpack(header)
        if length != _HEADER.size or zlib.crc32(header[:16] + bytes(4) + header[20:]) != crc:
            raise SallyportError(f"{path}: the partition table's header is damaged", "build or copy the image again")
        other = int.from_bytes(header[32:40], "little")
        if size != (other + 1) * sector:
            raise SallyportError(
                f"{path} has {size} bytes, its partition table says {(other + 1) * sector}: it is truncated or padded",
                "build or copy the image again",
            )
        if not (entry == _ENTRY.size and count <= _ENTRIES):
            raise SallyportError(
                f"{path}: the partition table has entries of an unknown size or number", "build the image again"
            )
        entries = _at(file, start * sector, entry * count)
    if zlib.crc32(entries) != entries_crc:
        raise SallyportError(f"{path}: the partition table is damaged", "build or copy the image again")
    parts = []
    for kind, identifier, first, last, _, name in _ENTRY.iter_unpack(entries):
        if any(kind):
            called = name.decode("utf-16-le", "replace").rstrip("\0")
            place = (first * sector, (last + 1 - first) * sector)
            parts.append(Partition(called, UUID(bytes_le=kind), UUID(bytes_le=identifier), *place))
    return Table(sector, size, UUID(bytes_le=disk), tuple(parts))


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    """Bytes of a file; fewer or none beyond its end (a table may name any 64-bit offset)."""
    if offset >= 2**62:
        return b""
    file.seek(offset)
    return file.read(length)
