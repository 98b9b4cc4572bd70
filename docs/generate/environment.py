"""The environment variables, from the constants that name them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from docs.generate.markdown import code, table, text
from docs.generate.source import constants

PROJECT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"SALLYPORT_[A-Z_]+")
_WHERE = ("backend", "driver", "frontend_vm", "proof", "rootfs")


@functools.cache
def variables() -> dict[str, tuple[str, str]]:
    """Where each variable is declared (file, relative to the project) and what is said of it there.

    Raises:
        ValueError: nothing is said of one.
    """
    found: dict[str, tuple[str, str]] = {}
    files = [file for folder in _WHERE for file in sorted((PROJECT / folder).rglob("*.py"))]
    for file in files:
        for name, value, note in constants(file):
            if not _VARIABLE.fullmatch(value):
                continue
            if not note:
                raise ValueError(f"{file}: {name}: write in a string below it what ${value} does")
            said = text(note).removeprefix("The environment variable ").removeprefix("Environment variable: ")
            found[value] = (str(file.relative_to(PROJECT)), said[0].upper() + said[1:])
    return dict(sorted(found.items()))


def reference() -> str:
    """Every variable and what it does."""
    rows = [[code(name), said, code(file)] for name, (file, said) in variables().items()]
    return table(["variable", "what it does", "declared in"], rows)
