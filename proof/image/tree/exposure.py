"""The exposure of the host's services, as ``systemd-analyze security`` rates it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from proof.image.tree.entries import Tree, TreeError
from proof.image.tree.outcome import Outcome, result
from proof.image.tree.paths import UNITS
from proof.image.tree.plants import put
from proof.image.tree.services import EXPOSURE
from proof.result import Result

Analyze = Callable[[Sequence[str]], str]
"""Runs a command line, ``systemd-analyze`` and its arguments, and returns what it printed."""

_FIGURE = re.compile(r"Overall exposure level for \S+: ([0-9]+(?:\.[0-9]+)?)\s")


def _figure(analyze: Analyze, root: Path, unit: str) -> float:
    said = analyze(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--root={root}", unit])
    match = _FIGURE.search(said)
    if match is None:
        raise TreeError(f"systemd-analyze gave no figure for {unit}: {said[-160:]!r}")
    return float(match[1])


def exposure(tree: Tree, analyze: Analyze, scratch: Path) -> Result:
    """Return the result of ``systemd-analyze security``: each service's exposure is at most the declared one.

    The control is a backend without a sandbox, whose exposure must be above the limit.
    """
    began, outcome = time.monotonic(), Outcome(planted=1)
    figures: list[str] = []
    bare = scratch / "bare"
    unit = "sallyport-backend.service"
    try:
        put(UNITS + unit, "[Service]\nExecStart=/usr/bin/python3 -I -m backend.daemon.main\n")(bare)
        if (figure := _figure(analyze, bare, unit)) > EXPOSURE[unit][0]:
            outcome.seen.append(f"a backend without a sandbox has {figure}")
        for name, (most, _) in EXPOSURE.items():
            figure = _figure(analyze, tree.root, name)
            figures.append(f"{name.removesuffix('.service')} {figure} of {most}")
            if figure > most:
                outcome.offences.append(f"{name}: exposure {figure}, not at most {most}")
    except Exception as error:  # whatever the caller's way to run it raises
        outcome.trouble.append(f"systemd-analyze: {error}")
    finally:
        shutil.rmtree(bare, ignore_errors=True)
    tried = f"systemd-analyze security of {len(EXPOSURE)} services, against a declared maximum"
    return result("exposure", tried, outcome, f"{', '.join(figures)}; ", began)
