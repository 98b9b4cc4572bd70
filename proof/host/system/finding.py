"""A finding: what a judge saw, and the result that follows from it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from proof.result import Result, Verdict

GROUP = "system"
SHOWN = 8


@dataclass
class Finding:
    """What a check found.

    Args:
        wanted: what must be there; it is the control, so all of it must be in ``seen``.
        holes: what must not be there, one sentence each.
        blind: what could not be read, and why.
        seen: which of ``wanted`` was seen.
        counted: how much was looked at, for the report.
    """

    wanted: tuple[str, ...]
    holes: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    counted: str = ""

    def result(self, name: str, tried: str, began: float) -> Result:
        """Return the result; ``began`` is `time.monotonic` at the start of the check."""
        missing = [want for want in self.wanted if want not in self.seen]
        if self.holes:
            verdict, text = Verdict.HOLE, "; ".join(self.holes[:SHOWN])
        elif self.blind or missing or not self.wanted:
            verdict, text = (
                Verdict.NOT_TESTED,
                "; ".join(self.blind[:SHOWN]) or "something that must be there was not seen",
            )
        else:
            verdict, text = Verdict.SEALED, "nothing undeclared"
        control = f"{len(self.wanted) - len(missing)} of {len(self.wanted)} seen: {', '.join(sorted(self.seen))}"
        if missing:
            control += f"; not seen: {', '.join(missing)}"
        evidence = "; ".join(filter(None, (self.counted, text)))
        frames = tuple(self.holes[:20])
        return Result(GROUP, name, tried, verdict, evidence, control, time.monotonic() - began, frames)
