"""One thread for work that blocks, so that the event loop never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs one piece of work at a time, in order.

    What waits is bounded by the number of connections: each waits for its own piece.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the thread and give its result or its exception."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def stop(self) -> None:
        """Drop what has not begun and let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
