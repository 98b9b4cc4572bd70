"""A medium that was used before, and an image flashed onto it by bmaptool, as the README says."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from rootfs.base.tools_tree import Tools

_CHUNK = 2**20
_COPY = """
import sys
from bmaptool.BmapCopy import BmapCopy
with open("image", "rb") as image, open("image.bmap") as bmap, open("medium", "r+b") as medium:
    BmapCopy(image, medium, bmap).copy(sync=False, verify=True)
"""
"""What `bmaptool copy` does with a disk. A regular file its command would empty first."""


def pattern(size: int) -> Iterator[bytes]:
    """0xA5 everywhere."""
    for start in range(0, size, _CHUNK):
        yield b"\xa5" * min(_CHUNK, size - start)


def noise(size: int, seed: int) -> Iterator[bytes]:
    """Random bytes, the same for the same seed."""
    source = random.Random(seed)
    for start in range(0, size, _CHUNK):
        yield source.randbytes(min(_CHUNK, size - start))


def fill(medium: Path, chunks: Iterator[bytes]) -> None:
    """Make a medium of these bytes."""
    with medium.open("wb") as file:
        file.writelines(chunks)


def flash(tools: Tools, image: Path, medium: Path, bmap: Path | None = None) -> None:
    """Write an image onto a medium, by its block map or by another one. Both are on one file system.

    Raises:
        CommandError: bmaptool failed, of itself or because of a checksum.
    """
    folder = medium.with_name(f"{medium.name}.flash")
    folder.mkdir()
    try:
        (folder / "image").hardlink_to(image)
        (folder / "medium").hardlink_to(medium)
        shutil.copyfile(bmap or image.with_name(f"{image.name}.bmap"), folder / "image.bmap")
        tools.run(["python3", "-c", _COPY], build=folder)
    finally:
        shutil.rmtree(folder)
