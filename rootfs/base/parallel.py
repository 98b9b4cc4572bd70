"""Runs several functions at the same time, each in a thread; if one fails, all end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_in_parallel(works: Sequence[Callable[[threading.Event], Result]], stopped: type[Exception]) -> list[Result]:
    """Call all functions, each in a thread of its own; returns their results in order.

    Once one of them fails, or this thread is interrupted, the event that each was given is set. All are waited for.

    Args:
        works: at least one function.
        stopped: the exception that a function raises when it ends because of the event.

    Raises:
        Exception: that of the first function, in order, that failed by itself.
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
