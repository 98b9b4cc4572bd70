"""Every TCP port of one address, classified open, closed, silent or untested."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from tests.probes import frame as fr
from tests.probes.craft import Path, tcp_reset, tcp_syn
from tests.probes.frame import Frame
from tests.probes.pace import Pace, SynControl, Tally, clocked, settle
from tests.probes.target import mac_bytes
from tests.probes.wire import Tap, Wire

BATCH = 960
SENDS = 6
"""How often one port is tried at most."""
DEAD_BATCHES = 3
"""Batches in a row without one answered control after which the sweep gives up."""
Progress = Callable[[int, int], None]


@dataclass
class Sweep:
    """Ports by answer. ``silent``: unanswered although every control around was; ``untested``: never so lucky."""

    open: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    untested: set[int] = field(default_factory=set)
    controls: Tally = field(default_factory=lambda: Tally(0, 0))
    frames: dict[int, Frame] = field(default_factory=dict)
    """The answer of each open port."""
    seconds: float = 0.0
    total: int = 0

    @property
    def answered(self) -> int:
        """Number of ports that gave a definite answer."""
        return len(self.open) + len(self.closed)


def sweep_tcp(
    wire: Wire,
    tap: Tap,
    path: Path,
    control_port: int,
    ports: Iterable[int],
    *,
    rng: random.Random,
    strikes: int = 2,
    progress: Progress | None = None,
    deadline: float = 180.0,
) -> Sweep:
    """Try every one of ``ports`` at the path's destination, in random order.

    A port is silent after ``strikes`` clean batches without an answer, the later ones with a narrow window.
    ``deadline`` (seconds) turns whatever is left into "untested". `WireError` when the wire dies.
    """
    pending = sorted(set(ports))
    rng.shuffle(pending)
    sweep = Sweep(total=len(pending))
    control, pace = SynControl(path, control_port, rng), Pace()
    sports = rng.sample(range(60001, 65000), SENDS)
    passes = {sport: rng.getrandbits(32) for sport in sports}  # source port and sequence number of each pass
    began = time.monotonic()
    misses: dict[int, int] = {}
    dead, slow = 0, Tally(0, 0)
    resets: list[bytes] = []
    peer, address = mac_bytes(path.dst_mac), ip_address(path.dst_ip).packed

    def on_frame(frame: Frame) -> None:
        if frame.proto != fr.TCP or frame.src != peer or frame.ip_src != address or frame.tags:
            return
        seq, port = passes.get(frame.dport or 0), frame.sport
        if seq is None or port is None or not frame.is_answer_to_syn(seq):
            return
        if frame.flags & fr.RST:
            sweep.closed.add(port)
        elif frame.flags & fr.SYN:
            sweep.open.add(port)
            sweep.frames.setdefault(port, frame)
            resets.append(tcp_reset(path, frame.dport or 0, port, frame.ack))

    def answered(port: int) -> bool:
        return port in sweep.open or port in sweep.closed

    for attempt, sport in enumerate(sports):
        again: list[int] = []
        for start in range(0, len(pending), BATCH):
            batch = pending[start : start + BATCH]
            if dead >= DEAD_BATCHES or time.monotonic() - began > deadline:
                again += batch
                continue
            tally = clocked(
                wire, tap, [tcp_syn(path, sport, port, passes[sport]) for port in batch], control, pace, on_frame
            )
            settle(tap, pace.grace, on_frame, lambda batch=batch: all(map(answered, batch)))  # type: ignore[misc]
            if resets:
                wire.send_many(resets)
                resets.clear()
            sweep.controls += tally
            dead = 0 if tally.answered else dead + 1
            if pace.window == 1:
                slow += tally
            if slow.sent >= 256 and slow.answered < 0.9 * slow.sent:
                dead = DEAD_BATCHES  # one control in flight, and still one in ten is lost: no pace will help
            for port in batch:
                if answered(port):
                    continue
                if tally.clean:
                    misses[port] = misses.get(port, 0) + 1
                if misses.get(port, 0) >= strikes:
                    sweep.silent.add(port)
                else:
                    again.append(port)
            if progress is not None:
                progress(sweep.answered + len(sweep.silent), sweep.total)
        pending = [port for port in again if not answered(port)]
        if not pending:
            break
        if attempt == 0:
            pace.window = max(2, pace.window // 4)  # what stayed unanswered is asked again slowly
    sweep.silent = {port for port in sweep.silent if not answered(port)}
    sweep.untested = {port for port in pending if not answered(port)}
    sweep.closed -= sweep.open  # a port that was ever open is not excused by an RST
    sweep.seconds = time.monotonic() - began
    return sweep


def ranges(ports: Iterable[int], limit: int = 12) -> str:
    """Return ports as ``1-3, 7``, at most ``limit`` ranges and the count of the rest."""
    runs: list[tuple[int, int]] = []
    for port in sorted(ports):
        if runs and runs[-1][1] == port - 1:
            runs[-1] = (runs[-1][0], port)
        else:
            runs.append((port, port))
    text = ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in runs[:limit])
    rest = sum(high - low + 1 for low, high in runs[limit:])
    return (text + (f" and {rest} more" if rest else "")) or "none"
