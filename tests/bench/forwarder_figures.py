"""What the forwarder's benchmark measured: values per round, medians, ratios, targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.bench.forwarder_peers import BRIDGE, BRNF, FAST, KERNEL, NFT, NONE, RING, SCAPY

SIZES = (64, 512, 1514)
"""Bytes of a frame without its frame check sequence."""
DIRECTIONS = ("one", "both")
RATE, CPU, CPU_MACHINE, LOST, LATENCY, TCP = "rate", "cpu", "cpu_machine", "lost", "latency", "tcp"
UNITS = {
    RATE: "frames/s",
    CPU: "s/Mframe",
    CPU_MACHINE: "s/Mframe",
    LOST: "frames",
    LATENCY: "us",
    TCP: "Gbit/s",
}

Key = tuple[str, int, str, str]
"""Measure, size, direction (or quantile), peer."""


@dataclass
class Results:
    """Values per round. The rounds are interleaved, so values of the same round met the same machine."""

    values: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, measure: str, size: int, direction: str, peer: str, value: float) -> None:
        """One more round's value."""
        self.values.setdefault((measure, size, direction, peer), []).append(value)

    def rounds(self, measure: str, size: int, direction: str, peer: str) -> list[float]:
        """All values, in the order of the rounds; empty if it was not measured."""
        return self.values.get((measure, size, direction, peer), [])

    def median(self, measure: str, size: int, direction: str, peer: str) -> float | None:
        """The value that counts; None if it was not measured."""
        found = self.rounds(measure, size, direction, peer)
        return statistics.median(found) if found else None

    def ratio(self, measure: str, size: int, direction: str, peer: str, base: str) -> float | None:
        """Median of the rounds' ratios to another peer; None if either was not measured, or is 0."""
        pairs = zip(
            self.rounds(measure, size, direction, peer), self.rounds(measure, size, direction, base), strict=False
        )
        found = [ours / theirs for ours, theirs in pairs if theirs > 0]
        return statistics.median(found) if found else None

    def spread(self, measure: str, size: int, direction: str, peer: str) -> float:
        """How far the rounds are apart: (largest - smallest) / median; 0 of one."""
        found = self.rounds(measure, size, direction, peer)
        middle = statistics.median(found) if found else 0
        return (max(found) - min(found)) / middle if middle else 0.0

    def without_sender(self, size: int, direction: str, peer: str, measure: str = CPU) -> list[float]:
        """Processor seconds per million frames that the datapath costs: each round's, less those of `NONE` in it."""
        ours, base = self.rounds(measure, size, direction, peer), self.rounds(measure, size, direction, NONE)
        return [a - b for a, b in zip(ours, base, strict=False)]

    def cost_ratio(self, size: int, direction: str, peer: str, base: str, measure: str = CPU) -> float | None:
        """Median of the rounds' ratios of `without_sender`; None where there is nothing to divide by."""
        pairs = zip(
            self.without_sender(size, direction, peer, measure),
            self.without_sender(size, direction, base, measure),
            strict=False,
        )
        found = [ours / theirs for ours, theirs in pairs if theirs > 0]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Target:
    """A figure with what it should be: at least ``wanted``, or at most if ``most``."""

    name: str
    wanted: float
    unit: str
    value: float | None
    most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is; None if it was not measured. Nothing depends on it: a figure is no test."""
        if self.value is None:
            return None
        return self.value <= self.wanted if self.most else self.value >= self.wanted

    def row(self) -> dict[str, object]:
        """For JSON."""
        value = None if self.value is None else round(self.value, 3)
        relation = "<=" if self.most else ">="
        return {"name": self.name, "target": f"{relation} {self.wanted:g} {self.unit}", "value": value, "met": self.met}


def medians(found: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Of each number that all of some JSON objects have; what is no number is left out."""
    names = [name for name, value in found[0].items() if isinstance(value, (int, float))]
    return {name: statistics.median(float(str(one[name])) for one in found) for name in names}


def targets(results: Results, lan: dict[str, float], vm: dict[str, list[float]]) -> list[Target]:
    """The targets of the issue, each with its figure."""
    found = []
    for direction in DIRECTIONS:
        rate = f"64 bytes, {direction}"
        found += [
            Target(f"kernel : bridge, {rate}", 1.3, "x", results.ratio(RATE, 64, direction, KERNEL, BRIDGE)),
            Target(f"kernel : bridge+brnf, {rate}", 1.3, "x", results.ratio(RATE, 64, direction, KERNEL, BRNF)),
            Target(f"ring : bridge+nft, {rate}", 1.3, "x", results.ratio(RATE, 64, direction, RING, NFT)),
            Target(
                f"ring : bridge+nft, 1514 bytes, {direction}", 1.0, "x", results.ratio(RATE, 1514, direction, RING, NFT)
            ),
        ]
    for direction in DIRECTIONS:
        for base in (BRIDGE, BRNF):
            cost = results.cost_ratio(64, direction, KERNEL, base)
            found.append(Target(f"kernel : {base}, processor time, 64 bytes, {direction}", 0.6, "x", cost, most=True))
    found.append(Target("ring, p50 at 4,000 frames/s", 15, "us", results.median(LATENCY, 64, "p50", RING), most=True))
    for peer in (KERNEL, RING):
        lost = [sum(v) for (measure, _, _, name), v in results.values.items() if (measure, name) == (LOST, peer)]
        found.append(Target(f"{peer}, lost at 70 % of its rate", 0, "frames", sum(lost) if lost else None, most=True))
        found.append(
            Target(f"{peer} : bridge, TCP with offloads", 1.0, "x", results.ratio(TCP, 0, "one", peer, BRIDGE))
        )
    found.append(Target("guest LAN in memory, 1,000 addresses", 10e6, "frames/s", lan.get("lan")))
    for base, wanted in (("tap+bridge", 2.0), ("tap+bridge+vhost-net", 1.2)):
        ratios = [ours / theirs for ours, theirs in zip(vm.get("vhost-user", []), vm.get(base, []), strict=False)]
        ratio = statistics.median(ratios) if ratios else None
        found.append(Target(f"vhost-user : {base}, TCP from port to VM", wanted, "x", ratio))
    return found


def tables(results: Results, lan: dict[str, float], vm: dict[str, list[float]], quiet: bool) -> Iterable[Table]:
    """What people see; the whole machine's processor time only if it was ``quiet``."""
    yield _matrix(
        "delivered, thousand frames/s (x bridge, x bridge+nft)",
        DIRECTIONS,
        lambda size, direction, peer: _beside(
            results.median(RATE, size, direction, peer),
            1e-3,
            results.ratio(RATE, size, direction, peer, BRIDGE),
            results.ratio(RATE, size, direction, peer, NFT),
        ),
    )
    for measure, what in ((CPU, "sender, datapath, ksoftirqd"), (CPU_MACHINE, "whole machine"))[: 2 if quiet else 1]:
        yield _matrix(
            f"processor seconds per million frames less the sender's ({what}; x bridge, x bridge+nft)",
            DIRECTIONS,
            lambda size, direction, peer, measure=measure: _beside(  # type: ignore[misc]
                statistics.median(found) if (found := results.without_sender(size, direction, peer, measure)) else None,
                1,
                results.cost_ratio(size, direction, peer, BRIDGE, measure),
                results.cost_ratio(size, direction, peer, NFT, measure),
            ),
        )
    rest = Table(title="64 bytes, one direction")
    rest.add_column("")
    for heading in ("p50 us", "p90 us", "p99 us", "TCP Gbit/s", "x bridge", "lost at 70 %", "spread of rates"):
        rest.add_column(heading, justify="right")
    for peer in FAST:
        lost = [sum(v) for (m, _, _, name), v in results.values.items() if (m, name) == (LOST, peer)]
        rest.add_row(
            peer,
            *(_number(results.median(LATENCY, 64, quantile, peer), 1) for quantile in ("p50", "p90", "p99")),
            _number(results.median(TCP, 0, "one", peer), 2),
            _number(results.ratio(TCP, 0, "one", peer, BRIDGE), 2),
            f"{sum(lost):.0f}" if lost else "",
            f"{results.spread(RATE, 64, 'one', peer):.0%}",
        )
    scapy = results.median(RATE, 64, "one", SCAPY)
    if scapy is not None:
        cost = results.median(CPU, 64, "one", SCAPY) or 0.0
        bridge = results.median(RATE, 64, "one", BRIDGE)
        share = f", {scapy / bridge:.4f} x bridge" if bridge else ""
        rest.caption = f"scapy's bridge_and_sniff: {scapy:,.0f} frames/s{share}, {cost:.0f} processor s/Mframe"
    yield rest
    for title, figures in (
        ("guest LAN in memory, frames/s", lan),
        ("TCP from port to a VM, Gbit/s", {name: statistics.median(rounds) for name, rounds in vm.items()}),
    ):
        if figures:
            table = Table(title=title)
            table.add_column("")
            table.add_column("", justify="right")
            for name, value in figures.items():
                table.add_row(name, f"{value:,.0f}" if value > 1000 else f"{value:.3f}")
            yield table


def target_table(found: Iterable[Target]) -> Table:
    """Each target beside its figure."""
    table = Table(title="targets (a figure is no test)")
    table.add_column("figure")
    for heading in ("target", "median"):
        table.add_column(heading, justify="right")
    table.add_column("met")
    said = {True: "[green]yes[/]", False: "[bold red]no[/]", None: "[yellow]not measured[/]"}
    for target in found:
        row = target.row()
        value = "" if target.value is None else f"{target.value:,.2f}"
        table.add_row(target.name, str(row["target"]), value, said[target.met])
    return table


def document(
    results: Results, found: Iterable[Target], lan: dict[str, float], vm: dict[str, list[float]]
) -> dict[str, object]:
    """For JSON: every round's value, medians, ratios, targets."""
    rows = []
    for measure, size, direction, peer in results.values:
        key = (measure, size, direction, peer)
        row: dict[str, object] = {
            "measure": measure,
            "unit": UNITS[measure],
            "size": size,
            "direction": direction,
            "peer": peer,
        }
        row["median"] = _rounded(results.median(*key))
        for name, base in (("to_bridge", BRIDGE), ("to_bridge_nft", NFT)):
            if measure in (CPU, CPU_MACHINE):
                row[name] = _rounded(results.cost_ratio(size, direction, peer, base, measure))
            elif measure != LOST:
                row[name] = _rounded(results.ratio(*key, base))
        row["rounds"] = [_rounded(value) for value in results.rounds(*key)]
        rows.append(row)
    return {"figures": rows, "guest_lan": lan, "tcp_to_vm": vm, "targets": [target.row() for target in found]}


def show(
    results: Results,
    found: Iterable[Target],
    lan: dict[str, float],
    vm: dict[str, list[float]],
    console: Console,
    *,
    quiet: bool = True,
) -> None:
    """Print it all."""
    for table in tables(results, lan, vm, quiet):
        console.print(table)
    console.print(target_table(found))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _beside(value: float | None, scale: float, *ratios: float | None) -> str:
    if value is None:
        return ""
    said = [f"{value * scale:.0f}" if scale != 1 else f"{value:.2f}"]
    return " ".join([*said, *(f"[dim]{ratio:.2f}[/]" if ratio is not None else "[dim]-[/]" for ratio in ratios)])


def _matrix(title: str, directions: Iterable[str], cell: Callable[[int, str, str], str]) -> Table:
    table = Table(title=title)
    table.add_column("")
    columns = [(size, direction) for direction in directions for size in SIZES]
    columns = [c for c in columns if any(cell(*c, peer) for peer in FAST)]
    for size, direction in columns:
        table.add_column(f"{size} {direction}", justify="right")
    for peer in FAST:
        table.add_row(peer, *(cell(size, direction, peer) for size, direction in columns))
    return table
