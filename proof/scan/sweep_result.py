"""The result of a sweep: which numbers answered, against those that are expected to."""

from __future__ import annotations

from proof.result import Result, Verdict
from proof.scan.numbered import Numbered
from proof.scan.sweep import Sweep, ranges
from proof.wire.frame import summary


def tried(probe: Numbered, count: int) -> str:
    """Return what a sweep of ``count`` numbers tries, in a sentence that does not make a sample look like the whole."""
    share = f"all {count:,}" if count == probe.universe else f"{count:,} of {probe.universe:,}"
    return f"{probe.sends} to {share} {probe.things} of {probe.path.dst_ip}"


def sweep_result(
    group: str,
    name: str,
    sweep: Sweep,
    expected: frozenset[int],
    *,
    optional: frozenset[int] = frozenset(),
    silent_ok: bool = False,
    control: str = "SYNs to an open port answered",
) -> Result:
    """Judge a sweep: what answers must be expected, and everything else must be known not to.

    ``optional`` numbers may answer, be refused or stay silent. ``silent_ok`` takes silence for a filter's; it has no
    meaning where silence tells (see `Numbered`). ``control`` says what the interleaved controls did.
    """
    extra, missing = sweep.open - expected - optional, (expected & sweep.asked) - sweep.open
    silent = sweep.silent - optional
    takers = silent if sweep.probe.silence_tells else set()
    unknown = sweep.untested | (set() if silent_ok else silent)
    evidence = _evidence(sweep)
    if extra:
        verdict, evidence = Verdict.HOLE, f"unexpected {sweep.probe.words[0]}: {ranges(extra)}. {evidence}"
    elif takers:
        verdict, evidence = Verdict.HOLE, f"taken, and nothing said: {ranges(takers)}. {evidence}"
    elif missing:
        verdict = Verdict.NOT_TESTED
        evidence = f"expected {sweep.probe.words[0]} but is not: {ranges(missing)}. {evidence}"
    elif unknown or not sweep.total:
        verdict, evidence = Verdict.NOT_TESTED, f"no answer to rely on: {ranges(unknown)}. {evidence}"
    else:
        verdict = Verdict.SEALED
    seen = f"{sweep.controls.answered} of {sweep.controls.sent} interleaved {control}"
    frames = tuple(summary(sweep.frames[number].raw) for number in sorted(extra & sweep.frames.keys())[:8])
    return Result(group, name, tried(sweep.probe, sweep.total), verdict, evidence, seen, sweep.seconds, frames)


def _evidence(sweep: Sweep) -> str:
    answers, refused = sweep.probe.words
    rate = sweep.answered / sweep.seconds if sweep.seconds else 0
    silent = f"{len(sweep.silent)} silent" + (f" ({ranges(sweep.silent)})" if 0 < len(sweep.silent) <= 8 else "")
    return (
        f"{answers}: {ranges(sweep.open)}; {len(sweep.closed)} {refused}, {silent}, "
        f"{len(sweep.untested)} untested; {rate:.0f} answers/s"
    )
