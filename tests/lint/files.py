"""The files of a checkout that are its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_NOT_OURS = {".git", ".venv", "out", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def own(root: Path) -> Iterator[Path]:
    """Every regular file of the checkout at ``root`` but what was built or installed; links are not followed."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _NOT_OURS)
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file() and not path.is_symlink())
