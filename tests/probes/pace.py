"""Sends many frames so that loss shows: every sixteenth is a control whose answer is certain.

The answered controls are the clock (as acknowledgements are TCP's): at most ``window`` of them are outstanding, the
window shrinks when one is lost and grows while the round trip stays short. A fixed rate would either crawl or, as
measured with 20,000 SYNs at once, lose six in seven and read as closed ports.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.probes import frame as fr
from tests.probes.craft import Path, tcp_reset, tcp_syn
from tests.probes.frame import Frame
from tests.probes.target import mac_bytes
from tests.probes.wire import Tap, Wire

CHUNK = 15
"""Probing frames between two controls, at most."""
CONTROLS = 16
"""Controls in one batch, at least: a wire that loses a fifth of its frames passes them once in a thousand batches."""

PATIENCE = 0.5
"""Seconds that any control is given at least; a busy emulated machine pauses that long."""
HOPELESS = 4
"""Lost controls without a single answered one after which the rest of a batch is not worth its time."""


@dataclass
class Pace:
    """The window (in controls) and the round trip of one direction of attack."""

    window: int = 4
    limit: int = 64
    shortest: float = field(default=1.0, init=False)
    smoothed: float = field(default=0.015, init=False)

    def answered(self, rtt: float) -> None:
        """Take in one round trip (seconds)."""
        self.shortest = min(self.shortest, max(rtt, 0.001))
        self.smoothed += (rtt - self.smoothed) / 8

    def adapt(self, lost: int) -> None:
        """Set the window for the next batch."""
        if lost:
            self.window = max(1, self.window // 2)
        elif self.smoothed < max(5 * self.shortest, 0.02):  # a longer round trip is only a longer queue
            self.window = min(self.limit, self.window + 1 + self.window // 4)
        elif self.smoothed > max(10 * self.shortest, 0.1):
            self.window = max(2, self.window - 1)

    @property
    def timeout(self) -> float:
        """Seconds after which an unanswered control counts as lost."""
        return min(2.0, max(PATIENCE, 10 * self.smoothed))

    @property
    def grace(self) -> float:
        """Seconds to wait for stragglers once all controls were answered."""
        return min(0.3, max(0.02, 4 * self.smoothed))


@dataclass(frozen=True, slots=True)
class Tally:
    """How the controls of one batch fared."""

    sent: int
    answered: int

    @property
    def clean(self) -> bool:
        """Whether silence in this batch may be believed."""
        return self.answered == self.sent > 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sent + other.sent, self.answered + other.answered)


class SynControl:
    """Controls: SYNs to a port that is open, each from a source port and with a sequence number of its own."""

    def __init__(self, path: Path, port: int, rng: random.Random) -> None:
        self._path, self._port, self._rng = path, port, rng
        self._mac = mac_bytes(path.dst_mac)
        self._sports = list(range(20000, 60000))
        rng.shuffle(self._sports)
        self._next = 0

    def fresh(self) -> tuple[tuple[int, int], bytes]:
        """Return the key of a new control and its frame."""
        sport, seq = self._sports[self._next % len(self._sports)], self._rng.getrandbits(32)
        self._next += 1
        return (sport, seq), tcp_syn(self._path, sport, self._port, seq)

    def key(self, frame: Frame) -> tuple[int, int] | None:
        """Return the key of the control that ``frame`` answers, if it does."""
        if frame.proto != fr.TCP or frame.sport != self._port or frame.src != self._mac or frame.dport is None:
            return None
        if frame.flags & (fr.SYN | fr.ACK) != fr.SYN | fr.ACK or frame.tags:
            return None
        return frame.dport, (frame.ack - 1) & 0xFFFFFFFF

    def reset(self, frame: Frame) -> bytes:
        """Return the RST that frees the half-open connection of an answer."""
        return tcp_reset(self._path, frame.dport or 0, frame.sport or 0, frame.ack)


def clocked(
    wire: Wire, tap: Tap, frames: Sequence[bytes], control: SynControl, pace: Pace, on_frame: Callable[[Frame], None]
) -> Tally:
    """Send ``frames`` between controls and return how the controls fared; everything else goes to ``on_frame``.

    The first frame and the last of the batch are controls, so each probing frame has one before and one after it.
    When nothing answers at all the batch is cut short; its tally is then not clean.
    """
    waiting: dict[tuple[int, int], float] = {}
    sent = answered = 0

    def pump(timeout: float) -> None:
        nonlocal answered
        resets = []
        for frame in tap.take(timeout):
            key = control.key(frame)
            since = waiting.pop(key, None) if key is not None else None
            if since is None:
                on_frame(frame)
                continue
            answered += 1
            pace.answered(frame.time - since)
            resets.append(control.reset(frame))
        if resets:
            wire.send_many(resets)
        now = time.monotonic()
        for key in [key for key, since in waiting.items() if now - since > pace.timeout]:
            del waiting[key]

    size = max(1, min(CHUNK, len(frames) // CONTROLS))
    chunks = [frames[start : start + size] for start in range(0, len(frames), size)]
    chunks += [()] * (CONTROLS - len(chunks))
    for chunk in ((), *chunks):
        while len(waiting) >= pace.window:
            pump(0.05)
        if not answered and sent - len(waiting) >= HOPELESS:
            break
        key, syn = control.fresh()
        waiting[key] = time.monotonic()
        sent += 1
        wire.send_many((*chunk, syn))
        pump(0)
    while waiting:
        pump(0.05)
    pace.adapt(sent - answered)
    return Tally(sent, answered)


def settle(tap: Tap, seconds: float, on_frame: Callable[[Frame], None], done: Callable[[], bool] | None = None) -> None:
    """Hand late frames to ``on_frame`` for so many seconds, or until ``done``."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not (done is not None and done()):
        for frame in tap.take(min(left, 0.05)):
            on_frame(frame)
