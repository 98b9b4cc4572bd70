"""The report as one self-contained HTML page.

The page quotes what the appliance said, so every text counts as hostile: all of it is escaped, and characters that
cannot be printed are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from proof.report.report import GROUPS, WORDS, Report, group_verdict
from proof.result import Result, Verdict
from rootfs.base.untrusted import printable

TEMPLATES = Path(__file__).with_name("templates")
_BOOTS: Mapping[str, tuple[str, str]] = {
    "outside": ("The image at its port", "It boots, and still runs at the end of the probes."),
    "inside": ("The test image", "It boots, and its root shells answer."),
}
"""Groups of results that say that a whole boot failed; they have no place in the picture."""
_BACKGROUND = frozenset({"passive", "early"})
"""Groups that observe while others probe: their time is not added to the sum."""


@dataclass(frozen=True)
class _Row:
    """A result and its anchor in the page; the anchor is made of numbers, never of text from the appliance."""

    anchor: str
    result: Result


@dataclass(frozen=True)
class _Group:
    """A group as the page shows it. ``seconds`` is ``None`` for one that only watched while others probed."""

    name: str
    title: str
    promise: str
    verdict: Verdict | None
    rows: tuple[_Row, ...]
    seconds: float | None

    @property
    def trouble(self) -> tuple[_Row, ...]:
        """The rows with a hole or that could not be tested."""
        return tuple(row for row in self.rows if row.result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED))

    @property
    def fine(self) -> tuple[_Row, ...]:
        """The rows that are sealed, or controls that were seen."""
        return tuple(row for row in self.rows if row.result.verdict in (Verdict.SEALED, Verdict.CONTROL))


def _groups(report: Report) -> list[_Group]:
    found = []
    for number, (name, results) in enumerate(report.groups()):
        title, promise = GROUPS.get(name) or _BOOTS.get(name) or (name, "")
        rows = tuple(_Row(f"r{number}-{place}", result) for place, result in enumerate(results))
        seconds = None if name in _BACKGROUND else sum(result.duration for result in results)
        found.append(_Group(name, title, promise, group_verdict(results), rows, seconds))
    return found


def _size(count: int) -> str:
    """Return a size in bytes for people."""
    if count < 1000:
        return f"{count} B"
    unit = next((unit for unit, factor in (("kB", 1e3), ("MB", 1e6)) if count < 999.95 * factor), "GB")
    return f"{count / {'kB': 1e3, 'MB': 1e6, 'GB': 1e9}[unit]:.1f} {unit}"


def _shown(value: Any) -> Any:
    """Return a value with unprintable characters replaced; `Markup` is the template's own text and stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def to_html(report: Report) -> str:
    """Return the report as one HTML page without outside references."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = _size
    groups = _groups(report)
    verdicts = {group.name: str(group.verdict) for group in groups}
    spent = sum(group.seconds or 0 for group in groups)
    page = environment.get_template("report.html.j2")
    return page.render(
        report=report,
        groups=groups,
        colours={name: verdicts.get(name, "none") for name in GROUPS},
        unprobed=[title for name, (title, _) in GROUPS.items() if name not in verdicts],
        counts={verdict.value: sum(r.verdict is verdict for r in report.results) for verdict in Verdict},
        words=WORDS,
        rest=max(0.0, report.duration - spent),
        longest=max([report.duration - spent, 0.1, *(group.seconds or 0 for group in groups)]),
    )
