"""The token bucket of both ends of the link (``frontend_vm.protocol.rate_limit`` is this file).

Clocks are functions that return seconds, given by the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Bucket:
    """A token bucket: `burst` events at once, `rate` per second in the long run."""

    def __init__(
        self, rate: float, burst: float, clock: Clock = time.monotonic, *, tokens: float | None = None
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst if tokens is None else max(0.0, min(burst, tokens))
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token. Returns 0.0 if there was one; else takes none and returns the seconds until the next."""
        if self.level() >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def level(self) -> float:
        """Tokens in the bucket now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens
