"""The run of all probes at the management port, from outside."""

from __future__ import annotations

import random
from collections.abc import Sequence

from proof.outside.catalogue import Arsenal
from proof.outside.passive import passive
from proof.outside.sweeps import Sweeps, sample
from proof.progress import Progress
from proof.result import Result
from proof.scan.controls import (
    Question,
    arp_question,
    ipv4_path,
    ipv6_path,
    ping_question,
    port_questions,
    run_questions,
)
from proof.scan.frame_batch import fire
from proof.scan.pace import Pace, SynControl
from proof.scan.ports import TCP_PORTS, UDP_PORTS
from proof.wire.judge import PortJudge
from proof.wire.neighbour import answering
from proof.wire.target import Target
from proof.wire.wire import Wire


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
            results += Sweeps(wire, target, path, rng, say).run(asked)
        control, pace, judge = SynControl(v4, target.control_port, rng), Pace(), PortJudge(target)

        def bracket() -> Sequence[Question]:
            return (arp_question(v4), ping_question(v4, rng), ping_question(v6, rng))

        for volley in Arsenal(target, rng, longest=wire.longest).volleys(quick):
            say(volley.name, 0, len(volley.frames))
            results.append(fire(wire, volley, control=control, bracket=bracket, judge=judge, pace=pace))
            say(volley.name, len(volley.frames), len(volley.frames))
    results.append(passive(wire, target))
    return results
