"""What a probe found, in a form that people, JUnit and the exit code share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EXIT_SEALED = 0
EXIT_HOLE = 3
EXIT_NOT_TESTED = 4
"""Exit codes of the proof; 1 and 2 stay free for a crash and for wrong usage."""


class Verdict(StrEnum):
    """The outcome of one probe."""

    CONTROL = "control"
    """A positive control was seen: the thing that must answer answered."""
    SEALED = "sealed"
    """A negative probe found nothing, and its own positive control was seen."""
    HOLE = "hole"
    """Something answered or passed that must not, or is not as it was declared."""
    NOT_TESTED = "not-tested"
    """The probe could not be made, or its positive control was not seen: that nothing was found proves nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One probe's outcome. ``duration`` in seconds; ``frames`` are summaries of the first offenders."""

    group: str
    name: str
    tried: str
    verdict: Verdict
    evidence: str
    control: str
    duration: float
    frames: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``group/name``: how a probe is called outside its group, as in the signed statement."""
        return f"{self.group}/{self.name}"


def overall(results: Iterable[Result]) -> Verdict:
    """Return the verdict of a whole run: a hole outweighs all, then whatever could not be tested.

    A run without a single negative probe has shown nothing and is "not-tested".
    """
    verdicts = [result.verdict for result in results]
    if Verdict.HOLE in verdicts:
        return Verdict.HOLE
    if Verdict.NOT_TESTED in verdicts or Verdict.SEALED not in verdicts:
        return Verdict.NOT_TESTED
    return Verdict.SEALED


def exit_code(results: Iterable[Result]) -> int:
    """Return `EXIT_SEALED`, `EXIT_HOLE` or `EXIT_NOT_TESTED` for a whole run."""
    return {Verdict.SEALED: EXIT_SEALED, Verdict.HOLE: EXIT_HOLE}.get(overall(results), EXIT_NOT_TESTED)


def reason(results: Iterable[Result], limit: int = 8) -> str:
    """Return in one sentence why a run is not sealed, naming at most ``limit`` probes; empty if it is."""
    results = list(results)
    verdict = overall(results)
    if verdict is Verdict.SEALED:
        return ""
    labels = [result.label for result in results if result.verdict is verdict]
    if not labels:
        return "no negative probe ran"
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    what = "hole found by" if verdict is Verdict.HOLE else "could not test"
    return f"{what} {', '.join(labels[:limit])}{more}"
