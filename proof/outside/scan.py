"""The probes at the management port, from outside."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from proof.outside.batch import fire
from proof.outside.catalogue import Arsenal
from proof.outside.numbered import ATTEMPTS, Numbered, Protocols, TcpPorts, UdpPorts
from proof.outside.sweep import CLOSED_TRIES, Sweep, find_closed_udp, ranges, run_sweep
from proof.result import Result, Verdict
from proof.wire.controls import (
    Question,
    arp_question,
    ipv4_path,
    ipv6_path,
    ping_question,
    port_questions,
    run_questions,
    wait_until_up,
)
from proof.wire.craft import Path
from proof.wire.frame import summary
from proof.wire.judge import PortJudge
from proof.wire.neighbour import answering
from proof.wire.pace import Control, Pace, RefusalControl, SynControl
from proof.wire.ports import TCP_PORTS, UDP_PORTS
from proof.wire.target import Target
from proof.wire.wire import Wire, WireError

__all__ = ["passive", "run_outside", "sweep_result", "wait_until_up"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""
QUICK_PORTS = 3000
"""Random ports of each kind that a quick run asks besides the named ones."""


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


class _Sweeps:
    """The sweeps at the VM's address of one family, which share their source of randomness and what they learn."""

    def __init__(self, wire: Wire, target: Target, path: Path, rng: random.Random, say: Progress) -> None:
        self._wire, self._target, self._path, self._rng, self._say = wire, target, path, rng, say
        self._family = "ipv6" if path.is_ipv6 else "ipv4"
        self._pace = Pace()
        self._closed: int | None = None

    def run(self, ports: Iterable[int]) -> list[Result]:
        """Sweep the TCP ports, the UDP ports and the protocols."""
        asked = frozenset(ports)
        results = [self._tcp(asked)]
        # A dead wire is met, and reported, by the next sweep again.
        with suppress(WireError), self._wire.tap() as tap:
            self._closed = find_closed_udp(self._wire, tap, self._path, self._rng)
        return [*results, self._udp(asked), self._protocols()]

    def _tcp(self, ports: frozenset[int]) -> Result:
        control = SynControl(self._path, self._target.control_port, self._rng)
        probe = TcpPorts(self._path, self._rng)
        return self._sweep(f"tcp-{self._family}-all-ports", probe, ports, control, self._target.tcp_open)

    def _udp(self, ports: frozenset[int]) -> Result:
        probe = UdpPorts(self._path, self._rng)
        return self._refusing(f"udp-{self._family}-all-ports", probe, ports, frozenset())

    def _protocols(self) -> Result:
        name = "next-headers-ipv6" if self._path.is_ipv6 else "protocols-ipv4"
        closed = self._closed if self._closed is not None else self._rng.randrange(32768, 60000)
        probe = Protocols(self._path, self._rng, tcp_port=self._target.control_port, udp_port=closed)
        return self._refusing(name, probe, frozenset(range(probe.universe)), probe.handled, probe.optional)

    def _refusing(
        self, name: str, probe: Numbered, numbers: frozenset[int], expected: frozenset[int],
        optional: frozenset[int] = frozenset(),
    ) -> Result:  # fmt: skip
        """Sweep what is refused by ICMP errors, among controls that are."""
        if self._closed is None:
            # What answers is still found. That nobody is there cannot be: one that is silent looks like all others.
            syn = SynControl(self._path, self._target.control_port, self._rng)
            said = f"SYNs to an open port answered; none of {CLOSED_TRIES} random UDP ports said that it is closed"
            return self._sweep(name, probe, numbers, syn, expected, optional, said, attempts=1)
        control = RefusalControl(self._path, self._closed, self._rng)
        said = f"datagrams to the closed UDP port {self._closed} refused"
        return self._sweep(name, probe, numbers, control, expected, optional, said)

    def _sweep(
        self, name: str, probe: Numbered, numbers: frozenset[int], control: Control, expected: frozenset[int],
        optional: frozenset[int] = frozenset(), said: str = "SYNs to an open port answered", attempts: int = ATTEMPTS,
    ) -> Result:  # fmt: skip
        began = time.monotonic()
        try:
            with self._wire.tap() as tap:
                sweep = run_sweep(
                    self._wire, tap, probe, numbers, control=control, rng=self._rng, pace=self._pace,
                    attempts=attempts, progress=lambda done, of: self._say(name, done, of),
                )  # fmt: skip
        except WireError as error:
            took, why = time.monotonic() - began, f"wire failed: {error}"
            return Result("port", name, tried(probe, len(numbers)), Verdict.NOT_TESTED, why, "none", took)
        return sweep_result("port", name, sweep, expected, optional=optional, control=said)


def sample(ports: Sequence[int], always: Iterable[int], rng: random.Random) -> list[int]:
    """Return ``always`` and `QUICK_PORTS` more of ``ports``."""
    return sorted({*rng.sample(ports, min(QUICK_PORTS, len(ports))), *(set(always) & set(ports))})


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
    elif not ledger.honest or not early or wire.lost:
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
    ports: range = range(65536),
    quick: bool = False,
) -> list[Result]:
    """Run all probes at the management port and return their results; never raises for what the far end does.

    Args:
        wire: on the port; with a ledger, and up before power-on, or the passive part is "not-tested".
        target: what is promised there.
        seed: of every random choice.
        progress: called with what is being done.
        ports: TCP and UDP ports of the sweeps.
        quick: only the named ports and a random sample of `QUICK_PORTS`, and the short form of the volleys.
    """
    rng = random.Random(seed)
    say = progress or (lambda what, done, of: None)
    v4, v6 = ipv4_path(target), ipv6_path(target)
    asked = sample(ports, {*TCP_PORTS, *UDP_PORTS, *target.tcp_open}, rng) if quick else ports
    with answering(wire, target):
        results = run_questions(wire, port_questions(target, rng))
        for path in (v4, v6):
            results += _Sweeps(wire, target, path, rng, say).run(asked)
        control, pace, judge = SynControl(v4, target.control_port, rng), Pace(), PortJudge(target)

        def bracket() -> Sequence[Question]:
            return (arp_question(v4), ping_question(v4, rng), ping_question(v6, rng))

        for volley in Arsenal(target, rng, longest=wire.longest).volleys(quick):
            say(volley.name, 0, len(volley.frames))
            results.append(fire(wire, volley, control=control, bracket=bracket, judge=judge, pace=pace))
            say(volley.name, len(volley.frames), len(volley.frames))
    results.append(passive(wire, target))
    return results
