"""Where settings are kept, and whether that holds: what the first program of the host found, and what became of it.

That program writes a file once, before anything else runs (``overlays/host_initramfs/init.j2``).
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
"""Name of the partition that makes a disk an appliance's (rootfs/artifact/layout.py)."""
FULL = 256 * 1024
"""Bytes of the data partition below which it counts as full: no file of settings is larger."""
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
"""What each state means, and what to do; the worst that holds is told."""


class Found(Struct, frozen=True, forbid_unknown_fields=True):
    """What the first program of the host found."""

    state: Literal["ok", "repaired", "copy", "temporary"]


def at_start(path: Path) -> StorageState:
    """What the file says; ``unknown`` if it is missing or not such a file."""
    try:
        return msgspec.json.decode(store.read(path, _LIMIT), type=Found).state
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
            continue  # just unplugged
        count += f"PARTNAME={SLOT}" in lines
    return count > 1


def failed(file_systems: Path) -> bool:
    """Whether a file system below /sys/fs/ext4 met an error since it was last checked (kernel: sysfs-fs-ext4).

    It is then read-only, although it does not say so: since Linux 6.12 it refuses what would change it with EIO.
    """
    counts = []
    for path in file_systems.glob("*/errors_count"):
        with contextlib.suppress(OSError, ValueError):  # just unmounted
            counts.append(int(store.read(path, _LIMIT)))
    return any(counts)


def state(found: StorageState, data: os.statvfs_result, *, failed: bool, second: bool) -> Storage:
    """The worst that holds: of what was found at the start and what is now.

    Args:
        found: by `at_start`.
        data: of the mounted data partition.
        failed: by the function of that name.
        second: by `second_slot`.
    """
    said: StorageState = found
    if second:
        said = "second-disk"
    elif found not in ("temporary", "copy"):
        if failed or data.f_flag & os.ST_RDONLY:
            said = "read-only"
        elif data.f_bavail * data.f_frsize < FULL:
            said = "full"
    return Storage(said, TEXTS[said])
