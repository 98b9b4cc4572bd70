"""The frequency of the time stamp counter, which an emulated x86 machine is told: its kernel waits for ever without."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from backend.guests import tsc

x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="only there is such a counter")


class Processor:
    """A clock in ns and a counter of a known frequency; each look at one of them may be interrupted."""

    def __init__(self, khz: int, interruptions: Iterator[int]) -> None:
        self._khz, self._interruptions, self._now = khz, interruptions, 10**12

    def clock(self) -> int:
        self._now += 100 + next(self._interruptions)
        return self._now

    def read(self) -> int:
        self._now += 100 + next(self._interruptions)
        return self._now * self._khz // 1_000_000

    def sleep(self, seconds: float) -> None:
        self._now += round(seconds * 1e9)

    def measured(self) -> int:
        return tsc.measure(self.read, self.clock, self.sleep)


def _never() -> Iterator[int]:
    while True:
        yield 0


def _nearly_always() -> Iterator[int]:
    """Ten milliseconds nearly each time, as on a host that starts everything else at the same time."""
    while True:
        for number in range(397):
            yield 0 if number < 3 else 10_000_000


@pytest.mark.parametrize("khz", [1_000_000, 2_596_138, 5_000_001])
def test_the_frequency_is_right_to_some_millionths(khz: int) -> None:
    assert abs(Processor(khz, _never()).measured() - khz) <= khz * 5e-6


def test_interruptions_do_not_count() -> None:
    assert abs(Processor(2_000_000, _nearly_always()).measured() - 2_000_000) <= 20


@pytest.mark.parametrize("khz", [0, 99_000, 50_000_000])
def test_what_is_no_processor_s_frequency_is_an_error(khz: int) -> None:
    with pytest.raises(OSError, match=f"{khz} kHz"):
        Processor(khz, _never()).measured()


@x86_64
def test_this_processor_s_counter_is_read_and_runs_evenly() -> None:
    first, second = tsc.measure(), tsc.measure()
    assert abs(first - second) <= first * 1e-3
