"""Fires a list of frames that must stay unanswered, between controls that must not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.probes.controls import Question, ask
from tests.probes.frame import Frame
from tests.probes.judge import Judge
from tests.probes.ledger import Offences
from tests.probes.pace import Pace, SynControl, Tally, clocked, settle
from tests.probes.result import Result, Verdict
from tests.probes.wire import Tap, Wire, WireError

BATCH = 240
TRIES = 3
LISTEN = 0.4
"""Seconds of listening for late answers after a volley."""
BRACKET_TIMEOUT = 3.0
"""Seconds for each of the slower controls before and after a batch."""


@dataclass(frozen=True)
class Volley:
    """What is thrown, and the sentence that says so."""

    group: str
    name: str
    tried: str
    frames: tuple[bytes, ...]


def fire(
    wire: Wire,
    volley: Volley,
    *,
    control: SynControl,
    bracket: Callable[[], Sequence[Question]],
    judge: Judge,
    pace: Pace,
) -> Result:
    """Fire one volley and return what became of it.

    ``bracket`` makes the questions asked before and after every batch. A batch with a missing control is sent again,
    slower, up to `TRIES` times in all. A hole stays a hole even when controls were missing.
    """
    began = time.monotonic()
    offences, tally, failed, resent, asked = Offences(), Tally(0, 0), 0, 0, 0
    trouble = ""
    try:
        with wire.tap() as tap:

            def on_frame(frame: Frame) -> None:
                reason = judge(frame)
                if reason is not None:
                    offences.add(reason, frame)

            for start in range(0, len(volley.frames), BATCH):
                batch = volley.frames[start : start + BATCH]
                for attempt in range(TRIES):
                    before = _bracket(wire, tap, bracket(), judge, offences)
                    once = clocked(wire, tap, batch, control, pace, on_frame)
                    after = _bracket(wire, tap, bracket(), judge, offences)
                    tally += once
                    asked += 2
                    if before and after and once.clean:
                        break
                    resent += attempt < TRIES - 1
                    pace.window = max(1, pace.window // 4)
                else:
                    failed = start // BATCH + 1
                    break  # untested whatever the rest would show, and a lossy wire makes it slow
            settle(tap, LISTEN, on_frame)
    except WireError as error:
        trouble = f"wire failed: {error}"
    seen = f"{tally.answered} of {tally.sent} interleaved SYNs answered, {asked} brackets of ARP and the like"
    if resent:
        seen += f", {resent} batches sent again"
    sent = f"{len(volley.frames)} frames sent"
    if offences:
        verdict, evidence = Verdict.HOLE, f"{sent}; {offences.reasons()}"
    elif trouble or failed or not volley.frames:
        verdict, evidence = Verdict.NOT_TESTED, trouble or f"controls of batch {failed} stayed unseen {TRIES} times"
    else:
        verdict, evidence = Verdict.SEALED, f"{sent}, no answer that must not be"
    took = time.monotonic() - began
    return Result(volley.group, volley.name, volley.tried, verdict, evidence, seen, took, offences.summaries())


def _bracket(wire: Wire, tap: Tap, questions: Sequence[Question], judge: Judge, offences: Offences) -> bool:
    """Ask the controls around a batch; frames that are no answer are judged too."""

    def match_or_judge(question: Question) -> Question:
        def match(frame: Frame) -> bool:
            if question.match(frame):
                return True
            reason = judge(frame)
            if reason is not None:
                offences.add(reason, frame)
            return False

        return Question(question.name, question.tried, question.frame, match, question.reset)

    return all(ask(wire, tap, match_or_judge(q), timeout=BRACKET_TIMEOUT)[0] is not None for q in questions)
