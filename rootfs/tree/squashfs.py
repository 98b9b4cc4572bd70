"""Read-only root file systems: squashfs in which all files belong to root."""

from __future__ import annotations

import stat
from pathlib import Path

from rootfs.base.tools_tree import EPOCH, Tools


def make(tools: Tools, build: Path, tree: str, name: str, *, level: int | None, stored: tuple[str, ...] = ()) -> Path:
    """Make ``build/name`` from ``build/tree``, whose modes are set first (`settle`).

    Args:
        tools: has mksquashfs.
        build: the step's directory.
        tree: the tree's directory in it.
        name: the file to make.
        level: of zstd, 1 to 22; None: nothing is compressed.
        stored: paths of the tree that are stored without compression, because their contents are compressed already.

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
        epoch=False,  # mksquashfs refuses SOURCE_DATE_EPOCH together with its own options for time
    )
    return build / name


def settle(tree: Path) -> None:
    """Set the mode of directories and executable files to 0755, and that of other files to 0644.

    git records nothing but the executable bit (gitdatamodel(7)), and other modes have no use in a read-only tree.
    """
    for path in tree.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            continue
        mode = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR else 0o644
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)
