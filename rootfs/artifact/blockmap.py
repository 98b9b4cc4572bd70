"""Block maps, by which bmaptool(1) flashes an image: format version 2.0 (bmap-tools, Documentation).

A map from bmaptool itself names the blocks that are no holes of the image's file. But whether zeros are a hole is a
matter of the tool that copied the file last, and on a medium that was used before a block that is left out is not zero:
a FAT is full of lost chains, and an old journal is replayed. So ours names every block: the medium *is* the image, and
nothing of a former owner's is left below it.
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
    """Make ``<image>.bmap``: a range with a checksum for each partition, and for what is before and after them."""
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
    # The checksum of the file is made while its own place holds zeros.
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
