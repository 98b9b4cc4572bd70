"""The outcome of a check: it is run on a tree after it has found what was planted in scratch trees."""

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
    """What came of a check: ``trouble`` is why it cannot be relied on, ``seen`` which plants it found."""

    offences: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    planted: int = 0


def bounded(found: Iterator[str]) -> list[str]:
    """The first offences of a check, in bounded memory."""
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
    """Plant each thing in a scratch tree of its own: the check must object to more than it did without it."""
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
    """Run one check on a tree, after its plants have shown that it can find what it looks for.

    Args:
        prefix: of the result's name.
        check: what is looked for.
        tree: where.
        scratch: a directory for the plants.
    """
    began, outcome = time.monotonic(), Outcome()
    if check.as_root and os.geteuid() != 0:
        # unsquashfs leaves out owners, setuid bits and capabilities where it is not root's.
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
    """The result of a check from its outcome.

    Args:
        name: of the result.
        tried: what was done, one sentence.
        outcome: what was found.
        evidence: what was looked at, where nothing was found.
        began: when, of `time.monotonic`.
        group: of the result.
    """
    if outcome.offences:
        verdict, said = Verdict.HOLE, "; ".join(outcome.offences[:6])
    elif outcome.trouble or len(outcome.seen) != outcome.planted or not outcome.planted:
        verdict, said = Verdict.NOT_TESTED, "; ".join(outcome.trouble[:4]) or "no control"
    else:
        verdict, said = Verdict.SEALED, "no objection"
    control = f"{len(outcome.seen)} of {outcome.planted} planted ones found: {', '.join(outcome.seen)}"
    frames = tuple(outcome.offences[:20])
    return Result(group, name, tried, verdict, evidence + said, control, time.monotonic() - began, frames)
