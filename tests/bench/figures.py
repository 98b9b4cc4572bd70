"""Figures of a benchmark: measured several times, told by their median, kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from rootfs.base.errors import SallyportError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Figure:
    """One figure. ``unit`` is ``s``, ``MB`` (10^6 bytes) or nothing; ``target`` the most it should be, or nothing."""

    name: str
    unit: str
    target: float | None
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.runs)

    @property
    def met(self) -> bool | None:
        """Whether the target was met; ``None`` without one. Nothing depends on it: a figure is no test."""
        return None if self.target is None else self.median <= self.target


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> dict[str, object]:
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "loadavg": [round(load, 2) for load in os.getloadavg()],
    }


@dataclass(frozen=True)
class Bench:
    """One run of a benchmark: its output and what the machine was like when it began."""

    output: Path
    console: Console
    when: str = field(default_factory=_now)
    machine: dict[str, object] = field(default_factory=_machine)

    def finish(self, figures: Sequence[Figure]) -> None:
        """Write the figures by one rename and show them.

        Raises:
            OSError: they could not be written.
        """
        rows = [
            {"name": f.name, "unit": f.unit, "target": f.target, "median": round(f.median, 3)}
            | {"runs": [round(value, 3) for value in f.runs]}
            for f in figures
        ]
        text = json.dumps({"when": self.when, "machine": self.machine, "figures": rows}, indent=1) + "\n"
        replace(self.output, text)
        self.console.print(_table(figures, self.machine))
        self.console.print(f"figures: {self.output}", highlight=False)


def begin(runs: int, output: Path, console: Console) -> Bench:
    """Check what was asked for before anything takes its time.

    Raises:
        SallyportError: nothing to measure, or ``output`` is a directory.
        OSError: the output's directory cannot be made.
    """
    if runs < 1:
        raise SallyportError(f"--runs {runs}: nothing to measure", "name 1 or more")
    if output.is_dir():
        raise SallyportError(f"--output {output} is a directory", "name a file in it")
    output.parent.mkdir(parents=True, exist_ok=True)
    return Bench(output, console)


def timed(action: Callable[[], _Value]) -> tuple[float, _Value]:
    """Do it; returns seconds and its result."""
    started = time.monotonic()
    result = action()
    return time.monotonic() - started, result


def replace(path: Path, text: str) -> None:
    """Write a file by one rename.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _table(figures: Sequence[Figure], machine: dict[str, object]) -> Table:
    table = Table(title=f"medians on {machine['cpus']} processors, load {machine['loadavg']} at the start")
    table.add_column("figure")
    for heading in ("median", "target"):
        table.add_column(heading, justify="right")
    table.add_column("met")
    table.add_column("all runs", style="dim")
    for f in figures:
        table.add_row(
            f.name,
            f"{f.median:.1f} {f.unit}",
            "" if f.target is None else f"{f.target:g} {f.unit}",
            {True: "[green]yes[/]", False: "[bold red]no[/]", None: ""}[f.met],
            " ".join(f"{value:.1f}" for value in f.runs),
        )
    return table
