"""Checks of the partitions: system partition, slots, data, and the whole image against the rebuilt one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from proof.image.flash.flash_check import FlashCheck
from proof.image.flash.view import Region, View

BLOCK = 4096


@dataclass(frozen=True)
class Files:
    """A partition with a file system: its bytes, the files in it (None: they cannot be listed), the declared ones."""

    region: Region
    listed: frozenset[str] | None
    declared: frozenset[str]


def _files(files: Files) -> Iterator[str]:
    if files.listed is None:
        yield f"{files.region.what}: its files cannot be listed"
    else:
        yield from (f"{files.region.what}: not declared: {name!r}" for name in sorted(files.listed - files.declared))
        yield from (f"{files.region.what}: missing: {name!r}" for name in sorted(files.declared - files.listed))
    yield from files.region.findings()


def _flip(at: int) -> Callable[[Files], Files]:
    return lambda files: replace(files, region=files.region.flipped(at))


def _allocation_table(files: Files) -> Files:
    """The table follows the reserved sectors (Microsoft, "FAT file system specification", section 3.1)."""
    region = files.region
    size, _, reserved = struct.unpack("<HBH", region.actual.read(region.start + 11, 5))
    return replace(files, region=region.flipped(size * reserved + 1))


def esp(listed: Callable[[], frozenset[str] | None]) -> FlashCheck[Files]:
    """Return the check of the system partition; ``listed`` lists a copy with a planted addon of systemd-stub."""
    return FlashCheck(
        "esp",
        "the system partition, byte by byte, against the one that this checkout builds; every file in it",
        _files,
        {
            "addon": lambda files: replace(files, listed=listed()),
            "boot sector": _flip(0x60),
            "allocation table": _allocation_table,
            "free space": _flip(-1),
        },
    )


def data(listed: Callable[[], frozenset[str] | None]) -> FlashCheck[Files]:
    """Return the check of the data partition; ``listed`` lists a copy with a planted file."""
    return FlashCheck(
        "data",
        "the data partition, byte by byte, against the empty one that this checkout builds; every file in it",
        _files,
        {
            "file": lambda files: replace(files, listed=listed()),
            "superblock": _flip(1024 + 0x38),
            "middle": lambda files: _flip((files.region.end - files.region.start) // 2)(files),
            "free space": _flip(-1),
        },
    )


@dataclass(frozen=True)
class Verity:
    """Slot A beside one whose hash tree was recomputed over its data, and the command line that boots it.

    ``blocks`` of data; ``tree`` bytes of data and hash tree; ``system`` bytes by the file system's own header.
    """

    region: Region
    blocks: int
    tree: int
    system: int
    command_line: str
    argument: str


def _verity(verity: Verity) -> Iterator[str]:
    words = verity.command_line.split()
    yield from (f"the command line does not say {word}" for word in verity.argument.split() if word not in words)
    if -(-verity.system // BLOCK) != verity.blocks:
        yield f"{verity.blocks} blocks are verified, but the file system has {verity.system} bytes"
    region = verity.region
    # Only the hash tree is compared: the data of the rebuilt slot were taken from this one.
    begin = region.start + verity.blocks * BLOCK
    for first, last in region.actual.differences(region.made, begin, region.end):
        where = "the hash tree" if first - region.start < verity.tree else "behind the hash tree"
        yield f"slot-a: {last - first} bytes at {first - region.start:#x}, {where}, differ from the recomputed tree"


def _slot_a(at: Callable[[Verity], int]) -> Callable[[Verity], Verity]:
    return lambda verity: replace(verity, region=verity.region.flipped(at(verity)))


VERITY: FlashCheck[Verity] = FlashCheck(
    "verity",
    "the hash tree of slot A, recomputed; its root hash against the command line; zeroes behind it",
    _verity,
    {
        "root": _slot_a(lambda verity: verity.blocks * BLOCK),
        "leaf": _slot_a(lambda verity: verity.tree - BLOCK),
        "behind the tree": _slot_a(lambda verity: verity.tree),
        "end": _slot_a(lambda verity: -1),
        "another root hash": lambda verity: replace(
            verity, command_line=verity.command_line.replace("roothash=", "roothash=0", 1)
        ),
        "fewer blocks": lambda verity: replace(verity, system=verity.system + BLOCK),
    },
)


def _region(region: Region) -> Iterator[str]:
    yield from region.findings()
    if region.made is not None and region.made.size != region.actual.size:
        yield f"{region.what} has {region.actual.size} bytes, not {region.made.size}"


SLOT_B: FlashCheck[Region] = FlashCheck(
    "slot-b",
    "slot B: all zeroes, as nothing is written there before the first update",
    _region,
    {
        "first byte": lambda region: region.flipped(0),
        "middle": lambda region: region.flipped((region.end - region.start) // 2),
        "last byte": lambda region: region.flipped(-1),
    },
)


def _part(part: int, region: Region) -> Region:
    return region.flipped(region.end // 4 * part)


def _longer(region: Region) -> Region:
    return replace(region, actual=region.actual.plant(region.actual.size, b"x"))


WHOLE: FlashCheck[Region] = FlashCheck(
    "whole",
    "every byte of the image against the one that this checkout builds of its root file system and its kernel",
    _region,
    {
        "first byte": lambda region: region.flipped(0),
        **{f"{part}/4": partial(_part, part) for part in range(1, 4)},
        "last byte": lambda region: region.flipped(-1),
        "longer": _longer,
    },
)


def whole(actual: View, made: View) -> Region:
    """Return the region that is the whole image."""
    return Region("the image", actual, made, 0, max(actual.size, made.size))
