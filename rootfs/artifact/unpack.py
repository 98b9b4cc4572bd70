"""Unpacks an image: the files as they are in it, not as the build had them.

The image is untrusted, so the programs that read it are confined (`rootfs.base.tools_tree`). Owners of files are
shifted by `rootfs.base.process.FIRST_ID` here, the first id of those programs.
"""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from rootfs.artifact.imagefile import ImageFile, partitions
from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.tools_tree import Confined, Tools
from rootfs.spec import architecture

VM = "usr/share/sallyport/frontend"
"""Directory of the front-end VM's image in the host's root file system."""
ROOT = "root.squashfs"
"""File name of the VM's root file system in that directory."""

MAX_FILE, MAX_KERNEL, MAX_DEPTH, MAX_SECONDS = 1 << 30, 1 << 28, 80, 600
"""Limits for hostile images: bytes of a file and of the kernel, levels of directories, seconds of processor time."""


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
        SallyportError: the image has no such file system.
    """
    source = folder / "image"
    # A hard link, as the tools tree sees only this folder; a copy if other users may not read the image.
    try:
        if image.path.stat().st_mode & stat.S_IROTH == 0:
            raise PermissionError
        source.hardlink_to(image.path)
    except OSError:
        shutil.copyfile(image.path, source)
        source.chmod(0o444)
    owners, plain = Confined(owners=True), Confined()
    parts = partitions(image.path)
    try:
        unsquashfs = ["prlimit", f"--fsize={MAX_FILE}", f"--cpu={MAX_SECONDS}", "unsquashfs", "-q", "-n"]
        # Deeper than any check looks; checks refuse such trees, and what is unpacked can still be removed.
        unsquashfs += ["-max-depth", str(MAX_DEPTH)]
        begin = str(parts["slot-a"])
        tools.run([*unsquashfs, "-o", begin, "-d", "host", source.name], build=folder, confined=owners)
        tools.run([*unsquashfs, "-d", "vm", f"host/{VM}/{ROOT}"], build=folder, confined=owners)
        kernel = [
            "-i",
            f"{source.name}@@{parts['esp']}",
            f"::/{architecture.ALL[image.profile.arch].uki}",
            "kernel.efi",
        ]
        mcopy = ["prlimit", f"--fsize={MAX_KERNEL}", f"--cpu={MAX_SECONDS}", "mcopy", "-n"]
        tools.run([*mcopy, *kernel], build=folder, confined=plain)
    except CommandError as error:
        raise SallyportError(f"{image.path}: its files cannot be unpacked: {error}", "build the image again") from error
    return Unpacked(folder, folder / "host", folder / "vm", folder / "kernel.efi")
