"""Blocks of the appliance's disk: declared here for the partition layout and for what repairs the data partition."""

from __future__ import annotations

from rootfs.spec.profile import Disk

BLOCK = 4096
"""Bytes of a block of ext4, of dm-verity and of the block map: whole sectors of every disk."""


def group_blocks(disk: Disk) -> int:
    """Blocks of a group of the data partition's ext4: a quarter of it, at most what ext4 can have.

    The second group begins with a copy of the superblock (ext4(5), sparse_super), so even the smallest partition has
    one.
    """
    return min(8 * BLOCK, disk.data_mib * 2**20 // BLOCK // 4)
