"""Initial RAM file systems: cpio in the "newc" format (kernel: early-userspace/buffer-format.rst)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from rootfs.base.file_tree import MERGED
from rootfs.base.tools_tree import EPOCH, Tools
from rootfs.engines import select_files
from rootfs.spec.architecture import Arch
from rootfs.tree import busybox
from rootfs.tree.overlay import render


class Modules(Protocol):
    """Provides the modules of a kernel, as `rootfs.tree.kernel.Kernel` does."""

    def closure(self, names: Iterable[str], where: str) -> list[str]:
        """Paths of modules and of all that they depend on, in load order."""

    def copy(self, path: str, target: Path) -> None:
        """Copy one module, decompressed."""


def build(
    output: Path,
    *,
    base: Path,
    programs: Iterable[str],
    kernel: Modules,
    modules: Iterable[str],
    overlay: Path,
    values: Mapping[str, object],
    tools: Tools,
    where: str,
    compress: bool,
    arch: Arch,
) -> Path:
    """Make ``output/initrd``.

    Args:
        output: the step's directory; also gets ``initrd-tree``, the files.
        base: a tree that has BusyBox and the programs.
        programs: paths in it.
        kernel: provides the modules.
        modules: names of the modules that ``init`` loads, in order, from the list /modules.
        overlay: directory with ``init.j2``, the template of /init; its name is that of its BusyBox links.
        values: what the template may use.
        tools: the tools tree.
        where: the field that names the modules, for messages.
        compress: whether it is compressed by zstd; not if the file that contains it is compressed.
        arch: architecture of the base.

    Returns:
        the archive.
    """
    tree = output / "initrd-tree"
    tree.mkdir()
    for name in ("dev", "mnt", "proc", "run", "sys", "sysroot"):
        (tree / name).mkdir()
    for name, target in MERGED.items():
        (tree / target).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    chosen = select_files.choose(base, [arch.loader, "usr/bin/busybox", *programs], where, arch)
    select_files.copy(base, chosen, tree)
    busybox.link(overlay.name, tree)
    paths = kernel.closure(modules, where)
    for path in paths:
        kernel.copy(path, tree / "modules.d" / Path(path).name.removesuffix(".xz"))
    (tree / "modules").write_text("".join(f"/modules.d/{Path(path).name.removesuffix('.xz')}\n" for path in paths))
    (tree / "init").write_text(render(overlay / "init.j2", values))
    (tree / "init").chmod(0o755)
    (output / "initrd.cpio").write_bytes(archive(tree))
    if compress:
        tools.run(["zstd", "-q", "-19", "--rm", "initrd.cpio", "-o", "initrd"], build=output)
    else:
        (output / "initrd.cpio").rename(output / "initrd")
    return output / "initrd"


def archive(tree: Path) -> bytes:
    """The tree as a cpio archive: all root's, names sorted, times fixed: the bytes depend on nothing else."""
    parts: list[bytes] = []
    entries = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*"))
    for number, name in enumerate(entries, start=1):
        path = tree / name
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            mode, content = 0o120777, os.readlink(path).encode()
        elif stat.S_ISDIR(status.st_mode):
            mode, content = 0o40755, b""
        else:
            mode, content = (0o100755 if status.st_mode & 0o100 else 0o100644), path.read_bytes()
        parts.append(_entry(number, mode, name, content))
    parts.append(_entry(0, 0, "TRAILER!!!", b""))
    return b"".join(parts)


def _entry(inode: int, mode: int, name: str, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if mode & 0o40000 else 1
    fields = (inode, mode, 0, 0, links, EPOCH, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)
