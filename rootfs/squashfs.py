"""Read-only root file systems: squashfs, everything root's."""

from __future__ import annotations

from pathlib import Path

from rootfs.tools import EPOCH, Tools


def make(tools: Tools, build: Path, tree: str, name: str, *, level: int | None, stored: tuple[str, ...] = ()) -> Path:
    """Make ``build/name`` from ``build/tree``.

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
