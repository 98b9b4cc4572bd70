"""A check: one thing that is looked for, with what to plant to see it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proof.image.tree.entries import Tree

Find = Callable[[Tree], Iterator[str]]
Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Check:
    """One thing that is looked for.

    Args:
        name: of the result.
        tried: what is looked for, as a sentence.
        find: objections to a tree, one line each; raises `TreeError` where it cannot look.
        plants: what it must object to: by name, what makes it in a scratch tree.
        files: patterns of the files that the scratch tree is made of.
        as_root: the scratch tree, or the look itself, needs root.
    """

    name: str
    tried: str
    find: Find
    plants: Mapping[str, Plant]
    files: tuple[str, ...] = ()
    as_root: bool = False
