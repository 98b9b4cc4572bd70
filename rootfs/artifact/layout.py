"""The partitions of an appliance's disk, declared here alone:

    1 MiB            partition table, else unused
    esp              FAT: the unified kernel image
    slot-a           root file system and its hash tree
    slot-b           empty until the first update: a device in the field cannot be partitioned again
    data             ext4: everything that survives a restart
    1 MiB            unused, and the copy of the partition table

Every partition begins and ends at a whole MiB, so that no erase block of a flash memory belongs to two of them.
"""

from __future__ import annotations

import uuid
from uuid import UUID

from rootfs.artifact.gpt import Partition, Table
from rootfs.spec.profile import Disk

ALIGNMENT = 2**20
"""Bytes to whose multiples partitions are aligned."""
_SYSTEM = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_ROOT = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
_LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
TYPES: dict[str, UUID] = {"esp": _SYSTEM, "slot-a": _ROOT, "slot-b": _ROOT, "data": _LINUX}
"""All partitions, in the table's order, with their types (UEFI specification 2.10, table 5-7; the Discoverable
Partitions Specification)."""
VOLUME = 0x53414C4C
"""Serial number of the FAT file system."""
_NAMESPACE = UUID("5a11e907-0000-4000-8000-000000000001")
"""Namespace of the project's identifiers (RFC 9562, version 5): the same inputs give the same identifier."""


def identifier(identity: str, what: str) -> UUID:
    """The unique identifier of a partition, file system or disk.

    Args:
        identity: profile and root hash of the image.
        what: one of `TYPES`; ``disk``; ``file-system`` or ``hash`` (both of the data partition's ext4).
    """
    return uuid.uuid5(_NAMESPACE, f"{identity} {what}")


def table(disk: Disk, identity: str) -> Table:
    """The partition table of an image; ``identity`` as of `identifier`."""
    sizes = {"esp": disk.esp_mib, "slot-a": disk.slot_mib, "slot-b": disk.slot_mib, "data": disk.data_mib}
    start, parts = ALIGNMENT, []
    for name, kind in TYPES.items():
        size = sizes[name] * 2**20
        parts.append(Partition(name, kind, identifier(identity, name), start, size))
        start += size
    return Table(disk.sector_bytes, start + ALIGNMENT, identifier(identity, "disk"), tuple(parts))
