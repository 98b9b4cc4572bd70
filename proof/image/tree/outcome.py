"""Runs a check on a tree, and on scratch trees with planted controls, and makes the result."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proof.image.tree.check import Check
from proof.image.tree.entries import Tree, TreeError, matches
from proof.image.tree.plants import put
from proof.result import Result, Verdict

GROUP = "tree"
MAX_OFFENCES = 200


@dataclass
class Outcome:
    """The outcome of a check.

    ``offences`` are faults of the tree, ``trouble`` is why the check cannot be relied on, ``seen`` names the planted
    controls that it found, of ``planted`` in all.
    """

    offences: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    planted: int = 0


def bounded(found: Iterator[str]) -> list[str]:
    """Return the first `MAX_OFFENCES` offences of a check."""
    offences: list[str] = []
    for offence in found:
        if len(offences) >= MAX_OFFENCES:
            return [*offences, "and more"]
        offences.append(offence)
    return offences


def _copy(tree: Tree, patterns: Sequence[str], scratch: Path) -> None:
    for entry in tree.files():
        if matches(entry.path, patterns):
            put(entry.path, tree.read(entry.path), 0o644)(scratch)


def _control(check: Check, tree: Tree, scratch: Path, outcome: Outcome) -> None:
    """Plant each control in a scratch tree of its own: the check must find more there than without it."""
    for number, (name, plant) in enumerate(check.plants.items()):
        outcome.planted += 1
        root = scratch / str(number)
        root.mkdir()
        try:
            _copy(tree, check.files, root)
            before = set(check.find(Tree(root, test_access=tree.test_access)))
            plant(root)
            if set(bounded(check.find(Tree(root, test_access=tree.test_access)))) - before:
                outcome.seen.append(name)
            else:
                outcome.trouble.append(f"control {name!r} was planted and not found")
        except (TreeError, OSError) as error:
            outcome.trouble.append(f"control {name!r}: {error}")
        finally:
            shutil.rmtree(root, ignore_errors=True)


def run_check(prefix: str, check: Check, tree: Tree, scratch: Path) -> Result:
    """Run one check on a tree, after its planted controls, and return the result.

    Args:
        prefix: of the result's name.
        check: what is searched for.
        tree: where.
        scratch: a directory for the scratch trees.
    """
    began, outcome = time.monotonic(), Outcome()
    if check.as_root and os.geteuid() != 0:
        # unsquashfs sets owners, setuid bits and capabilities only if it runs as root.
        outcome.trouble.append("unpacked by an ordinary user: owners and modes are not the image's; run it as root")
    else:
        _control(check, tree, scratch, outcome)
    evidence = ""
    try:
        evidence = f"{len(tree.entries)} files; "
        if not tree.entries:
            raise TreeError(f"{tree.root} is empty")
        outcome.offences = bounded(check.find(tree))
    except TreeError as error:
        outcome.trouble.append(str(error))
    return result(f"{prefix}{check.name}", check.tried, outcome, evidence, began)


def result(name: str, tried: str, outcome: Outcome, evidence: str, began: float, group: str = GROUP) -> Result:
    """Return the result of a check from its outcome.

    Args:
        name: of the result.
        tried: what was done, one sentence.
        outcome: what was found.
        evidence: what was searched; stands before what was found.
        began: when, of `time.monotonic`.
        group: of the result.
    """
    if outcome.offences:
        verdict, said = Verdict.HOLE, "; ".join(outcome.offences[:6])
    elif outcome.trouble or len(outcome.seen) != outcome.planted or not outcome.planted:
        verdict, said = Verdict.NOT_TESTED, "; ".join(outcome.trouble[:4]) or "the check has no planted control"
    else:
        verdict, said = Verdict.SEALED, "nothing found"
    control = f"{len(outcome.seen)} of {outcome.planted} planted controls found: {', '.join(outcome.seen)}"
    frames = tuple(outcome.offences[:20])
    return Result(group, name, tried, verdict, evidence + said, control, time.monotonic() - began, frames)
