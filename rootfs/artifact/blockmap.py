"""Block maps, by which bmaptool(1) flashes an image: format version 2.0 (bmap-tools, Documentation).

A map that bmaptool itself makes omits the holes of the image's file. But which zeros are holes depends on the program
that copied the file last, and on a medium that was used before, omitted blocks keep their old contents: a FAT would be
full of lost chains, and an old journal would be replayed. So this map names every block, and after flashing the medium
has exactly the bytes of the image.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path

from rootfs.artifact.gpt import Table
from rootfs.spec.blocks import BLOCK

_CHUNK = 2**20


def write(image: Path, table: Table) -> Path:
    """Make ``<image>.bmap``: a range with a checksum for each partition, and for the blocks before and after them."""
    edges = sorted({0, table.size, *(edge for p in table.partitions for edge in (p.start, p.start + p.size))})
    ranges = "".join(
        f'        <Range chksum="{_sha256(image, start, end)}"> {start // BLOCK}-{end // BLOCK - 1} </Range>\n'
        for start, end in itertools.pairwise(edges)
    )
    blocks = table.size // BLOCK
    target = image.with_name(f"{image.name}.bmap")
    empty = "0" * 64
    text = f"""<?xml version="1.0" ?>
<!-- Which blocks bmaptool has to write: all of them, so that nothing of what was on the medium is left. -->
<bmap version="2.0">
    <ImageSize> {table.size} </ImageSize>
    <BlockSize> {BLOCK} </BlockSize>
    <BlocksCount> {blocks} </BlocksCount>
    <MappedBlocksCount> {blocks} </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> {empty} </BmapFileChecksum>
    <BlockMap>
{ranges}    </BlockMap>
</bmap>
"""
    # The checksum of the map is computed while its own field holds zeros (bmap-tools).
    target.write_text(text.replace(empty, hashlib.sha256(text.encode()).hexdigest()))
    return target


def _sha256(image: Path, start: int, end: int) -> str:
    digest = hashlib.sha256()
    with image.open("rb") as file:
        file.seek(start)
        for chunk in _chunks(start, end):
            digest.update(file.read(chunk))
    return digest.hexdigest()


def _chunks(start: int, end: int) -> Iterable[int]:
    while start < end:
        yield min(_CHUNK, end - start)
        start += _CHUNK
