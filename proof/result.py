"""The result of one probe, and the verdict of a whole run with its exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EXIT_SEALED = 0
EXIT_HOLE = 3
EXIT_NOT_TESTED = 4
"""Exit codes of the proof; 1 is a crash, 2 wrong usage."""


class Verdict(StrEnum):
    """The outcome of one probe."""

    CONTROL = "control"
    """A positive control was seen: what must answer has answered."""
    SEALED = "sealed"
    """A negative probe found nothing, and its own positive control was seen."""
    HOLE = "hole"
    """Something answered, was sent or was present that must not, or is not as it was declared."""
    NOT_TESTED = "not-tested"
    """The probe could not run, or its control was not seen: then finding nothing proves nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One probe's outcome."""

    group: str
    """The group of the probe; a name of the report formats, so it stays once it is released."""
    name: str
    """The probe's name in its group; stays as the group's does."""
    tried: str
    """What was tried, one sentence."""
    verdict: Verdict
    evidence: str
    """What was seen."""
    control: str
    """Which control was seen, and which was not."""
    duration: float
    """Seconds."""
    frames: tuple[str, ...] = ()
    """Summaries of the first forbidden frames, or the other items of a hole."""

    @property
    def label(self) -> str:
        """``group/name``: how a probe is called outside its group, as in the signed statement."""
        return f"{self.group}/{self.name}"


def overall(results: Iterable[Result]) -> Verdict:
    """Return the verdict of a whole run: the worst of hole, not tested, sealed.

    A run without a negative probe has tested nothing and is "not-tested".
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
