"""The files of an image as the proof reads them: unpacked from the image itself, not taken from the build."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rootfs.run import CommandError
from rootfs.tools import BUILD, Tools
from tests.probes.outside import Progress
from tests.probes.result import Result
from tests.probes.tree import run_tree
from tests.qemu.imagefile import ImageFile, partitions
from tests.qemu.machine import MachineError

_VM_ROOT = "usr/share/sallyport/frontend/root.squashfs"


def run(tools: Tools, host_tree: Path, vm_tree: Path) -> list[Result]:
    """The checks of both trees."""
    return run_tree(host_tree, vm_tree, None)


def unpack(tools: Tools, image: ImageFile, folder: Path) -> tuple[Path, Path]:
    """Unpack the host's root file system and, out of it, the VM's; returns both trees.

    Raises:
        MachineError: the image holds no such file system.
    """
    source = folder / "image"
    # A link and not a copy: the tools tree sees this folder alone.
    try:
        source.hardlink_to(image.path)
    except OSError:
        shutil.copyfile(image.path, source)
    try:
        offset = str(partitions(image.path)["slot-a"])
        tools.run(["unsquashfs", "-q", "-n", "-o", offset, "-d", "host", source.name], build=folder)
        tools.run(["unsquashfs", "-q", "-n", "-d", "vm", f"host/{_VM_ROOT}"], build=folder)
    except CommandError as error:
        raise MachineError(
            f"{image.path}: its file systems cannot be unpacked: {error}", "build the image again"
        ) from error
    return folder / "host", folder / "vm"


def prove(tools: Tools, image: ImageFile, *, say: Progress) -> list[Result]:
    """The checks of the image's own files.

    Raises:
        MachineError: they cannot be unpacked.
    """
    say("the files of the image", 0, 0)
    with tempfile.TemporaryDirectory(prefix="sallyport-tree-", dir=image.path.parent) as directory:
        return run(tools, *unpack(tools, image, Path(directory)))


__all__ = ["BUILD", "prove", "run", "unpack"]
