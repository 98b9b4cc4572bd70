"""Part of the script that attacks the instruction protocol: controls before, beside and after each class of attacks."""

import threading
import time

from proof.inside.misuse_script.connection import (
    BUDGET,
    CLOCK,
    HEARTBEAT,
    LIMITED,
    MARGIN,
    OPEN,
    PLAN,
    Tally,
    Unreachable,
    open_connection,
    parse_reply,
    request,
)

AHEAD = 2**42
"""How far the mark lies above the current ``seq``, in nanoseconds, which the front-end counts: 73 minutes."""


def control(tally: Tally) -> tuple[float | None, str]:
    """On a fresh connection, try a heartbeat, which must succeed, and ``status.get``, which must be denied.

    Return the seconds until the heartbeat was answered, or None and why it was not.
    """
    began = time.monotonic()
    BUDGET.end = began + PLAN["recovery"] + MARGIN
    try:
        fresh = open_connection()
    except Unreachable as error:
        return None, str(error)
    took = time.monotonic() - began
    tally.add("status.get without a session", fresh.ask({"type": "status.get"}), ("denied", *LIMITED))
    fresh.sock.close()
    return took, ""


def last_seq(tally: Tally) -> int:
    """Return the largest ``seq`` that the backend has seen: its answer to one that is certainly too old has it."""
    fresh = open_connection()
    try:
        fresh.send(request(HEARTBEAT, 1))
        outcome, error = parse_reply(fresh.line(MARGIN) or b"")
        if outcome != "replayed":
            tally.add("a heartbeat with seq 1 after one with a larger", outcome, ("replayed",))
        return int(error.get("last_seq", CLOCK.last))
    finally:
        fresh.sock.close()


class Bystander(threading.Thread):
    """A well-behaved connection, opened before the attack, that sends heartbeats during it, as the front-end does."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._tally, self._talk, self._stop_it = tally, open_connection(), threading.Event()
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        """Send heartbeats until told to stop, or until there is no answer."""
        while not self._stop_it.wait(0.3):
            began = time.monotonic()
            outcome = self._talk.ask(HEARTBEAT, patient=False)
            self.times.append(time.monotonic() - began)
            self._tally.add("a connection from before the attack", outcome, ("effect done", *LIMITED))
            if outcome in ("closed", OPEN):
                return

    def __enter__(self) -> "Bystander":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join(2 * MARGIN)
        worst = max(self.times, default=-1.0)
        self._tally.notes.append(f"bystander asked {len(self.times)} times, slowest answer {worst:.2f} s")
        if not self.times:
            raise Unreachable("the bystander was never asked")
        self._talk.sock.close()
