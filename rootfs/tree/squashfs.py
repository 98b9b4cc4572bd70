"""Read-only root file systems: squashfs, everything root's."""

from __future__ import annotations

import stat
from pathlib import Path

from rootfs.base.tools_tree import EPOCH, Tools


def make(tools: Tools, build: Path, tree: str, name: str, *, level: int | None, stored: tuple[str, ...] = ()) -> Path:
    """Make ``build/name`` from ``build/tree``, whose modes are settled first (`settle`).

    Args:
        tools: has mksquashfs.
        build: the step's directory.
        tree: the tree's directory in it.
        name: the file to make.
        level: of zstd, 1 to 22; None stores everything as it is.
        stored: paths of the tree that are compressed already and stored as they are.

    Raises:
        CommandError: mksquashfs failed.
    """
    settle(build / tree)
    compression = ["-comp", "zstd", "-Xcompression-level", str(level)] if level else ["-noI", "-noD", "-noF", "-noX"]
    actions: list[str] = []
    for path in stored:
        actions += ["-action", f"uncompressed@name({Path(path).name})"]
    tools.run(
        [
            *("mksquashfs", tree, name, "-noappend", "-quiet", "-no-progress", "-no-xattrs", "-all-root"),
            *(*compression, "-b", "256K", "-root-mode", "0755"),
            *("-mkfs-time", str(EPOCH), "-all-time", str(EPOCH), "-no-exports", *actions),
        ],
        build=build,
        epoch=False,  # mksquashfs refuses the variable beside its own options for time
    )
    return build / name


def settle(tree: Path) -> None:
    """Give every directory the mode 0755, every file that too if its owner may execute it, else 0644.

    Of the modes in a checkout git keeps no more (gitdatamodel(7)); what is root's and read-only has no use for others.
    """
    for path in tree.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            continue
        mode = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR else 0o644
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)
