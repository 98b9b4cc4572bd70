"""Fires a list of frames that must stay unanswered, between controls that must not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from proof.result import Result, Verdict
from proof.scan.controls import Question, ask
from proof.scan.pace import Control, Pace, Tally, clocked, settle
from proof.wire.frame import Frame
from proof.wire.frame_log import Offences
from proof.wire.judge import Judge
from proof.wire.wire import Tap, Wire, WireError

BATCHES = (3840, 960, 240, 240)
"""Frames of a batch at the first, second ... try: the longer one is, the likelier is one lost control in it."""
LISTEN = 0.3
"""Seconds of listening for late answers after a volley."""
BRACKET_TIMEOUT = 3.0
"""Seconds for each of the slower controls before and after a batch."""


class Walk(Sequence[bytes]):
    """So many frames, each made of its number when it is wanted and not kept."""

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


class Lazy(Sequence[bytes]):
    """Frames that are built when somebody first looks at them."""

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
class Volley:
    """What is thrown, and the sentence that says so."""

    group: str
    name: str
    tried: str
    frames: Sequence[bytes]


def fire(
    wire: Wire,
    volley: Volley,
    *,
    control: Control,
    bracket: Callable[[], Sequence[Question]],
    judge: Judge,
    pace: Pace,
) -> Result:
    """Fire one volley and return what became of it.

    ``bracket`` makes the questions asked between the batches, before the first and after the last. A batch with a
    missing control is sent again: slower, in smaller pieces (`BATCHES`), and twice. A hole stays a hole even when
    controls were missing.
    """
    began, total = time.monotonic(), len(volley.frames)
    shooting = _Shooting(wire, control, bracket, judge, pace)
    trouble = ""
    try:
        with wire.tap() as tap:
            trouble = shooting.run(tap, volley.frames)
            settle(tap, LISTEN, shooting.on_frame)
    except WireError as error:
        trouble = f"wire failed: {error}"
    tally, offences = shooting.tally, shooting.offences
    seen = f"{tally.answered} of {tally.sent} interleaved SYNs answered, {shooting.asked} brackets of ARP and the like"
    if shooting.resent:
        seen += f", {shooting.resent} batches sent again"
    sent = f"{total} frames sent"
    if offences:
        verdict, evidence = Verdict.HOLE, f"{sent}; {offences.reasons()}"
    elif trouble or not total:
        verdict, evidence = Verdict.NOT_TESTED, trouble or "this wire can send none of it (is its MTU too small?)"
    else:
        verdict, evidence = Verdict.SEALED, f"{sent}, no answer that must not be"
    took = time.monotonic() - began
    return Result(volley.group, volley.name, volley.tried, verdict, evidence, seen, took, offences.summaries())


class _Shooting:
    """One volley under way: what was answered, and what should not have been."""

    def __init__(
        self, wire: Wire, control: Control, bracket: Callable[[], Sequence[Question]], judge: Judge, pace: Pace
    ) -> None:
        self._wire, self._control, self._bracket, self._judge, self._pace = wire, control, bracket, judge, pace
        self.offences, self.tally = Offences(), Tally(0, 0)
        self.asked = self.resent = 0
        self._open = False
        """Whether the bracket behind the batch before was answered; it is the one before the next batch, too."""

    def on_frame(self, frame: Frame) -> None:
        """Judge a frame that answers no control."""
        reason = self._judge(frame)
        if reason is not None:
            self.offences.add(reason, frame)

    def run(self, tap: Tap, frames: Sequence[bytes]) -> str:
        """Send all frames; return why not, or nothing."""
        size = BATCHES[0]
        waiting = [(start, min(start + size, len(frames)), 0) for start in range(0, len(frames), size)][::-1]
        while waiting:
            start, stop, attempt = waiting.pop()
            batch = tuple(frames[start:stop])
            # On a wire that lost something, once may have been luck: there a batch must come through twice.
            if all(self._fire(tap, batch) for _ in range(2 if attempt else 1)):
                continue
            if attempt + 1 == len(BATCHES):
                # Untested whatever the rest would show, and a lossy wire makes it slow.
                return f"controls of the frames from {start + 1} on stayed unseen {len(BATCHES)} times"
            self.resent += 1
            self._pace.window = max(1, self._pace.window // 4)
            size = BATCHES[attempt + 1]
            waiting += [(at, min(at + size, stop), attempt + 1) for at in range(start, stop, size)][::-1]
        return ""

    def _fire(self, tap: Tap, batch: Sequence[bytes]) -> bool:
        """Send one batch; return whether its controls and the brackets around it were answered."""
        before = self._open or self._ask(tap)
        once = clocked(self._wire, tap, batch, self._control, self._pace, self.on_frame)
        self.tally += once
        self._open = self._ask(tap)
        return before and self._open and once.clean

    def _ask(self, tap: Tap) -> bool:
        """Ask the controls around a batch; frames that are no answer are judged too."""
        self.asked += 1

        def match_or_judge(question: Question) -> Question:
            def match(frame: Frame) -> bool:
                if question.match(frame):
                    return True
                self.on_frame(frame)
                return False

            return Question(question.name, question.tried, question.frame, match, question.reset)

        questions = [match_or_judge(question) for question in self._bracket()]
        return all(ask(self._wire, tap, question, timeout=BRACKET_TIMEOUT)[0] is not None for question in questions)
