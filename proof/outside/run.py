"""The run of all probes at the management port, from outside."""

from __future__ import annotations

import random
from collections.abc import Sequence

from proof.outside.catalogue import ProbeCatalogue
from proof.outside.passive import passive
from proof.outside.sweeps import Sweeps, sample
from proof.progress import Progress
from proof.result import Result
from proof.scan.controls import (
    ControlProbe,
    arp_control,
    ipv4_path,
    ipv6_path,
    ping_control,
    port_controls,
    run_controls,
)
from proof.scan.frame_batch import send_batch
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
        wire: on the port; with a frame log, and connected before power-on, or the passive result is "not-tested".
        target: the addresses and open ports that the profile and the image declare.
        seed: of every random choice.
        progress: called with the name of the current probe.
        ports: TCP and UDP ports of the sweeps.
        quick: only the named ports and a random sample of `QUICK_PORTS`, and a sample of each batch of frames.
    """
    rng = random.Random(seed)
    say = progress or (lambda what, done, of: None)
    v4, v6 = ipv4_path(target), ipv6_path(target)
    asked = sample(ports, {*TCP_PORTS, *UDP_PORTS, *target.tcp_open}, rng) if quick else ports
    with answering(wire, target):
        results = run_controls(wire, port_controls(target, rng))
        for path in (v4, v6):
            results += Sweeps(wire, target, path, rng, say).run(asked)
        control, pace, judge = SynControl(v4, target.control_port, rng), Pace(), PortJudge(target)

        def bracket() -> Sequence[ControlProbe]:
            return (arp_control(v4), ping_control(v4, rng), ping_control(v6, rng))

        for batch in ProbeCatalogue(target, rng, max_frame=wire.max_frame).batches(quick):
            say(batch.name, 0, len(batch.frames))
            results.append(send_batch(wire, batch, control=control, bracket=bracket, judge=judge, pace=pace))
            say(batch.name, len(batch.frames), len(batch.frames))
    results.append(passive(wire, target))
    return results
