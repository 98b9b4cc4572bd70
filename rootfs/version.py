"""The project's version, read from the one place that declares it."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
"""The checkout."""


def version() -> str:
    """The version in pyproject.toml."""
    with (PROJECT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
