"""What a root file system is to contain, as a defconfig asks for it: the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RootSpec:
    """The contents of one root file system.

    Args:
        packages: Debian packages that have the files; an engine that builds from source has them otherwise.
        keep: globs of the files that are kept of all that was fetched or built, in the shared layout (Debian's); a
            leading ``!`` takes out again, the last match wins.
        hostname: written to /etc/hostname.
        overlays: directories that are laid over the tree, in this order.
    """

    packages: tuple[str, ...]
    keep: tuple[str, ...]
    hostname: str
    overlays: tuple[Path, ...]
