"""A check: one kind of fault that is searched for, with the planted controls that it must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proof.image.tree.entries import Tree

Find = Callable[[Tree], Iterator[str]]
Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Check:
    """One kind of fault that is searched for.

    Args:
        name: of the result.
        tried: what is searched for, as a sentence.
        find: yields what is wrong in a tree, one line each; raises `TreeError` where it cannot read.
        plants: planted controls: by name, a function that puts a fault into a scratch tree.
        files: patterns of the files that the scratch tree is made of.
        as_root: the scratch tree, or the search itself, needs root.
    """

    name: str
    tried: str
    find: Find
    plants: Mapping[str, Plant]
    files: tuple[str, ...] = ()
    as_root: bool = False
