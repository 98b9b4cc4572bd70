"""One thread for work that blocks, so that the event loop never does."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs one piece of work at a time, in order.

    What waits is bounded by the number of connections: each waits for its own piece.
    """

    def __init__(self, name: str, make_room: Callable[[], bool] = lambda: False) -> None:
        """Make the thread.

        Args:
            name: of the thread.
            make_room: called in the thread when work failed because the disk is full; True: try it again.
        """
        self._make_room = make_room
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the thread and give its result or its exception.

        Work that writes is done again if the disk was full and room could be made.
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
        """Drop what has not begun and let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
