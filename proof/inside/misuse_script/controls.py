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
"""How far the mark lies above the present ``seq``: 73 minutes of the nanoseconds that the front-end counts."""


def control(tally: Tally) -> tuple[float | None, str]:
    """Ask on a fresh connection for what must be granted and what must be denied; seconds, or None and why not."""
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
    """Ask the backend for the largest ``seq`` it has seen, by one that is surely too old."""
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
    """A well-behaved connection from before the attack, such as the front-end's own."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._tally, self._talk, self._stop_it = tally, open_connection(), threading.Event()
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        """Ask and ask; stop when told to or left without an answer."""
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
