"""The groups of probes against a booted test image: each begins on the machine as it was right after its boot."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from backend.protocol import link_plan
from driver.command_line import PORT_MAC
from driver.errors import MachineError
from proof.host.audit_log import run_audit_log
from proof.host.listeners import expected, run_host
from proof.host.system import run_system
from proof.inside.devices import run_devices
from proof.inside.flood import run_flood
from proof.inside.forwarding import run_forwarding
from proof.inside.link import run_inside
from proof.inside.misuse import ATTACKS, run_misuse
from proof.inside.spoof import run_spoof
from proof.outside.counters import Allowed, run_counters
from proof.outside.run import run_outside
from proof.progress import Progress
from proof.result import Result, Verdict
from proof.rig import Rig
from proof.wire.ssh_wire import SshWire
from proof.wire.target import LinkTarget
from proof.wire.wire import WireError

ALL = range(65536)
LINK = LinkTarget(host_macs={"mgmt0": PORT_MAC, "br0": link_plan.BRIDGE_MAC})
BESIDE: tuple[frozenset[str], ...] = (
    frozenset({"slow", "cut", "records"}),
    frozenset({"malformed", "oversized", "tls", "sequence", "connections", "approval", "pipelined"}),
)
"""Classes of attacks on the instruction protocol that run on a second and on a third machine, beside the first one.

Each machine has about 140 s of a full run, most of which is waiting: for rates, for passwords, for time limits. The
first one has ``mutants`` alone."""


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Args:
        seed: of every random choice.
        ports: of the sweeps.
        quick: samples of what is big.
        attacks: on the backend's protocol, names out of `misuse.ATTACKS`; all if there are none.
    """

    seed: int
    ports: range = ALL
    quick: bool = False
    attacks: tuple[str, ...] = ()


Stage = Callable[[Rig, Effort, Progress], list[Result]]


def _outside(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    with rig.alone():
        rig.wire.mark_power_on()
        return run_outside(rig.wire, rig.target, seed=effort.seed, progress=say, ports=effort.ports, quick=effort.quick)


def _listeners(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    return run_host(rig.run_host, allowed=expected(rig.image.profile.forwarder))


def _system(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    return run_system(rig.run_host, rig.image.profile.forwarder, rig.image.profile.arch)


def _devices(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    return run_devices(rig.run_vm, rig.image.profile.arch)


def _audit(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    return run_audit_log(rig.run_vm, rig.run_host)


def _link(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    with SshWire.open(rig.vm(), "link", pcap=rig.folder / "link.pcapng") as wire:
        # Half of a quick run's ports are asked about outside; here the host's rules are the same for each of them.
        ports = range(6144, 8193) if effort.quick else effort.ports
        return run_inside(wire, LINK, vm_mac=wire.mac, seed=effort.seed, progress=say, tcp_ports=ports, udp_ports=ports)


def _spoof(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    with SshWire.open(rig.vm(), "access", mute=True) as wire:
        return run_spoof(wire, rig.wire, rig.target, seed=effort.seed)


def _forwarding(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    macs = (link_plan.BACKEND_MAC, link_plan.FRONTEND_MAC)
    return run_forwarding(rig.wire, rig.run_vm, rig.run_host, rig.target, LINK, link_macs=macs, seed=effort.seed)


def _drops(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    def read() -> Mapping[str, int]:
        code, said = rig.run_host("python3 -I -m backend.forwarder status --json")
        if code != 0:
            raise MachineError(f"the forwarder's status cannot be read: {said[-200:]}")
        status = msgspec.json.decode(said.strip().splitlines()[-1])
        return {item["name"]: int(item["frames"]) for item in status["port"]["verdicts"]}

    with rig.alone():
        f = rig.image.profile.forwarder
        allowed = Allowed(f.ethertypes, f.tags, f.max_frame, f.from_port.group_rate, f.from_port.group_burst)
        return run_counters(rig.wire, read, rig.target, rng=random.Random(effort.seed), allowed=allowed)


def _instructions(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    # Who names attacks may have changed this very machine (the mutants do); its twins know nothing of that.
    beside = () if effort.attacks else BESIDE
    here = [name for name in effort.attacks or ATTACKS if not any(name in some for some in beside)]
    lanes: list[Collection[str]] = [here, *beside]
    with ExitStack() as stack:
        twins = [stack.enter_context(rig.twin(f"inside-instructions-{number}")) for number in range(2, len(lanes) + 1)]
        pool = stack.enter_context(ThreadPoolExecutor(len(lanes)))

        def run(one: Rig, chosen: Collection[str]) -> list[Result]:
            return run_misuse(one.run_vm, seed=effort.seed, quick=effort.quick, attacks=chosen)

        found = [result for results in pool.map(run, (rig, *twins), lanes) for result in results]
    order = list(ATTACKS)
    return sorted(found, key=lambda result: order.index(result.name))


def _flood(rig: Rig, effort: Effort, say: Progress) -> list[Result]:
    return run_flood(rig.run_vm, rig.run_host, seed=effort.seed, quick=effort.quick)


STAGES: Mapping[str, Stage] = {
    "listeners": _listeners,
    "system": _system,
    "devices": _devices,
    "audit": _audit,
    "drops": _drops,
    "forwarding": _forwarding,
    "link": _link,
    "spoof": _spoof,
    "instructions": _instructions,
    "flood": _flood,
    "outside": _outside,
}
"""In the order in which they run. ``outside`` is left out where another boot has it."""
DANGEROUS = frozenset({"link", "spoof", "instructions", "flood", "outside"})
"""Stages that leave the machine in another state than they found it in; the others only look."""


def run_stages(rig: Rig, names: Iterable[str], effort: Effort, say: Progress) -> list[Result]:
    """Run stages; what breaks one of them is its result, and the next one begins on a machine that was taken back."""
    results: list[Result] = []
    dirty = False
    for name in names:
        say(name, 0, 0)
        try:
            if dirty:
                rig.restore(f"inside-{name}")
            dirty = name in DANGEROUS
            results += STAGES[name](rig, effort, say)
        except (WireError, MachineError) as error:
            dirty = True
            results.append(Result(name, "run", name, Verdict.NOT_TESTED, str(error), "none seen", 0.0))
    return results
