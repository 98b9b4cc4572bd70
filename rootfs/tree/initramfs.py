"""Initial RAM file systems: cpio archives in format "newc" (kernel: driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from rootfs.base.file_tree import MERGED
from rootfs.base.tools_tree import BUILD, EPOCH, Tools
from rootfs.engines import select_files
from rootfs.spec.architecture import Arch
from rootfs.tree import busybox
from rootfs.tree.overlay import render
from rootfs.tree.squashfs import settle


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
    pack(tools, output, tree.name, "initrd.cpio")
    if compress:
        tools.run(["zstd", "-q", "-19", "--rm", "initrd.cpio", "-o", "initrd"], build=output)
    else:
        (output / "initrd.cpio").rename(output / "initrd")
    return output / "initrd"


def pack(tools: Tools, output: Path, tree: str, name: str) -> None:
    """Pack ``output/tree`` as a cpio archive: its bytes depend on names, contents and the executable bit alone.

    All files belong to root; their modes and times are made the same in every build (`squashfs.settle`, `EPOCH`).

    Args:
        tools: has cpio(1).
        output: the step's directory.
        tree: the tree's directory in it.
        name: the file to make in it.

    Raises:
        CommandError: cpio failed.
    """
    root, listed = output / tree, output / f"{name}.names"
    settle(root)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
    for path in names:
        os.utime(root / path, (EPOCH, EPOCH), follow_symlinks=False)
    listed.write_text("".join(f"{path}\0" for path in names))
    options = ["--null", "--format=newc", "--reproducible", "--owner=0:0", "--quiet", f"--directory={tree}"]
    with listed.open("rb") as file:
        tools.run(["cpio", "--create", *options, f"--file={BUILD / name}"], build=output, stdin=file)
    listed.unlink()
