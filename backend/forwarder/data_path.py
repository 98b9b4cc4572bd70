"""The thread that moves frames: it looks at none before the system-call filter stands."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from backend.forwarder import _core


class DataPath(threading.Thread):
    """Runs ``run`` in a thread of its own, with nothing left to the process but what that needs.

    Args:
        run: moves frames until it is told to stop, in C, without the GIL.
        ended: is set when ``run`` has returned; ``problem`` is then why, unless it was told to.
    """

    def __init__(self, run: Callable[[], None], ended: asyncio.Event) -> None:
        super().__init__(name="data path", daemon=True)
        self._run = run
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._confined = threading.Event()
        self.problem: BaseException | None = None

    def begin(self) -> None:
        """Give up every capability, filter system calls, then let frames move.

        The thread starts before the filter, which allows no new one, and waits behind it. Capabilities go first: they
        are a thread's own, and this one has none but those that its starter had.

        Raises:
            OSError: the kernel refused; no frame has moved.
        """
        _core.drop_capabilities()
        self.start()
        _core.confine()
        self._confined.set()

    def run(self) -> None:
        """Wait for the filter, then move frames."""
        self._confined.wait()
        try:
            self._run()
        except BaseException as problem:
            self.problem = problem
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)
