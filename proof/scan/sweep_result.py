"""The result of a sweep: which numbers answered, against those that are expected to."""

from __future__ import annotations

from proof.result import Result, Verdict
from proof.scan.numbered import NumberedProbe
from proof.scan.sweep import Sweep, ranges
from proof.wire.frame import summary


def tried(probe: NumberedProbe, count: int) -> str:
    """Return the sentence that says what a sweep of ``count`` numbers tries; it tells a sample from all of them."""
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
    """Return the result of a sweep: only ``expected`` numbers answer, and all others are known not to.

    Args:
        group, name: of the result.
        sweep: what was found.
        expected: numbers that must answer; one that does not makes the result "not-tested".
        optional: numbers that may answer, be refused or stay silent.
        silent_ok: silent numbers count as filtered, which is as good as closed. It has no effect where silence means
            that somebody takes what is sent (`NumberedProbe.silence_tells`).
        control: what the interleaved controls did, for the report.
    """
    extra, missing = sweep.open - expected - optional, (expected & sweep.asked) - sweep.open
    silent = sweep.silent - optional
    takers = silent if sweep.probe.silence_tells else set()
    unknown = sweep.untested | (set() if silent_ok else silent)
    evidence = _evidence(sweep)
    if extra:
        verdict, evidence = Verdict.HOLE, f"unexpected {sweep.probe.words[0]}: {ranges(extra)}. {evidence}"
    elif takers:
        verdict, evidence = Verdict.HOLE, f"accepted without an answer: {ranges(takers)}. {evidence}"
    elif missing:
        verdict = Verdict.NOT_TESTED
        evidence = f"expected to be {sweep.probe.words[0]}, but not: {ranges(missing)}. {evidence}"
    elif unknown or not sweep.total:
        verdict, evidence = Verdict.NOT_TESTED, f"no reliable answer: {ranges(unknown)}. {evidence}"
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
