"""Several pieces of work at the same time, which end together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_in_parallel(works: Sequence[Callable[[threading.Event], Result]], stopped: type[Exception]) -> list[Result]:
    """Do all of them, each in a thread; returns what they return.

    Once one fails, or somebody interrupts, the event that each was given is set; then all are waited for.

    Args:
        works: at least one.
        stopped: what a work raises when it ends because of the event.

    Raises:
        Exception: of the first work that failed by itself.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=len(works)) as pool:
        try:
            futures = [pool.submit(work, stop) for work in works]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in futures:
        error = future.exception()
        if error is not None and not isinstance(error, stopped):
            raise error
    return [future.result() for future in futures]
