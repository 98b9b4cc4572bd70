"""Holes that the proof must find and name: one small change each, in all layers of the appliance.

A mutant says in which stages it is looked for and which of their results must call it a hole. The stages are those of
`invoke verify`; nothing here helps them to find it.
"""

from __future__ import annotations

import difflib
import random

from rootfs.base.errors import SallyportError
from tests.mutants.files import FILES
from tests.mutants.host import HOST
from tests.mutants.image import IMAGE
from tests.mutants.mutant import Mutant
from tests.mutants.plants import InImage, InTree
from tests.mutants.port import PORT
from tests.mutants.vm import VM

MUTANTS: tuple[Mutant, ...] = (*PORT, *HOST, *VM, *FILES, *IMAGE)
SHARE = 10
"""One in so many is planted where not all are."""


def some(seed: int) -> tuple[Mutant, ...]:
    """The tenth that a seed draws, in the order of `MUTANTS`; of those that need a machine and of the others alike."""
    choice, drawn = random.Random(seed), set[str]()
    for static in (False, True):
        names = [mutant.name for mutant in MUTANTS if isinstance(mutant.plant, InTree | InImage) is static]
        drawn |= set(choice.sample(names, -(-len(names) // SHARE)))
    return tuple(mutant for mutant in MUTANTS if mutant.name in drawn)


def chosen(names: str) -> tuple[Mutant, ...]:
    """The mutants of a list like ``getty,replay``; all for an empty one.

    Raises:
        SallyportError: there is none of that name.
    """
    if not names:
        return MUTANTS
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    wanted = [name.strip() for name in names.split(",")]
    if missing := [name for name in wanted if name not in by_name]:
        close = difflib.get_close_matches(missing[0], by_name, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise SallyportError(f"no mutant {', '.join(missing)}", f"{guess}`invoke verify.mutants --list-all` shows them")
    return tuple(by_name[name] for name in wanted)
