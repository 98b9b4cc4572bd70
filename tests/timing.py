"""Where the time of a test run went: a table at its end, and the same as JSON in ``out/test-times.json``.

The setup of a fixture that several tests share (scope module or session) is a row of its own, not a part of the test
that happened to need it first. Boots, resumed machines and builds are counted by the steps that `driver` and
`tests/conftest.py` log. All of it travels in the tests' reports, so it also works with several pytest processes.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from driver.steps import LOG

ROWS = 25
"""Rows of the table of the slowest; the JSON has all that took at least `MIN_SECONDS`."""
MIN_SECONDS = 0.5
QUIET_SECONDS = 5.0
"""A run that took less prints no table."""
Seconds = defaultdict[str, float]
_PROPERTY = "sallyport-times"
_PARTS = ("unit", "image", "qemu", "fuzz", "lab")


class Timing(logging.Handler):
    """The pytest plugin; also the handler that hears of the logged steps.

    Args:
        target: the JSON file.
        built: seconds that the caller spent on builds before pytest started.
    """

    def __init__(self, target: Path, built: float) -> None:
        super().__init__(logging.INFO)
        self._target, self._began = target, time.monotonic() - built
        self._inner = [0.0]
        """Seconds of nested fixtures, for each fixture that is being set up."""
        self._item: dict[str, Seconds] = {"shared": defaultdict(float), "steps": defaultdict(float)}
        """What the current test has spent on shared fixtures, and on steps."""
        self.tests: Seconds = defaultdict(float)
        self.shared: Seconds = defaultdict(float)
        self.parts: Seconds = defaultdict(float)
        self.steps: Seconds = defaultdict(float, {"build": built} if built else {})
        self.numbers: defaultdict[str, int] = defaultdict(int, {"build": 1} if built else {})
        LOG.setLevel(logging.INFO)
        LOG.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a step of the current test."""
        if (kind := getattr(record, "step", None)) is not None:
            self._item["steps"][str(kind)] += float(getattr(record, "seconds", 0.0))
            self._item["steps"][f"{kind} number"] += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Take the time of one fixture without those that it asked for."""
        began = time.monotonic()
        self._inner.append(0.0)
        try:
            return (yield)
        finally:
            whole = time.monotonic() - began
            own = whole - self._inner.pop()
            self._inner[-1] += whole
            if fixturedef.scope != "function":
                name = f"fixture {fixturedef.argname} ({fixturedef.baseid or 'tests'})"
                self._item["shared"][name] += own

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Give what was counted since the last report to this one, so that it reaches the process that sums up."""
        report = yield
        spent = {name: dict(counter) for name, counter in self._item.items()}
        report.user_properties = [*report.user_properties, (_PROPERTY, spent)]
        self._item = {"shared": defaultdict(float), "steps": defaultdict(float)}
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sum up."""
        words = report.nodeid.split("/")
        self.parts[words[1] if len(words) > 1 and words[1] in _PARTS else "other"] += report.duration
        spent: dict[str, Any] = dict(report.user_properties).get(_PROPERTY, {})  # type: ignore[assignment]
        shared = spent.get("shared", {})
        for fixture, seconds in shared.items():
            self.shared[fixture] += seconds
        self.tests[report.nodeid] += max(0.0, report.duration - sum(shared.values()))
        for step, amount in spent.get("steps", {}).items():
            if step.endswith(" number"):
                self.numbers[step.removesuffix(" number")] += int(amount)
            else:
                self.steps[step] += amount

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the tables and write the file."""
        whole = time.monotonic() - self._began
        slowest = [(name, seconds) for name, seconds in most(self.tests | self.shared) if seconds >= MIN_SECONDS]
        if whole < QUIET_SECONDS:
            return
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._target.write_text(json.dumps(self.summary(whole), indent=2) + "\n")
        # pytest has the real standard output; what is printed here would be captured.
        said = io.StringIO()
        console = Console(file=said, width=shutil.get_terminal_size((120, 40)).columns, force_terminal=False)
        console.print(table("slowest tests and shared fixtures", [(n, f"{s:.1f}") for n, s in slowest[:ROWS]]))
        rows = [(name, f"{seconds:.0f}") for name, seconds in most(self.parts)]
        rows += [(f"of all: {self.numbers[name]} x {name}", f"{seconds:.0f}") for name, seconds in most(self.steps)]
        console.print(table("parts", [*rows, ("from start to end", f"{whole:.0f}")]))
        console.print(f"all of it: {self._target}", highlight=False)
        terminalreporter.write("\n" + said.getvalue())

    def summary(self, whole: float) -> dict[str, Any]:
        """Everything as JSON; times are seconds."""

        def rounded(spent: Seconds, least: float = 0.0) -> dict[str, float]:
            return {name: round(seconds, 2) for name, seconds in most(spent) if seconds >= least}

        steps = {n: {"number": self.numbers[n], "seconds": round(s, 2)} for n, s in most(self.steps)}
        return {
            "seconds": round(whole, 2),
            "parts": rounded(self.parts),
            "steps": steps,
            "fixtures": rounded(self.shared, MIN_SECONDS),
            "tests": rounded(self.tests, MIN_SECONDS),
        }


def most(spent: Mapping[str, float]) -> list[tuple[str, float]]:
    """Names and seconds, the longest first."""
    return sorted(spent.items(), key=lambda one: -one[1])


def table(title: str, rows: list[tuple[str, str]]) -> Table:
    """Names and seconds."""
    made = Table(title=title, title_justify="left")
    made.add_column("name", overflow="fold")
    made.add_column("s", justify="right")
    for name, seconds in rows:
        made.add_row(name.replace("[", r"\["), seconds)
    return made
