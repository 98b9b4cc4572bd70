"""Every number of one kind at one address, classified open, closed, silent or untested.

Theory of operation. All numbers are asked in random order; what was not answered is asked again, in smaller batches
and with a narrow window. One silence means nothing: a number is called silent only when it stayed unanswered in so
many *clean* batches (every control answered) that loss, at the rate at which controls were lost in the whole sweep,
does not explain it. On a wire that loses too much the number is "untested".
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proof.scan.controls import ControlProbe, send_until_answered
from proof.scan.numbered import ATTEMPTS, NumberedProbe, TcpPorts
from proof.scan.pace import Control, Pace, SynControl, Tally, clocked, settle
from proof.scan.ports import GENERIC
from proof.wire.craft import FramePath, udp
from proof.wire.frame import Frame
from proof.wire.target import mac_bytes
from proof.wire.wire import Tap, Wire

BATCHES = (3840, 960, 240)
"""Numbers in one batch of the first passes; the last value is that of all further ones."""
DEAD_BATCHES = 3
"""The sweep ends after so many batches in a row without an answered control."""
LOSSY, LOSSY_SAMPLE = 0.1, 96
"""The sweep ends when this share of the controls is lost, among at least so many that were sent slowly."""
MAX_FALSE_SILENT = 1e-4
"""Greatest probability that loss alone makes any number of a whole sweep look silent."""
MAX_KEPT_ANSWERS = 64
"""Answers that are kept for the report: a hostile peer could make each one large."""
MAX_RESETS = 4096
CLOSED_TRIES, CLOSED_TIMEOUT = 8, 1.0
"""Random ports that are tried to find a closed one, and seconds for each."""
Progress = Callable[[int, int], None]


@dataclass
class Sweep:
    """The numbers of one sweep, by answer.

    ``silent`` are those that stayed unanswered though loss does not explain it; of ``untested`` ones nothing is known.
    """

    probe: NumberedProbe
    asked: frozenset[int]
    open: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    untested: set[int] = field(default_factory=set)
    controls: Tally = field(default_factory=lambda: Tally(0, 0))
    frames: dict[int, Frame] = field(default_factory=dict)
    """The answers of the first open numbers."""
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """How many numbers were to be asked."""
        return len(self.asked)

    @property
    def answered(self) -> int:
        """How many gave a definite answer."""
        return len(self.open) + len(self.closed)


class _Sweeping:
    """The state while one sweep runs."""

    def __init__(
        self, wire: Wire, tap: Tap, sweep: Sweep, control: Control, pace: Pace, *,
        min_misses: int, max_error: float | None, deadline: float,
    ) -> None:  # fmt: skip
        self._wire, self._tap, self._sweep, self._control, self._pace = wire, tap, sweep, control, pace
        self._min_misses, self._deadline = min_misses, time.monotonic() + deadline
        self._max_error = max_error or MAX_FALSE_SILENT / max(1, sweep.total)
        self._misses: dict[int, int] = {}
        self._left: set[int] = set()
        """Numbers of the current batch that have not answered yet."""
        self._resets: list[bytes] = []
        self._dead = 0
        pace.crawling = Tally(0, 0)

    @property
    def over(self) -> bool:
        """Whether the wire loses too much, nothing answers any more, or the time is over."""
        crawling = self._pace.crawling
        lossy = crawling.sent >= LOSSY_SAMPLE and crawling.loss > LOSSY
        return lossy or self._dead >= DEAD_BATCHES or time.monotonic() > self._deadline

    @property
    def min_misses(self) -> int:
        """How many unanswered clean batches make a number silent, at the share of controls lost so far."""
        loss = self._sweep.controls.loss
        return (
            max(self._min_misses, math.ceil(math.log(self._max_error) / math.log(loss))) if loss < 1 else ATTEMPTS + 1
        )

    def answered(self, number: int) -> bool:
        """Whether a number gave a definite answer."""
        return number in self._sweep.closed or number in self._sweep.open

    def run(self, pending: list[int], attempts: int, progress: Progress) -> None:
        """Ask for all of ``pending`` until each is settled, ``attempts`` times at most."""
        total, learnt = len(pending), self._pace.window
        for attempt in range(attempts):
            size = BATCHES[min(attempt, len(BATCHES) - 1)]
            for start in range(0, len(pending), size):
                if self.over:
                    break
                self._batch(pending[start : start + size], attempt)
                progress(start if attempt == 0 else total - len(pending) + start, total)
            min_misses = self.min_misses
            pending = [number for number in pending if not self.answered(number)]
            self._sweep.silent |= {number for number in pending if self._misses.get(number, 0) >= min_misses}
            pending = [number for number in pending if number not in self._sweep.silent]
            if not pending or self.over:
                break
            if attempt == 0:
                learnt = self._pace.window
                self._pace.window = max(2, self._pace.window // 4)  # what stayed unanswered is asked again slowly
        self._sweep.untested |= set(pending)
        self._pace.window = max(self._pace.window, learnt)  # the next sweep is fast again
        progress(total, total)

    def _batch(self, batch: list[int], attempt: int) -> None:
        probe = self._sweep.probe
        frames = [probe.frame(number, attempt) for number in batch]
        self._left = set(batch)
        tally = clocked(
            self._wire, self._tap, frames, self._control, self._pace, self._on_frame, deadline=self._deadline
        )
        settle(self._tap, self._pace.grace, self._on_frame, lambda: not self._left)
        if self._resets:
            self._wire.send_many(self._resets)
            self._resets.clear()
        self._sweep.controls += tally
        self._dead = 0 if tally.answered else self._dead + 1
        if tally.clean:
            for number in self._left:
                self._misses[number] = self._misses.get(number, 0) + 1

    def _on_frame(self, frame: Frame) -> None:
        sweep = self._sweep
        said = sweep.probe.said(frame)
        if said is None:
            return
        number, is_open = said
        self._left.discard(number)
        if not is_open:
            sweep.closed.add(number)
            return
        sweep.open.add(number)
        if number in sweep.frames or len(sweep.frames) < MAX_KEPT_ANSWERS:
            sweep.frames.setdefault(number, frame)
        reset = sweep.probe.reset(frame)
        if reset is not None and len(self._resets) < MAX_RESETS:
            self._resets.append(reset)


def run_sweep(
    wire: Wire,
    tap: Tap,
    probe: NumberedProbe,
    numbers: Iterable[int],
    *,
    control: Control,
    rng: random.Random,
    pace: Pace | None = None,
    min_misses: int = 2,
    max_error: float | None = None,
    attempts: int = ATTEMPTS,
    progress: Progress | None = None,
    deadline: float = 180.0,
) -> Sweep:
    """Ask for every one of ``numbers``, in random order.

    Args:
        wire, tap: where the frames go, and where the answers come from.
        probe: how each number is asked, and what an answer says.
        numbers: those to ask for.
        control: of the kind on which the meaning of silence rests: `RefusalControl` where refusals are ICMP errors.
        rng: for the order.
        pace: carries what an earlier sweep learnt of the far end's speed.
        min_misses: how many clean batches, at least, a number must miss an answer in to be called silent.
        max_error: greatest probability that loss alone makes one number silent; without it, `MAX_FALSE_SILENT` for all
            numbers together.
        attempts: how often one number is asked at most; fewer than ``min_misses`` where no silence may be believed.
        progress: called with how many were asked, of how many.
        deadline: seconds after which whatever is left is untested.

    Raises:
        WireError: the wire died.
    """
    asked = frozenset(numbers)
    pending = sorted(asked)
    rng.shuffle(pending)
    sweep, began = Sweep(probe, asked), time.monotonic()
    sweeping = _Sweeping(
        wire, tap, sweep, control, pace or Pace(), min_misses=min_misses, max_error=max_error, deadline=deadline
    )
    sweeping.run(pending, min(attempts, ATTEMPTS), progress or (lambda done, of: None))
    sweep.silent -= sweep.open | sweep.closed  # an answer that came late is an answer
    sweep.untested -= sweep.open | sweep.closed
    sweep.closed -= sweep.open  # a number that was ever open is not excused by a refusal
    sweep.seconds = time.monotonic() - began
    return sweep


def sweep_tcp(
    wire: Wire,
    tap: Tap,
    path: FramePath,
    control_port: int,
    ports: Iterable[int],
    *,
    rng: random.Random,
    min_misses: int = 2,
    max_error: float | None = None,
    progress: Progress | None = None,
    deadline: float = 180.0,
) -> Sweep:
    """Ask for TCP ports at the path's destination, where ``control_port`` is open; as `run_sweep`."""
    probe, control = TcpPorts(path, rng), SynControl(path, control_port, rng)
    return run_sweep(
        wire, tap, probe, ports, control=control, rng=rng, min_misses=min_misses, max_error=max_error,
        progress=progress, deadline=deadline,
    )  # fmt: skip


def find_closed_udp(wire: Wire, tap: Tap, path: FramePath, rng: random.Random) -> int | None:
    """Return a UDP port of the path's destination that says it is closed, or ``None`` where none of some does.

    Raises:
        WireError: the wire died.
    """
    mac = mac_bytes(path.dst_mac)
    for port in rng.sample(range(32768, 60000), CLOSED_TRIES):
        sport = rng.randrange(65000, 65500)

        def match(frame: Frame, asked: tuple[int, int] = (sport, port)) -> bool:
            return frame.is_port_unreachable and frame.src == mac and (frame.quoted_sport, frame.quoted_port) == asked

        probe = ControlProbe("udp-closed", f"a datagram to UDP port {port}", udp(path, sport, port, GENERIC), match)
        if send_until_answered(wire, tap, probe, timeout=CLOSED_TIMEOUT)[0] is not None:
            return port
    return None


def ranges(numbers: Iterable[int], limit: int = 12) -> str:
    """Return numbers as ``1-3, 7``, at most ``limit`` ranges and the count of the rest."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    text = ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in runs[:limit])
    rest = sum(high - low + 1 for low, high in runs[limit:])
    return (text + (f" and {rest} more" if rest else "")) or "none"
