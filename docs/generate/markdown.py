"""Small parts of Markdown that the generated pages are made of."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_DOUBLE = re.compile(r"``([^`]+)``")
_ROLES = re.compile(r"(?<!`)`((?:backend|frontend_vm|rootfs|proof|driver)\.[a-z_.]+\.[A-Za-z_]+)`")


def text(docstring: str | None) -> str:
    """A docstring as Markdown: its indentation gone, reStructuredText's double backquotes made single ones."""
    return _DOUBLE.sub(r"`\1`", inspect.cleandoc(docstring or "")).strip()


def sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(text(docstring).split("\n\n")[0].split())


def cell(value: str) -> str:
    """Text for a cell of a table: in one line, with vertical bars that end no cell."""
    return " ".join(value.split()).replace("|", r"\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a column of which every cell is empty is left out."""
    rows = [[cell(value) for value in row] for row in rows]
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[head[column] for column in kept], ["---"] * len(kept)]
    lines += [[row[column] for column in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: object) -> str:
    """Inline code; nothing for nothing."""
    shown = str(value)
    return f"`{shown}`" if shown else ""
