"""Sends a list of frames that must stay unanswered, between controls that must be answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from proof.result import Result, Verdict
from proof.scan.controls import ControlProbe, send_until_answered
from proof.scan.pace import Control, Pace, Tally, clocked, settle
from proof.wire.frame import Frame
from proof.wire.frame_log import Offences
from proof.wire.judge import Judge
from proof.wire.wire import Tap, Wire, WireError

PIECES = (3840, 960, 240, 240)
"""Frames of one piece of a batch at the first, second ... try. A longer piece more likely has a lost control in it."""
LISTEN = 0.3
"""Seconds of listening for late answers after the last frame of a batch."""
BRACKET_TIMEOUT = 3.0
"""Seconds for each of the controls before and after a piece: ARP, pings."""


class GeneratedFrames(Sequence[bytes]):
    """``count`` frames; each is computed from its index when it is accessed, and not kept."""

    def __init__(self, count: int, make: Callable[[int], bytes]) -> None:
        self._range, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[bytes, ...]: ...
    def __getitem__(self, at: int | slice) -> bytes | tuple[bytes, ...]:
        """Return one frame, or those of a slice."""
        if isinstance(at, slice):
            return tuple(map(self._make, self._range[at]))
        return self._make(self._range[at])


class LazyFrames(Sequence[bytes]):
    """Frames that are built at the first access, and then kept."""

    def __init__(self, build: Callable[[], Sequence[bytes]]) -> None:
        self._build = build
        self._built: Sequence[bytes] | None = None

    @property
    def _frames(self) -> Sequence[bytes]:
        if self._built is None:
            self._built = self._build()
        return self._built

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        """Return one frame, or those of a slice."""
        return self._frames[at]


@dataclass(frozen=True)
class FrameBatch:
    """The frames of one probe, with its name in the report and the sentence that says what it tries."""

    group: str
    name: str
    tried: str
    frames: Sequence[bytes]


def send_batch(
    wire: Wire,
    batch: FrameBatch,
    *,
    control: Control,
    bracket: Callable[[], Sequence[ControlProbe]],
    judge: Judge,
    pace: Pace,
) -> Result:
    """Send one batch of frames and return its result; never raises for what the far end does.

    Args:
        wire: where the frames go.
        batch: the frames; none of them may be answered.
        control: makes the controls that are sent among them, one in sixteen frames.
        bracket: makes the controls that are sent between the pieces, before the first and after the last.
        judge: says of every received frame whether it may exist.
        pace: carries what an earlier batch learnt of the far end's speed.

    A piece with a missing control is sent again: slower, in smaller pieces (`PIECES`), and twice. A hole stays a hole
    even when controls were missing.
    """
    began, total = time.monotonic(), len(batch.frames)
    run = _BatchRun(wire, control, bracket, judge, pace)
    trouble = ""
    try:
        with wire.tap() as tap:
            trouble = run.run(tap, batch.frames)
            settle(tap, LISTEN, run.on_frame)
    except WireError as error:
        trouble = f"wire failed: {error}"
    tally, offences = run.tally, run.offences
    seen = (
        f"{tally.answered} of {tally.sent} interleaved SYNs answered, {run.brackets} checks by ARP or ping around them"
    )
    if run.resent:
        seen += f", {run.resent} pieces sent again"
    sent = f"{total} frames sent"
    if offences:
        verdict, evidence = Verdict.HOLE, f"{sent}; {offences.reasons()}"
    elif trouble or not total:
        why = trouble or "no frame of it can be sent on this wire: its MTU is too small"
        verdict, evidence = Verdict.NOT_TESTED, why
    else:
        verdict, evidence = Verdict.SEALED, f"{sent}, no forbidden answer"
    took = time.monotonic() - began
    return Result(batch.group, batch.name, batch.tried, verdict, evidence, seen, took, offences.summaries())


class _BatchRun:
    """The state while one batch is sent: controls answered, forbidden frames received."""

    def __init__(
        self, wire: Wire, control: Control, bracket: Callable[[], Sequence[ControlProbe]], judge: Judge, pace: Pace
    ) -> None:
        self._wire, self._control, self._bracket, self._judge, self._pace = wire, control, bracket, judge, pace
        self.offences, self.tally = Offences(), Tally(0, 0)
        self.brackets = self.resent = 0
        self._open = False
        """Whether the bracket behind the last piece was answered; it also stands before the next piece."""

    def on_frame(self, frame: Frame) -> None:
        """Judge a received frame that answers no control."""
        reason = self._judge(frame)
        if reason is not None:
            self.offences.add(reason, frame)

    def run(self, tap: Tap, frames: Sequence[bytes]) -> str:
        """Send all frames; return an empty text, or why the batch cannot be relied on."""
        size = PIECES[0]
        waiting = [(start, min(start + size, len(frames)), 0) for start in range(0, len(frames), size)][::-1]
        while waiting:
            start, stop, attempt = waiting.pop()
            piece = tuple(frames[start:stop])
            # Where a control was lost once, one clean try may be chance: the piece must be clean twice.
            if all(self._send_piece(tap, piece) for _ in range(2 if attempt else 1)):
                continue
            if attempt + 1 == len(PIECES):
                # The batch is not tested whatever the rest shows, and on a lossy wire the rest takes long.
                return f"controls of the frames from {start + 1} on stayed unseen {len(PIECES)} times"
            self.resent += 1
            self._pace.window = max(1, self._pace.window // 4)
            size = PIECES[attempt + 1]
            waiting += [(at, min(at + size, stop), attempt + 1) for at in range(start, stop, size)][::-1]
        return ""

    def _send_piece(self, tap: Tap, piece: Sequence[bytes]) -> bool:
        """Send one piece; return whether its controls and the brackets around it were answered."""
        before = self._open or self._send_bracket(tap)
        once = clocked(self._wire, tap, piece, self._control, self._pace, self.on_frame)
        self.tally += once
        self._open = self._send_bracket(tap)
        return before and self._open and once.clean

    def _send_bracket(self, tap: Tap) -> bool:
        """Send the controls around a piece and return whether all were answered; every other frame is judged."""
        self.brackets += 1

        def match_or_judge(probe: ControlProbe) -> ControlProbe:
            def match(frame: Frame) -> bool:
                if probe.match(frame):
                    return True
                self.on_frame(frame)
                return False

            return ControlProbe(probe.name, probe.tried, probe.frame, match, probe.reset)

        probes = [match_or_judge(probe) for probe in self._bracket()]
        return all(
            send_until_answered(self._wire, tap, probe, timeout=BRACKET_TIMEOUT)[0] is not None for probe in probes
        )
