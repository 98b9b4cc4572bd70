"""State of the data partition: what the initramfs found at boot, and what has happened since.

The initramfs writes its finding to a file before anything else runs (``overlays/host_initramfs/init.j2``).
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from backend.common import store
from backend.protocol.system import Storage, StorageState

log = logging.getLogger("storage")

SLOT = "slot-a"
"""Partition name by which a disk is recognized as an appliance's (rootfs/artifact/layout.py)."""
FULL = 256 * 1024
"""Free bytes below which the data partition counts as full; no file of settings is larger."""
_LIMIT = 4096

TEXTS: dict[StorageState, str] = {
    "ok": "",
    "repaired": "The data partition was damaged, and was repaired at the last start. Files may be lost: check the "
    "settings.",
    "full": "The data partition is full: changes may not be kept. If this lasts, flash the image again.",
    "read-only": "The data partition became read-only after an error: nothing can be changed. Reboot, the next start "
    "repairs it. If this comes back, replace the disk.",
    "copy": "The data partition cannot be written. A copy in memory takes its place: settings are in force, changes "
    "are lost at the next start. Replace the disk.",
    "temporary": "There is no usable data partition. A temporary one in memory takes its place: settings are as new, "
    "and lost at the next start. Flash the image again, or replace the disk.",
    "second-disk": "Two disks have a partition slot-a. The appliance restarts, and does not come up until the disk "
    "that does not belong here is unplugged.",
    "unknown": "What the start found on the data partition is not known. Reboot.",
}
"""What each state means and what to do. If several apply, the worst is reported."""


class BootFinding(Struct, frozen=True, forbid_unknown_fields=True):
    """What the initramfs found."""

    state: Literal["ok", "repaired", "copy", "temporary"]


def at_start(path: Path) -> StorageState:
    """The state in the file; ``unknown`` if it is missing or damaged."""
    try:
        return msgspec.json.decode(store.read(path, _LIMIT), type=BootFinding).state
    except (OSError, ValueError, msgspec.DecodeError) as error:
        log.error("%s: %s", path, ascii(str(error)))
        return "unknown"


def second_slot(devices: Path) -> bool:
    """Whether more than one partition below /sys/class/block is named `SLOT`."""
    count = 0
    for device in devices.iterdir() if devices.is_dir() else ():
        try:
            lines = store.read(device / "uevent", _LIMIT).decode("ascii", "replace").splitlines()
        except OSError:
            continue  # the device has just been unplugged
        count += f"PARTNAME={SLOT}" in lines
    return count > 1


def failed(file_systems: Path) -> bool:
    """Whether a file system below /sys/fs/ext4 had an error since its last check (kernel: sysfs-fs-ext4).

    Since Linux 6.12 it then fails every change with EIO, although its mount flags do not say read-only.
    """
    counts = []
    for path in file_systems.glob("*/errors_count"):
        with contextlib.suppress(OSError, ValueError):  # it has just been unmounted
            counts.append(int(store.read(path, _LIMIT)))
    return any(counts)


def state(found: StorageState, data: os.statvfs_result, *, failed: bool, second: bool) -> Storage:
    """The worst state that applies: of what was found at boot and what is found now.

    Args:
        found: from `at_start`.
        data: of the mounted data partition.
        failed: from `failed`.
        second: from `second_slot`.
    """
    worst: StorageState = found
    if second:
        worst = "second-disk"
    elif found not in ("temporary", "copy"):
        if failed or data.f_flag & os.ST_RDONLY:
            worst = "read-only"
        elif data.f_bavail * data.f_frsize < FULL:
            worst = "full"
    return Storage(worst, TEXTS[worst])
