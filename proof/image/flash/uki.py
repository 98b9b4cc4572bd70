"""The unified kernel image: what the firmware starts (UAPI.5), a PE image of sections (Microsoft, "PE format")."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from proof.declared.words import words
from proof.image.flash.flash_check import FlashCheck
from proof.image.tree.entries import TreeError

MAX_UKI = 1 << 28
"""Bytes of a unified kernel image that is read, at most."""
_MAX_SECTIONS = 32
CONTENT = (".osrel", ".cmdline", ".linux", ".initrd")
"""Declared: what the image says of itself, the command line, the kernel, the initial RAM file system: each once. No
.ucode, .dtb, .profile, .pcrsig, and so no second kernel, command line or archive in another profile."""
STUB = words(".text .rodata .data .sbat .sdmagic .reloc")
"""Declared: the sections of systemd's stub, the code that loads the others."""


@dataclass(frozen=True)
class Section:
    """A section: ``content`` starts at ``offset`` in the file; ``header`` is where the table names it."""

    name: str
    content: bytes
    offset: int
    header: int


def sections(data: bytes) -> list[Section]:
    """Return the sections in the order of the table.

    Raises:
        TreeError: it is no PE image, or a section is not in it.
    """
    try:
        (at,) = struct.unpack_from("<I", data, 0x3C)
        if data[:2] != b"MZ" or data[at : at + 4] != b"PE\0\0":
            raise TreeError("the unified kernel image is no PE image")
        count, optional = struct.unpack_from("<H12xH", data, at + 6)
        if count > _MAX_SECTIONS:
            raise TreeError(f"the unified kernel image has {count} sections")
        found = []
        for header in range(at + 24 + optional, at + 24 + optional + 40 * count, 40):
            name, size, raw, offset = struct.unpack_from("<8sI4xII", data, header)
            if offset + raw > len(data):
                raise TreeError(f"section {name!r} of the unified kernel image is not in the file")
            # What is in memory may be more than what is in the file: zeroes; or less: padding of the file.
            content = data[offset : offset + min(size, raw)]
            found.append(Section(name.rstrip(b"\0").decode("ascii", "replace"), content, offset, header))
    except struct.error as error:
        raise TreeError(f"the unified kernel image is cut short: {error}") from error
    return found


def content(data: bytes, name: str) -> bytes:
    """Return the content of the first section of that name; `find` reports a second one.

    Raises:
        TreeError: there is none.
    """
    for section in sections(data):
        if section.name == name:
            return section.content
    raise TreeError(f"the unified kernel image has no section {name}")


@dataclass(frozen=True)
class Uki:
    """The unified kernel image of the system partition, beside the one that this checkout builds with the same kernel.

    ``declared`` is the SHA-256 that the manifest has for the kernel, ``kernel`` that of the one that is there.
    """

    actual: bytes
    made: bytes
    declared: str
    kernel: str


def find(uki: Uki) -> Iterator[str]:
    """Yield what differs from the declaration and from the rebuilt image."""
    try:
        actual = sections(uki.actual)
    except TreeError as error:
        yield str(error)
        return
    counts = Counter(section.name for section in actual)
    for name, count in sorted(counts.items()):
        if count != 1 or name not in STUB | {*CONTENT}:
            yield f"section {name!r} is there {count} times" if count != 1 else f"section {name!r} is not declared"
    yield from (f"section {name!r} is missing" for name in CONTENT if name not in counts)
    if uki.kernel != uki.declared:
        yield "the kernel is not the one that the manifest declares"
    if uki.actual == uki.made:
        return
    made = {section.name: section for section in sections(uki.made)}
    same = True
    for section in actual:
        if section.name in made and section.content != made[section.name].content:
            same = False
            whose = "the stub's of this checkout" if section.name in STUB else "what this checkout builds"
            yield f"section {section.name!r} is not {whose}"
    if len(uki.actual) > len(uki.made) and same:
        yield f"{len(uki.actual) - len(uki.made)} bytes are behind the last section"
    elif same:
        at = next((i for i, (a, b) in enumerate(zip(uki.actual, uki.made, strict=False)) if a != b), len(uki.actual))
        yield f"bytes outside of the sections (headers or padding) differ from offset {at:#x} on"


def _put(at: int, data: bytes) -> Callable[[Uki], Uki]:
    return lambda uki: replace(uki, actual=uki.actual[:at] + data + uki.actual[at + len(data) :])


def _in(name: str) -> Callable[[Uki], Uki]:
    """Return a planted control: a changed byte in the middle of a section."""

    def plant(uki: Uki) -> Uki:
        section = next(section for section in sections(uki.actual) if section.name == name)
        at = section.offset + len(section.content) // 2
        return _put(at, bytes([uki.actual[at] ^ 0xFF]))(uki)

    return plant


def _renamed(name: str, other: str) -> Callable[[Uki], Uki]:
    def plant(uki: Uki) -> Uki:
        section = next(section for section in sections(uki.actual) if section.name == name)
        return _put(section.header, other.encode().ljust(8, b"\0"))(uki)

    return plant


def _entry_point(uki: Uki) -> Uki:
    (at,) = struct.unpack_from("<I", uki.actual, 0x3C)
    return _put(at + 24 + 16, b"\x10\x10\0\0")(uki)


CHECK: FlashCheck[Uki] = FlashCheck(
    "kernel-image",
    "the unified kernel image, byte by byte, against the one this checkout builds; its kernel against the manifest",
    find,
    {
        "kernel": _in(".linux"),
        "kernel of another manifest": lambda uki: replace(uki, declared="0" * 64),
        "initial RAM file system": _in(".initrd"),
        "command line": _in(".cmdline"),
        "stub": _in(".text"),
        "entry point": _entry_point,
        "second command line": _renamed(".osrel", ".cmdline"),
        "microcode": _renamed(".osrel", ".ucode"),
        "behind the end": lambda uki: replace(uki, actual=uki.actual + bytes(512)),
    },
)
