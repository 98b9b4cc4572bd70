"""The project's version, read from the one place that declares it."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
"""The checkout."""


def version() -> str:
    """The version in pyproject.toml."""
    with (PROJECT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def shown(path: Path) -> str:
    """A path for messages: relative to the checkout if it is in it, even if it is named through a symbolic link."""
    for base in (PROJECT, Path(__file__).absolute().parent.parent.parent):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
