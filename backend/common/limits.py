"""Limits in time: how often something may happen. Clocks are given by the caller, in seconds."""

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
        """Take a token. Returns 0.0 if there was one, else the seconds until the next (none is taken)."""
        if self.level() >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def level(self) -> float:
        """Tokens that are there now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens


class SlowDown:
    """Failed logins of one party: after `FREE` of them each further attempt waits, twice as long every time."""

    FREE = 3
    MAX_WAIT_S = 8.0
    """Who shares an address with somebody who guesses has to wait for this, too; what bounds the guesses of many
    addresses are the pools of `throttle`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_at = float("-inf")

    def wait(self) -> float:
        """Seconds until the next attempt is looked at; 0.0: now."""
        return max(0.0, self._open_at - self._clock())

    def failed(self) -> None:
        """An attempt failed."""
        self._failures += 1
        if self._failures >= self.FREE:
            # The exponent is bounded, else the power of an attacker's patience would be a bignum.
            delay = min(self.MAX_WAIT_S, 2.0 ** min(self._failures - self.FREE, 16))
            self._open_at = self._clock() + delay

    def succeeded(self) -> None:
        """An attempt succeeded: forget the failures."""
        self._failures = 0
        self._open_at = float("-inf")
