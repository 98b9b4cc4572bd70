"""The host's own work during floods: a loop of a fixed job in the background, and how many jobs it did in each phase.

`host_work_script` does the work and notes every half second how many jobs were done. The clocks of host and tester
differ: `attribute_work` counts a half second to a phase only if it lies in it whatever the latency of the shells was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from proof.remote_script import RemoteScript, RemoteScriptError, RunOnHost, assemble
from rootfs.base.errors import SallyportError

COVERED_S = 1.5
"""Seconds of the host's work that must lie in each phase for certain, at least."""
WORK_FILE = "/run/sallyport-work"
"""What the host's work writes: a file in memory, and others whose names begin like it."""
MAX_WORK_S = 1800.0
"""Seconds after which the host's work ends even if nobody ends it."""
Seconds = Annotated[float, Meta(ge=0, le=1e4)]
_WORK = Path(__file__).with_name("host_work_script.py")
BEGIN_WORK = RemoteScript(assemble(_WORK, main="answer(begin())"), bool)
END_WORK: RemoteScript[list[tuple[float, int]]] = RemoteScript(
    assemble(_WORK, main="answer(end())"), list[tuple[Seconds, int]]
)


@dataclass(frozen=True)
class Window:
    """When the phases of one flood were, in seconds of the tester's clock (`time.monotonic`).

    The host's work began between ``called`` and ``started``. ``since`` <= ``begins`` <= ``on`` <= ``off`` <= ``over``
    <= ``until``: from ``since`` to ``begins`` and from ``over`` to ``until`` there surely was no flood and nothing else
    that the proof asked of the host; between ``on`` and ``off`` there surely was the flood.
    """

    called: float
    started: float
    since: float
    begins: float
    on: float
    off: float
    over: float
    until: float


@dataclass(frozen=True)
class Work:
    """Jobs per second. ``during`` is counted where there surely was a flood, ``most`` is what it can have been at most.

    None: not enough was measured.
    """

    rests: tuple[float, ...]
    during: float | None
    most: float | None


def attribute_work(series: Sequence[tuple[float, int]], window: Window) -> Work:
    """Attribute the host's half seconds (end of each, jobs in it) to the phases."""
    ends = [0.0, *(end for end, _ in series)]
    # The start of the series is known on the tester's clock to within this.
    slack = max(0.0, window.started - window.called)
    phases: dict[str, tuple[float, int]] = dict.fromkeys(("before", "during", "after"), (0.0, 0))
    most = 0
    for start, (end, jobs) in zip(ends, series, strict=False):
        first, last = window.called + start, window.called + end + slack
        if last > window.on and first < window.off:
            most += jobs
        surely = {
            "before": window.since <= first and last <= window.begins,
            "during": window.on <= first and last <= window.off,
            "after": window.over <= first and last <= window.until,
        }
        for phase in (name for name, lies in surely.items() if lies):
            seconds, done = phases[phase]
            phases[phase] = (seconds + end - start, done + jobs)
    rates = {name: done / seconds for name, (seconds, done) in phases.items() if seconds >= COVERED_S}
    rests = tuple(rates[name] for name in ("before", "after") if name in rates)
    length = window.off - window.on
    # A series that ends early proves nothing about the rest of the flood; one with a gap does.
    whole = length >= COVERED_S and window.called + ends[-1] >= window.off
    return Work(rests, rates.get("during"), most / length if whole else None)


class HostWork:
    """The loop of the host's own work, in the background; a context manager that ends it."""

    def __init__(self, run_host: RunOnHost) -> None:
        self._run_host = run_host
        self.called = self.started = 0.0
        """Between these the loop began, by `time.monotonic`."""

    def __enter__(self) -> HostWork:
        self.called = time.monotonic()
        # Once: another try would start it anew, and nobody knows which of them `called` is of.
        try:
            begun = BEGIN_WORK.run_on_host(self._run_host, str(MAX_WORK_S), WORK_FILE, tries=1)
        except (RemoteScriptError, SallyportError, OSError):
            # It may have begun all the same.
            with suppress(RemoteScriptError, SallyportError, OSError):
                self.series()
            raise
        self.started = time.monotonic()
        if not begun:
            raise RemoteScriptError("the host's work did not start")
        return self

    def series(self) -> list[tuple[float, int]]:
        """End the loop; return the end of each half second, since the loop began, and the jobs that were done in it.

        Raises:
            RemoteScriptError, SallyportError: it could not be run or read.
        """
        return END_WORK.run_on_host(self._run_host, WORK_FILE, tries=1)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(RemoteScriptError, SallyportError, OSError):
                self.series()
