"""Directory trees of files: what is in one, and a copy of one by hard links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

MERGED = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
"""The links at the top of a tree whose / and /usr are one, to where they lead (https://wiki.debian.org/UsrMerge)."""


def files(tree: Path) -> Iterator[str]:
    """Every file and symbolic link of a tree, as relative POSIX paths; sorted within each directory."""
    for directory, names, leaves in os.walk(tree):
        names.sort()
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for leaf in sorted(leaves + links):
            yield (Path(directory) / leaf).relative_to(tree).as_posix()


def link_tree(source: Path, destination: Path) -> None:
    """Copy a tree: files become hard links to those of ``source``, symbolic links are made again as they are."""
    shutil.copytree(source, destination, symlinks=True, copy_function=os.link, dirs_exist_ok=True)


def merged(path: str) -> str:
    """Where a path of a package is in a tree whose / and /usr are one: ``bin/sh`` is ``usr/bin/sh``."""
    top, _, rest = path.partition("/")
    return f"{MERGED[top]}/{rest}" if top in MERGED else path
