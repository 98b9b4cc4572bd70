"""A check of one part of the flash image, with the planted controls that show that it can find something."""

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
    """One check.

    Args:
        name: of the result.
        tried: what is checked, as a sentence.
        find: yields what is wrong with a subject, one line each; raises `TreeError` where it cannot be read.
        plants: planted controls: by name, a function that returns the subject with a fault that ``find`` must find.
    """

    name: str
    tried: str
    find: Callable[[T], Iterator[str]]
    plants: Mapping[str, Callable[[T], T]]


def run_flash_check(flash_check: FlashCheck[T], subject: T, evidence: str = "") -> Result:
    """Return the result of a check, whose planted controls are tried too; never raises for what is in the subject.

    ``evidence`` says what was checked; it stands before what was found.
    """
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
            # A hostile subject may lack the place where a control is planted.
            outcome.trouble.append(f"control {name!r}: {error}")
    return result(flash_check.name, flash_check.tried, outcome, evidence, began, GROUP)


def not_tested(name: str, tried: str, why: str) -> Result:
    """Return the result of a check that could not be made; ``why`` is its evidence."""
    return result(name, tried, Outcome(trouble=[why]), "", time.monotonic(), GROUP)
