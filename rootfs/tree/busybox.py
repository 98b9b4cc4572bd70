"""Links to BusyBox: which applets a tree has is declared in ``busybox.toml``, for both engines."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path, PurePosixPath

DECLARED = Path(__file__).with_suffix(".toml")
_PROGRAM = PurePosixPath("usr/bin/busybox")


def links(overlay: str) -> list[str]:
    """Paths of the links that belong to an overlay, by its directory's name; none for an overlay without applets."""
    declared: dict[str, list[str]] = tomllib.loads(DECLARED.read_text())
    names = declared.get(overlay, [])
    return [name[1:] if name.startswith("/") else str(_PROGRAM.with_name(name)) for name in names]


def link(overlay: str, tree: Path) -> None:
    """Make the links of an overlay in a tree, each relative to its own directory; replaces what is there."""
    for name in links(overlay):
        place = tree / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(_PROGRAM, PurePosixPath(name).parent))
