"""A look at a part of the image: what it objects to, and what is planted to see it object."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from proof.image.tree.entries import TreeError
from proof.image.tree.outcome import Outcome, bounded, result
from proof.result import Result

GROUP = "flash"
T = TypeVar("T")


@dataclass(frozen=True)
class FlashCheck(Generic[T]):
    """One thing that is looked at.

    Args:
        name: of the result.
        tried: what is looked at, as a sentence.
        find: objections, one line each; raises `TreeError` where it cannot look.
        plants: what it must object to: by name, what makes a faulty subject of the real one.
    """

    name: str
    tried: str
    find: Callable[[T], Iterator[str]]
    plants: Mapping[str, Callable[[T], T]]


def run_flash_check(flash_check: FlashCheck[T], subject: T, evidence: str = "") -> Result:
    """The result of a look, its plants found before its "nothing" is believed; never raises for what is looked at."""
    began, outcome = time.monotonic(), Outcome()
    try:
        outcome.offences = bounded(flash_check.find(subject))
    except TreeError as error:
        return not_tested(flash_check.name, flash_check.tried, str(error))
    before = set(outcome.offences)
    for name, plant in flash_check.plants.items():
        outcome.planted += 1
        try:
            if set(bounded(flash_check.find(plant(subject)))) - before:
                outcome.seen.append(name)
            else:
                outcome.trouble.append(f"control {name!r} was planted and not found")
        except (TreeError, OSError, LookupError, ValueError, StopIteration, struct.error) as error:
            # What was handed to us may have no place to plant it in.
            outcome.trouble.append(f"control {name!r}: {error}")
    return result(flash_check.name, flash_check.tried, outcome, evidence, began, GROUP)


def not_tested(name: str, tried: str, why: str) -> Result:
    """The result of a look that could not be taken."""
    return result(name, tried, Outcome(trouble=[why]), "", time.monotonic(), GROUP)
