"""A thread for blocking work, so that the event loop does not block."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs functions in one thread, one after the other, in order.

    The queue is bounded by the number of connections, as each waits for its own function.
    """

    def __init__(self, name: str, make_room: Callable[[], bool] = lambda: False) -> None:
        """Make the thread.

        Args:
            name: of the thread.
            make_room: called in the thread when a function failed because the disk is full; True: run it again.
        """
        self._make_room = make_room
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the thread and give its result or its exception.

        It is run again if it failed because the disk was full and `make_room` freed some.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._with_room, work)

    def _with_room(self, work: Callable[[], Result]) -> Result:
        while True:
            try:
                return work()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room():
                    raise

    def stop(self) -> None:
        """Drop what has not begun and end the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
