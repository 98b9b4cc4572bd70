"""The log of a wire's frames since power-on: counts, and the first forbidden frames, in bounded memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from proof.wire.frame import Frame, summary
from proof.wire.judge import Judge

MAX_REASONS = 64
"""Kinds of offence that are counted separately; a hostile peer can cause more, which share one entry."""
SAMPLES = 3
"""Frames of each kind that are kept."""


@dataclass
class Offence:
    """One kind of forbidden frame: how many, and the first of them."""

    count: int = 0
    frames: list[Frame] = field(default_factory=list)


class Offences:
    """Forbidden frames by the reason why they are forbidden."""

    def __init__(self) -> None:
        self.by_reason: dict[str, Offence] = {}

    def add(self, reason: str, frame: Frame) -> None:
        """Count ``frame`` under ``reason`` and keep it while it is among the first."""
        if reason not in self.by_reason and len(self.by_reason) >= MAX_REASONS:
            reason = "further kinds of offence"
        entry = self.by_reason.setdefault(reason, Offence())
        entry.count += 1
        if len(entry.frames) < SAMPLES:
            entry.frames.append(frame)

    def __bool__(self) -> bool:
        return bool(self.by_reason)

    def reasons(self, limit: int = 6) -> str:
        """Return the most frequent reasons with their counts, as one line."""
        ordered = sorted(self.by_reason.items(), key=lambda item: -item[1].count)
        text = "; ".join(f"{entry.count} x {reason}" for reason, entry in ordered[:limit])
        return text + (f"; and {len(ordered) - limit} more kinds" if len(ordered) > limit else "")

    def summaries(self, limit: int = 12) -> tuple[str, ...]:
        """Return one line for each of the first offending frames."""
        frames = [frame for entry in self.by_reason.values() for frame in entry.frames]
        return tuple(summary(frame.raw) for frame in sorted(frames, key=lambda frame: frame.time)[:limit])


class FrameLog:
    """Judges every frame of a wire as it arrives, in the reader's thread."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._lock = threading.Lock()
        self._offences = Offences()
        self.frames = 0
        self.accepted = 0
        self.first_accepted: Frame | None = None

    def add(self, frame: Frame) -> None:
        """Judge and count one frame."""
        reason = self._judge(frame)
        with self._lock:
            self.frames += 1
            if reason is not None:
                self._offences.add(reason, frame)
                return
            self.accepted += 1
            self.first_accepted = self.first_accepted or frame

    def offences(self) -> Offences:
        """Return a snapshot of the offences so far."""
        with self._lock:
            copy = Offences()
            copy.by_reason = {
                reason: Offence(entry.count, list(entry.frames)) for reason, entry in self._offences.by_reason.items()
            }
            return copy
