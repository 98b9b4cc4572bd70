"""Sends many frames so that loss is noticed: every sixteenth is a control, whose answer is certain.

The answered controls are the clock (as acknowledgements are TCP's): at most ``window`` of them are outstanding. The
window doubles every round trip until it meets the far end's speed, then follows it: a little more for each answer while
the round trip stays short, half when a control is lost (RFC 5681 section 3.1, with delay as a second signal). A fixed
rate would either crawl or, as measured with 20,000 SYNs at once, lose six in seven and read as closed ports.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proof.scan.ports import GENERIC
from proof.wire import frame as fr
from proof.wire.craft import FramePath, tcp_reset, tcp_syn, udp
from proof.wire.frame import Frame
from proof.wire.target import mac_bytes
from proof.wire.wire import Tap, Wire

CHUNK = 15
"""Frames between two controls, at most."""
CONTROLS = 16
"""Controls in one batch, at least. On a wire that loses 20 % of the frames in either direction, all
16 are answered once in a thousand batches."""

MIN_CONTROL_TIMEOUT = 0.5
"""Seconds, at least, before an unanswered control counts as lost: a busy emulated machine pauses that long."""
MAX_LOST_UNANSWERED, MAX_LOST_IN_A_ROW = 4, 8
"""Controls lost in a row, before the first answer and after it, at which the rest of a batch is not sent."""
REORDERING = 3
"""A control counts as lost once so many later ones were answered (RFC 5681 section 3.2: three duplicates)."""
CRAWL_WINDOW = 2
"""Window, in controls, up to which frames are sent so slowly that a loss is not the pace's fault."""
SPORTS = range(20000, 60000)
"""Source ports of the controls."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many controls of one batch were sent and answered."""

    sent: int
    answered: int
    whole: bool = True
    """Whether all frames between them were sent."""

    @property
    def clean(self) -> bool:
        """Whether silence in this batch may be believed."""
        return self.whole and self.answered == self.sent > 0

    @property
    def loss(self) -> float:
        """An upper estimate of the share of lost frames, 0 to 1: it assumes that the next control will be lost."""
        return (self.sent - self.answered + 1) / (self.sent + 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sent + other.sent, self.answered + other.answered, self.whole and other.whole)


@dataclass
class Pace:
    """The window, in controls, and the round-trip time, in seconds, to one far end."""

    window: int = 4
    limit: int = 64
    shortest: float = field(default=1.0, init=False)
    smoothed: float = field(default=0.015, init=False)
    crawling: Tally = field(default_factory=lambda: Tally(0, 0), init=False)
    """The controls that were sent with a window of `CRAWL_WINDOW` or less: if many are lost, no pace will help."""
    _searching: bool = field(default=True, init=False)
    _credit: float = field(default=0.0, init=False)

    def answered(self, rtt: float) -> None:
        """Take in one round trip (seconds), and widen the window while it is short."""
        self.shortest = min(self.shortest, max(rtt, 0.001))
        self.smoothed += (rtt - self.smoothed) / 8
        if self.smoothed > max(5 * self.shortest, 0.02):  # a longer round trip is only a longer queue
            self._searching = False
            return
        self._credit += 1.0 if self._searching else 1.0 / self.window
        if self._credit >= 1.0:
            self._credit -= 1.0
            self.window = min(self.limit, self.window + 1)

    def lost(self) -> None:
        """Narrow the window; to be called once for what was lost together."""
        self.window, self._searching = max(1, self.window // 2), False

    @property
    def timeout(self) -> float:
        """Seconds after which an unanswered control counts as lost."""
        return min(2.0, max(MIN_CONTROL_TIMEOUT, 10 * self.smoothed))

    @property
    def grace(self) -> float:
        """Seconds to wait for stragglers once all controls were answered."""
        return min(0.3, max(0.02, 4 * self.smoothed))


class Control(Protocol):
    """Makes frames whose answers are certain, and recognises the answers."""

    def fresh(self) -> tuple[Hashable, bytes]:
        """Return the key of a new control and its frame."""

    def key(self, frame: Frame) -> Hashable | None:
        """Return the key of the control that ``frame`` answers, if it does."""

    def reset(self, frame: Frame) -> bytes | None:
        """Return the frame that frees the state that the answered control left at the far end, or None."""


class _Sports:
    """Source ports in random order, over and over."""

    def __init__(self, rng: random.Random) -> None:
        self._sports = rng.sample(SPORTS, len(SPORTS))
        self._next = 0

    def take(self) -> int:
        self._next += 1
        return self._sports[self._next % len(self._sports)]


class SynControl:
    """Controls: SYNs to a port that is open, each from a source port and with a sequence number of its own."""

    def __init__(self, path: FramePath, port: int, rng: random.Random) -> None:
        self._path, self._port, self._rng = path, port, rng
        self._mac = mac_bytes(path.dst_mac)
        self._sports = _Sports(rng)

    def fresh(self) -> tuple[Hashable, bytes]:
        """Return the key of a new control and its frame."""
        sport, seq = self._sports.take(), self._rng.getrandbits(32)
        return (sport, seq), tcp_syn(self._path, sport, self._port, seq)

    def key(self, frame: Frame) -> Hashable | None:
        """Return the key of the control that ``frame`` answers, if it does."""
        if frame.proto != fr.TCP or frame.sport != self._port or frame.src != self._mac or frame.dport is None:
            return None
        if frame.flags & (fr.SYN | fr.ACK) != fr.SYN | fr.ACK or frame.tags:
            return None
        return frame.dport, (frame.ack - 1) & 0xFFFFFFFF

    def reset(self, frame: Frame) -> bytes:
        """Return the RST that frees the half-open connection of an answer."""
        return tcp_reset(self._path, frame.dport or 0, frame.sport or 0, frame.ack)


class RefusalControl:
    """Controls: datagrams to a UDP port known to be closed, each from a source port of its own.

    The absence of an ICMP error means something only while such errors are known to arrive, at this pace.
    """

    def __init__(self, path: FramePath, port: int, rng: random.Random) -> None:
        self._path, self._port = path, port
        self._mac = mac_bytes(path.dst_mac)
        self._sports = _Sports(rng)

    def fresh(self) -> tuple[Hashable, bytes]:
        """Return the key of a new control and its frame."""
        sport = self._sports.take()
        return sport, udp(self._path, sport, self._port, GENERIC)

    def key(self, frame: Frame) -> Hashable | None:
        """Return the key of the control that ``frame`` answers, if it does."""
        if frame.quoted_port != self._port or frame.src != self._mac or frame.tags:
            return None
        return frame.quoted_sport if frame.is_port_unreachable and frame.quoted_proto == fr.UDP else None

    def reset(self, frame: Frame) -> None:
        """There is nothing to free."""


def clocked(
    wire: Wire,
    tap: Tap,
    frames: Sequence[bytes],
    control: Control,
    pace: Pace,
    on_frame: Callable[[Frame], None],
    *,
    deadline: float = math.inf,
) -> Tally:
    """Send ``frames`` among controls and return how many controls were sent and answered.

    Every received frame that answers no control goes to ``on_frame``. Sending stops where the far end falls silent, or
    at ``deadline`` (`time.monotonic` seconds); then the tally's ``whole`` is false.

    Raises:
        WireError: the wire died.
    """
    batch = _Batch(wire, tap, control, pace, on_frame)
    size = max(1, min(CHUNK, len(frames) // CONTROLS))
    starts = [*range(0, len(frames), size)]
    starts += [len(frames)] * (CONTROLS - len(starts))
    whole = True
    for start in (len(frames), *starts):  # the first and the last frame are controls
        while batch.outstanding >= pace.window:
            batch.pump(0.05)
        if batch.should_stop or time.monotonic() > deadline:
            whole = False
            break
        batch.send(frames[start : start + size])
        batch.pump(0)
    while batch.waiting:
        batch.pump(0.05)
    return Tally(batch.sent, batch.answered, whole)


class _Batch:
    """The controls that wait for an answer, by key: (place in the order of sending, time sent, window was small)."""

    def __init__(self, wire: Wire, tap: Tap, control: Control, pace: Pace, on_frame: Callable[[Frame], None]) -> None:
        self._wire, self._tap, self._control, self._pace, self._on_frame = wire, tap, control, pace, on_frame
        self.waiting: dict[Hashable, tuple[int, float, bool]] = {}
        self.sent = self.answered = 0
        self._lost_in_a_row = 0
        self._newest = -1
        """Place of the latest control that was answered."""
        self._cut = -1
        """How many were sent when the window was last narrowed: what was lost before is the same loss."""

    @property
    def outstanding(self) -> int:
        """Controls that may still be answered; without those that later ones have overtaken, which count as lost."""
        return sum(place > self._newest - REORDERING for place, _, _ in self.waiting.values())

    @property
    def should_stop(self) -> bool:
        """Whether so many controls in a row were lost that the rest of the batch is not worth sending."""
        return self._lost_in_a_row >= (MAX_LOST_IN_A_ROW if self.answered else MAX_LOST_UNANSWERED)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send ``frames`` and a control behind them."""
        key, frame = self._control.fresh()
        self.waiting[key] = (self.sent, time.monotonic(), self._pace.window <= CRAWL_WINDOW)
        self.sent += 1
        self._wire.send_many((*frames, frame))

    def pump(self, timeout: float) -> None:
        """Process the frames that arrived, after waiting at most ``timeout`` seconds for the first."""
        resets = []
        for frame in self._tap.take(timeout):
            key = self._control.key(frame)
            known = self.waiting.pop(key, None) if key is not None else None
            if known is None:
                self._on_frame(frame)
                continue
            self.answered += 1
            self._lost_in_a_row = 0
            self._newest = max(self._newest, known[0])
            self._pace.answered(frame.time - known[1])
            self._pace.crawling += Tally(known[2], known[2])
            if (reset := self._control.reset(frame)) is not None:
                resets.append(reset)
        if resets:
            self._wire.send_many(resets)
        self._expire(time.monotonic())

    def _expire(self, now: float) -> None:
        for key, (place, since, crawling) in tuple(self.waiting.items()):  # oldest first
            is_late = now - since > self._pace.timeout
            if not is_late and place > self._newest - REORDERING:
                break
            if is_late:
                del self.waiting[key]
                self._lost_in_a_row += 1
                self._pace.crawling += Tally(crawling, 0)
            if place >= self._cut:
                self._pace.lost()
                self._cut = self.sent


def settle(tap: Tap, seconds: float, on_frame: Callable[[Frame], None], done: Callable[[], bool] | None = None) -> None:
    """Hand late frames to ``on_frame`` for so many seconds, or until ``done``."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not (done is not None and done()):
        for frame in tap.take(min(left, 0.05)):
            on_frame(frame)
