"""Work at the same time: it begins together, and ends together."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from rootfs.base.parallel import run_in_parallel

LONG = 30.0


class Told(Exception):
    """A work ended because it was told to."""


def waits(stop: threading.Event) -> str:
    assert stop.wait(LONG)
    raise Told


def test_all_run_at_the_same_time_and_answer_in_order() -> None:
    barrier = threading.Barrier(3, timeout=LONG)

    def work(number: int) -> Callable[[threading.Event], int]:
        def run(_stop: threading.Event) -> int:
            barrier.wait()
            return number

        return run

    assert run_in_parallel([work(1), work(2), work(3)], Told) == [1, 2, 3]


def test_what_fails_ends_the_others_and_is_told() -> None:
    def fails(_stop: threading.Event) -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_in_parallel([waits, fails], Told)


def test_an_interrupt_ends_all() -> None:
    ended = threading.Event()

    def work(stop: threading.Event) -> None:
        time.sleep(0.3)  # until the other has begun, too, and both are waited for
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        stop.wait(LONG)
        ended.set()
        raise Told

    with pytest.raises(KeyboardInterrupt):
        run_in_parallel([work, waits], Told)
    assert ended.is_set()
