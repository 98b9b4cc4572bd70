"""`invoke bench.forwarder`: the datapaths beside the kernel's bridge, in network namespaces of this machine.

How it measures:

* All peers stand at the same time, idle but for the one that is measured, and take turns (A B C A B C ...), so a
  machine that gets slower gets slower for all. What counts is the median of the rounds, and of the rounds' ratios.
* A sender stays on the first processor, a datapath's own process on the second. What the kernel forwards by itself
  (bridge, BPF) runs in the sender's context and slows it; ``none`` is the sender alone, which no datapath reaches.
  Direction ``both``: two senders share the first processor.
* ``bridge`` is the plain bridge, as in the appliance. Where the kernel has br_netfilter, a bridge shows each frame to
  the IP rules by default; that is ``bridge+brnf``.
* Rates are taken at the receivers in a window while the sender runs flat out. At 70 % of the rate that a datapath
  reached in the same round every frame sent must be received.
* Processor time is taken at one rate that every peer can carry, less that of ``none`` at the same rate.
* Nothing drops but a full ring: there is no queueing discipline, no receive packet steering, no GRO (veth's default),
  and the frames that the processors' backlogs dropped are counted and told.
"""

from __future__ import annotations

import json as json_module
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from rootfs.base.errors import SallyportError
from rootfs.base.process import run as run_command
from tests.bench import figures, forwarder_figures
from tests.bench.forwarder_figures import (
    CPU,
    CPU_MACHINE,
    DIRECTIONS,
    LATENCY,
    LOST,
    RATE,
    SIZES,
    TCP,
    Results,
)
from tests.bench.forwarder_peers import FAST, KERNEL, NONE, RING, SCAPY, Peer, open_peer
from tests.bench.forwarder_traffic import Passage, Processors, Traffic, compile_program, stream

LATENCY_RATE = 4_000
SCAPY_RATE = 20_000
"""Frames per second that scapy is offered: several times what it takes."""
CALM = 0.5
"""Share of the slowest peer's rate at which processor time is taken."""
BELOW = 0.7
"""Share of its own rate at which a datapath must lose nothing."""
QUIET = 0.1
"""Processors that other programs may keep busy before the figures are called into question."""
_LAN_SOURCES = (
    *(f"backend/lan/core/{name}" for name in ("lan.c", "lan_frame.c", "table.c")),
    *(f"backend/forwarder/core/{name}" for name in ("loop.c", "offload.c")),
    "tests/unit/forwarder/c/memory.c",
)


@dataclass(frozen=True)
class Times:
    """Seconds of each measurement, the sender's start included; sizes of which processor time is taken."""

    flat: int = 2
    loss: int = 2
    cpu: int = 3
    latency: int = 2
    tcp: int = 3
    cpu_sizes: Sequence[int] = SIZES


QUICK = Times(flat=1, loss=1, cpu=2, latency=1, tcp=2, cpu_sizes=SIZES[:1])


@dataclass
class Bench:
    """One run of the benchmark: the beds stand, the values come in."""

    traffic: Traffic
    peers: Sequence[Peer]
    times: Times
    results: Results = field(default_factory=Results)
    backlog_drops: int = 0
    others: list[float] = field(default_factory=list)

    def _flow(self, peer: Peer, size: int, direction: str, rate: float, seconds: int) -> Passage:
        found = self.traffic.flow(peer.bed, size, direction, rate, seconds, process=peer.process)
        self.backlog_drops += found.backlog_drops
        self.others.append(found.others)
        return found

    def calm_rate(self) -> int:
        """Frames per second that all peers carry with ease; also warms everything."""
        rates = [self._flow(peer, SIZES[0], direction, 0, 1).rate for peer in self.peers for direction in DIRECTIONS]
        return int(min(rates) * CALM) // 10_000 * 10_000 or 10_000

    def round(self, calm: int) -> None:
        """One value of everything but TCP."""
        for size in SIZES:
            for direction in DIRECTIONS:
                self._rates(size, direction)
                if size in self.times.cpu_sizes:
                    self._costs(size, direction, calm)
        for peer in self.peers:
            found = self.traffic.latency(peer.bed, 64, LATENCY_RATE, self.times.latency)
            for quantile in ("p50", "p90", "p99"):
                self.results.add(LATENCY, 64, quantile, peer.name, found[quantile])

    def _rates(self, size: int, direction: str) -> None:
        rates = {}
        for peer in self.peers:
            rates[peer.name] = self._flow(peer, size, direction, 0, self.times.flat).rate
            self.results.add(RATE, size, direction, peer.name, rates[peer.name])
        for peer in self.peers:
            if peer.name in (KERNEL, RING):
                lost = self._flow(peer, size, direction, rates[peer.name] * BELOW, self.times.loss).lost
                self.results.add(LOST, size, direction, peer.name, lost)

    def _costs(self, size: int, direction: str, calm: int) -> None:
        for peer in self.peers:
            found = self._flow(peer, size, direction, calm, self.times.cpu)
            self.results.add(CPU, size, direction, peer.name, found.cpu_tasks)
            self.results.add(CPU_MACHINE, size, direction, peer.name, found.cpu_machine)


def run(
    runs: int,
    output: Path,
    console: Console,
    *,
    quick: bool = False,
    json: bool = False,
    modules: Path | None = None,
    vm: dict[str, list[float]] | None = None,
) -> None:
    """Measure everything, write the figures and show them.

    Args:
        runs: rounds.
        output: JSON file for the figures.
        console: where they are shown.
        quick: one short round, for a glance.
        json: print the figures as JSON.
        modules: where the forwarder's compiled modules are, if not in the package.
        vm: figures of `forwarder_vm`, by round.

    Raises:
        SallyportError: nothing could be measured.
    """
    runs = 1 if quick else runs
    bench_figures = figures.begin(runs, output, console)
    if os.geteuid() != 0:
        raise SallyportError("the benchmark makes network namespaces", "run it as root")
    processors = Processors.here()
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as temporary:
        directory = Path(temporary)
        traffic = Traffic(compile_program("traffic", directory), processors)
        stream_program = compile_program("stream", directory)
        with ExitStack() as stack, console.status("test beds") as status:
            stack.enter_context(urgent())
            names = [name for name in FAST if _works(name, processors, modules, console, notes)]
            peers = [stack.enter_context(open_peer(name, processors.datapath, modules)) for name in names]
            streams = [
                stack.enter_context(open_peer(n, processors.datapath, modules, sink=False)) for n in names if n != NONE
            ]
            # Those of the streams have a bed of their own: addresses instead of a sink.
            bench = Bench(traffic, peers, QUICK if quick else Times())
            status.update("warming up")
            calm = bench.calm_rate()
            for number in range(1, runs + 1):
                status.update(f"round {number} of {runs}")
                bench.round(calm)
                for peer in streams:
                    bench.results.add(TCP, 0, "one", peer.name, stream(stream_program, peer.bed, bench.times.tcp))
        with console.status("scapy, guest LAN"):
            _scapy(traffic, processors, bench.results)
            lan = guest_lan(directory, runs)
    if bench.backlog_drops:
        notes.append(f"the processors' backlogs dropped {bench.backlog_drops} frames: rates are too low by these")
    others = statistics.median(bench.others)
    if others > QUIET:
        notes.append(f"other programs kept {others:.2f} processors busy meanwhile: measure again on a quiet machine")
    found = forwarder_figures.targets(bench.results, lan, vm or {})
    document = forwarder_figures.document(bench.results, found, lan, vm or {}) | {
        "when": bench_figures.when,
        "machine": bench_figures.machine | {"sender_cpu": processors.sender, "way_cpu": processors.datapath},
        "rate_of_processor_time": calm,
        "others_busy_processors": round(others, 3),
        "notes": notes,
        "counters": {peer.name: peer.counts for peer in peers if peer.counts},
    }
    text = json_module.dumps(document, indent=1) + "\n"
    figures.replace(output, text)
    if json:
        print(text, end="")
        return
    wide = Console(stderr=console.stderr, width=max(console.width, 150))
    forwarder_figures.show(bench.results, found, lan, vm or {}, wide, quiet=others <= QUIET)
    for note in notes:
        console.print(f"[yellow]note:[/] {note}", highlight=False)
    console.print(f"processor time at {calm} frames/s; figures: {output}", highlight=False)


@contextmanager
def urgent() -> Iterator[None]:
    """Come before other programs of this machine (sched(7): nice values, those of the session included).

    Where nothing else runs it changes nothing; where something does, figures are still worth a look.
    """
    group = Path("/proc/self/autogroup")
    nice, session = os.getpriority(os.PRIO_PROCESS, 0), "0"
    with suppress(OSError, IndexError):
        session = group.read_text().split()[-1]
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        # Absent without CONFIG_SCHED_AUTOGROUP; then the first one does all.
        with suppress(OSError):
            group.write_text("-20")
        yield
    finally:
        with suppress(OSError):
            group.write_text(session)
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def _works(name: str, processors: Processors, modules: Path | None, console: Console, notes: list[str]) -> bool:
    """Whether a datapath can be set up here; the others are worth measuring without it."""
    try:
        with open_peer(name, processors.datapath, modules):
            return True
    except SallyportError as error:
        notes.append(f"{name} was not measured: {error}")
        console.print(f"[yellow]{name} is left out:[/] {error}", highlight=False)
        return False


def _scapy(traffic: Traffic, processors: Processors, results: Results) -> None:
    """For scale, once: a packet library's bridge."""
    with open_peer(SCAPY, processors.datapath) as peer:
        found = traffic.flow(peer.bed, 64, "one", SCAPY_RATE, 3, process=peer.process)
        results.add(RATE, 64, "one", SCAPY, found.rate)
        results.add(CPU, 64, "one", SCAPY, found.cpu_tasks)


def guest_lan(directory: Path, runs: int) -> dict[str, float]:
    """Frames per second of the guest LAN and its peers, medians (``c/lan.c``).

    Raises:
        CommandError: it was not compiled, or failed.
    """
    program = compile_program("lan", directory, _LAN_SOURCES)
    found = [json_module.loads(run_command([program, "1"])) for _ in range(runs)]
    return forwarder_figures.medians(found)
