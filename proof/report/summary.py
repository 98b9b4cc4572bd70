"""The report as a table in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proof.report.report import WORDS, Report
from proof.result import Verdict
from rootfs.base.untrusted import printable

_STYLES = {Verdict.CONTROL: "cyan", Verdict.SEALED: "green", Verdict.HOLE: "bold red", Verdict.NOT_TESTED: "yellow"}


def print_summary(report: Report, console: Console | None = None) -> None:
    """Print a table with a line for each probe, the frames of each hole, and the verdict."""
    console = console or Console()

    def safe(text: str) -> str:
        return escape(printable(text))

    title = f"{safe(Path(report.image).name)}  seed {report.seed}"
    table = Table(title=title, title_justify="left", expand=False)
    for column, options in (("group", {}), ("probe", {}), ("verdict", {}), ("evidence", {"overflow": "fold"})):
        table.add_column(column, **options)  # type: ignore[arg-type]
    table.add_column("s", justify="right")
    for name, results in report.groups():
        for result in results:
            word = f"[{_STYLES[result.verdict]}]{WORDS[result.verdict]}[/]"
            table.add_row(safe(name), safe(result.name), word, safe(result.evidence), f"{result.duration:.1f}")
        table.add_section()
    console.print(table)
    for result in report.results:
        for frame in result.frames if result.verdict is Verdict.HOLE else ():
            console.print(f"  [red]{safe(result.name)}[/] {safe(frame)}", highlight=False)
    verdict = report.verdict
    scope = f" ({safe(report.facts['scope'])})" if "scope" in report.facts else ""
    console.print(f"[{_STYLES[verdict]}]{WORDS[verdict].upper()}[/] after {report.duration:.0f} s{scope}")
