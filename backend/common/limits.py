"""Rate limits. Clocks are functions that return seconds, given by the caller."""

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


class SlowDown:
    """Delay after failed logins of one party: from the third failure on, each doubles the wait for the next attempt."""

    MAX_FREE_FAILURES = 3
    MAX_WAIT_S = 8.0
    """Longest wait. It is short because people who share an address with an attacker wait as long; guesses from many
    addresses are bounded by the pools of `backend.daemon.throttle`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_at = float("-inf")

    def wait(self) -> float:
        """Seconds until the next attempt may be checked; 0.0: now."""
        return max(0.0, self._open_at - self._clock())

    def failed(self) -> None:
        """An attempt failed."""
        self._failures += 1
        if self._failures >= self.MAX_FREE_FAILURES:
            # A bounded exponent: the number of failures is not bounded, and the power would grow without limit.
            delay = min(self.MAX_WAIT_S, 2.0 ** min(self._failures - self.MAX_FREE_FAILURES, 16))
            self._open_at = self._clock() + delay

    def succeeded(self) -> None:
        """An attempt succeeded: forget the failures."""
        self._failures = 0
        self._open_at = float("-inf")
