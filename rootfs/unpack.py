"""Takes an image apart: its files as they are in it, not as the build had them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rootfs import arch
from rootfs.errors import CommandError, SallyportError
from rootfs.imagefile import ImageFile, partitions
from rootfs.tools import Tools

VM = "usr/share/sallyport/frontend"
"""Where the VM is in the host's root file system."""
ROOT = "root.squashfs"
"""The VM's root file system, there."""


@dataclass(frozen=True)
class Unpacked:
    """Below ``folder``: the root file systems of host and VM, and the unified kernel image that boots the host."""

    folder: Path
    host: Path
    vm: Path
    kernel: Path


def unpack(tools: Tools, image: ImageFile, folder: Path) -> Unpacked:
    """Unpack an image into ``folder``, which exists.

    Raises:
        SallyportError: the image holds no such file system.
    """
    source = folder / "image"
    # A link and not a copy: the tools tree sees this folder alone.
    try:
        source.hardlink_to(image.path)
    except OSError:
        shutil.copyfile(image.path, source)
    parts = partitions(image.path)
    try:
        tools.run(["unsquashfs", "-q", "-n", "-o", str(parts["slot-a"]), "-d", "host", source.name], build=folder)
        tools.run(["unsquashfs", "-q", "-n", "-d", "vm", f"host/{VM}/{ROOT}"], build=folder)
        kernel = f"::/{arch.ALL[image.profile.arch].uki}"
        tools.run(["mcopy", "-n", "-i", f"{source.name}@@{parts['esp']}", kernel, "kernel.efi"], build=folder)
    except CommandError as error:
        raise SallyportError(f"{image.path}: its files cannot be unpacked: {error}", "build the image again") from error
    return Unpacked(folder, folder / "host", folder / "vm", folder / "kernel.efi")
