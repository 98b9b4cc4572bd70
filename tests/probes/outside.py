"""The probes at the management port, from outside."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from tests.probes.arsenal import Arsenal
from tests.probes.controls import (
    Question,
    arp_question,
    ipv4_path,
    ipv6_path,
    ping_question,
    port_questions,
    run_questions,
    wait_until_up,
)
from tests.probes.craft import Path
from tests.probes.frame import summary
from tests.probes.judge import PortJudge
from tests.probes.neighbour import answering
from tests.probes.pace import Pace, SynControl
from tests.probes.result import Result, Verdict
from tests.probes.sweep import Sweep, ranges, sweep_tcp
from tests.probes.target import Target
from tests.probes.volley import fire
from tests.probes.wire import Wire, WireError

__all__ = ["passive", "run_outside", "sweep_result", "wait_until_up"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""


def sweep_result(
    group: str, name: str, path: Path, expected: frozenset[int], sweep: Sweep, *, silent_ok: bool
) -> Result:
    """Judge a sweep: the open ports must be the expected ones, and every other must be known not to be open."""
    tried = f"SYN to {sweep.total} TCP ports of {path.dst_ip}"
    extra, missing = sweep.open - expected, expected - sweep.open
    unknown = sweep.untested | (set() if silent_ok else sweep.silent)
    rate = sweep.answered / sweep.seconds if sweep.seconds else 0
    evidence = f"open: {ranges(sweep.open)}; {len(sweep.closed)} closed, {len(sweep.silent)} silent, "
    evidence += f"{len(sweep.untested)} untested; {rate:.0f} answers/s"
    if extra:
        verdict, evidence = Verdict.HOLE, f"unexpected open: {ranges(extra)}. {evidence}"
    elif missing:
        verdict, evidence = Verdict.NOT_TESTED, f"expected open but is not: {ranges(missing)}. {evidence}"
    elif unknown or not sweep.total:
        verdict, evidence = Verdict.NOT_TESTED, f"no answer to rely on: {ranges(unknown)}. {evidence}"
    else:
        verdict = Verdict.SEALED
    control = f"{sweep.controls.answered} of {sweep.controls.sent} interleaved SYNs to an open port answered"
    frames = tuple(summary(sweep.frames[port].raw) for port in sorted(extra)[:8])
    return Result(group, name, tried, verdict, evidence, control, sweep.seconds, frames)


def _sweep(
    wire: Wire,
    target: Target,
    path: Path,
    name: str,
    rng: random.Random,
    say: Progress,
    ports: range,
    *,
    silent_ok: bool,
) -> Result:
    began = time.monotonic()
    try:
        with wire.tap() as tap:
            sweep = sweep_tcp(
                wire,
                tap,
                path,
                target.control_port,
                ports,
                rng=rng,
                progress=lambda done, of: say(name, done, of),
            )
    except WireError as error:
        tried, took = f"SYN to every TCP port of {path.dst_ip}", time.monotonic() - began
        return Result("port", name, tried, Verdict.NOT_TESTED, f"wire failed: {error}", "none", took)
    return sweep_result("port", name, path, target.tcp_open, sweep, silent_ok=silent_ok)


def passive(wire: Wire, target: Target) -> Result:
    """Judge every frame that was received since power-on: all must be the VM's and speak for it alone."""
    tried = f"every frame that left the port since power-on carries {target.vm_mac} and speaks for the VM alone"
    ledger = wire.ledger
    if ledger is None:
        return Result("passive", "frames-since-power-on", tried, Verdict.NOT_TESTED, "no ledger was kept", "none", 0)
    offences = ledger.offences()
    early = wire.connected_at is not None and wire.powered_on_at is not None and wire.connected_at <= wire.powered_on_at
    control = f"{ledger.honest} frames of the VM seen; "
    control += "the wire was up before power-on" if early else "it is unknown whether the wire was up before power-on"
    first = ledger.first_honest
    if early and first is not None and wire.powered_on_at is not None:
        control += f", first frame after {first.time - wire.powered_on_at:.1f} s"
    evidence = f"{ledger.frames} frames judged"
    if offences:
        verdict, evidence = Verdict.HOLE, f"{evidence}; {offences.reasons()}"
    elif not ledger.honest or not early:
        verdict = Verdict.NOT_TESTED
    else:
        verdict, evidence = Verdict.SEALED, f"{evidence}, none by anyone else"
    took = time.monotonic() - (wire.powered_on_at or wire.connected_at or time.monotonic())
    return Result("passive", "frames-since-power-on", tried, verdict, evidence, control, took, offences.summaries())


def run_outside(
    wire: Wire,
    target: Target,
    *,
    seed: int,
    progress: Progress | None = None,
    ipv6_sweep: bool = False,
    silent_ok: bool = False,
    ports: range = range(65536),
) -> list[Result]:
    """Run all probes at the management port and return their results; never raises for what the far end does.

    ``ipv6_sweep`` repeats the sweep of all ports over IPv6. ``silent_ok`` takes ports that stay silent amid answered
    controls for filtered; without it they are "not-tested". ``ports`` are those of the sweep.
    """
    rng = random.Random(seed)
    say = progress or (lambda what, done, of: None)
    v4, v6 = ipv4_path(target), ipv6_path(target)
    with answering(wire, target):
        results = run_questions(wire, port_questions(target, rng))
        results.append(_sweep(wire, target, v4, "tcp-ipv4-all-ports", rng, say, ports, silent_ok=silent_ok))
        if ipv6_sweep:
            results.append(_sweep(wire, target, v6, "tcp-ipv6-all-ports", rng, say, ports, silent_ok=silent_ok))
        control, pace, judge = SynControl(v4, target.control_port, rng), Pace(), PortJudge(target)

        def bracket() -> Sequence[Question]:
            return (arp_question(v4), ping_question(v4, rng), ping_question(v6, rng))

        for volley in Arsenal(target, rng).volleys():
            say(volley.name, 0, len(volley.frames))
            results.append(fire(wire, volley, control=control, bracket=bracket, judge=judge, pace=pace))
            say(volley.name, len(volley.frames), len(volley.frames))
    results.append(passive(wire, target))
    return results
