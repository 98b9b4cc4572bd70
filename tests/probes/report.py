"""The report of a proof: JSON and JUnit for machines, a self-contained HTML page for people, a table here."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.probes.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict, exit_code, overall

__all__ = ["EXIT_HOLE", "EXIT_NOT_TESTED", "EXIT_SEALED", "Report", "exit_code", "print_summary", "write_report"]

TEMPLATES = Path(__file__).with_name("templates")
GROUPS: Mapping[str, tuple[str, str]] = {
    "controls": ("Positive controls at the port", "What must answer answers, by the path of every negative probe."),
    "port": ("Every TCP port of the VM", "Only the expected ports accept a connection."),
    "host": ("The host behind the port", "No frame makes the host answer: no address, MAC, protocol or tag."),
    "passive": ("Every frame since power-on", "Whatever left the port was sent by the VM, for itself."),
    "link-controls": ("Positive controls on the link", "The backend can be reached from inside the VM."),
    "link": ("The host behind the link", "A root shell in the VM reaches the backend's port and nothing else."),
    "spoof": ("Frames under false names", "The VM cannot send as anybody else."),
    "listeners": ("Listening sockets of the host", "The backend's port is the only one, in every namespace."),
}
"""Title and promise of each group, in the order of the report; unknown groups follow."""
WORDS = {
    Verdict.CONTROL: "seen",
    Verdict.SEALED: "sealed",
    Verdict.HOLE: "HOLE",
    Verdict.NOT_TESTED: "not tested",
}
_STYLES = {Verdict.CONTROL: "cyan", Verdict.SEALED: "green", Verdict.HOLE: "bold red", Verdict.NOT_TESTED: "yellow"}


@dataclass(frozen=True)
class Report:
    """A whole run. ``started`` is ISO 8601; ``duration`` in seconds; ``sha256`` of the image in hex."""

    results: list[Result]
    image: str
    sha256: str
    seed: int
    started: str
    duration: float
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further facts worth a line, such as the boot time or the names of the captures."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of the run."""
        return overall(self.results)

    def groups(self) -> list[tuple[str, list[Result]]]:
        """Return the results by group, in the report's order."""
        names = sorted({r.group for r in self.results}, key=lambda n: ([*GROUPS, n].index(n), n))
        return [(name, [r for r in self.results if r.group == name]) for name in names]


def group_verdict(results: Iterable[Result]) -> Verdict | None:
    """Return the worst verdict of a group, or ``None`` if it has no results."""
    order = (Verdict.HOLE, Verdict.NOT_TESTED, Verdict.SEALED, Verdict.CONTROL)
    verdicts = {result.verdict for result in results}
    return next((verdict for verdict in order if verdict in verdicts), None)


def _replace(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` is always whole: the old file or the new one."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_json(report: Report) -> str:
    """Return the report as JSON."""
    body = {**asdict(report), "verdict": report.verdict, "exit_code": exit_code(report.results)}
    return json.dumps(body, indent=2, default=str) + "\n"


def _printable(text: str) -> str:
    """Drop what XML 1.0 cannot carry, lone surrogates too; the evidence quotes hostile bytes."""
    return "".join(c if c in "\n\t" or (c.isprintable() and c not in "\ufffe\uffff") else "?" for c in text)


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML: a hole is a failure, what was not tested an error."""
    xml = JUnitXml("sallyport verify")
    for name, results in report.groups():
        suite = TestSuite(f"verify.{name}")
        for result in results:
            case = TestCase(result.name, f"verify.{name}", time=round(result.duration, 3))
            text = _printable("\n".join([result.tried, result.evidence, f"control: {result.control}", *result.frames]))
            if result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED):
                kind = Failure if result.verdict is Verdict.HOLE else Error
                outcome = kind(_printable(result.evidence), result.verdict.value)
                outcome.text = text
                case.result = [outcome]
            case.system_out = text
            suite.add_testcase(case)
        suite.add_property("seed", str(report.seed))
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    return str(xml.tostring().decode())  # type: ignore[no-untyped-call]


def to_html(report: Report) -> str:
    """Return the report as one HTML page without outside references."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups: list[dict[str, Any]] = [
        {
            "name": name,
            "title": GROUPS.get(name, (name, ""))[0],
            "promise": GROUPS.get(name, (name, ""))[1],
            "verdict": group_verdict(results),
            "results": results,
            "seconds": sum(result.duration for result in results if name != "passive"),
        }
        for name, results in report.groups()
    ]
    colours = {name: str(group_verdict(r for r in report.results if r.group == name) or "none") for name in GROUPS}
    counts = {verdict.value: sum(r.verdict is verdict for r in report.results) for verdict in Verdict}
    page = environment.get_template("report.html.j2")
    return page.render(report=report, groups=groups, colours=colours, counts=counts, words=WORDS)


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``report.json``, ``junit.xml`` and ``report.html`` into ``folder``; return the paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.json": to_json(report), "junit.xml": to_junit(report), "report.html": to_html(report)}
    for name, text in texts.items():
        _replace(folder / name, text)
    return {Path(name).suffix[1:]: folder / name for name in texts}


def print_summary(report: Report, console: Console | None = None) -> None:
    """Print one line for each probe, the details of what is not in order, and the verdict."""
    console = console or Console()
    table = Table(title=f"{Path(report.image).name}  seed {report.seed}", title_justify="left", expand=False)
    for column, options in (("group", {}), ("probe", {}), ("verdict", {}), ("evidence", {"overflow": "fold"})):
        table.add_column(column, **options)  # type: ignore[arg-type]
    table.add_column("s", justify="right")
    for name, results in report.groups():
        for result in results:
            word = f"[{_STYLES[result.verdict]}]{WORDS[result.verdict]}[/]"
            row = (escape(name), escape(result.name), word, escape(result.evidence), f"{result.duration:.1f}")
            table.add_row(*row)
        table.add_section()
    console.print(table)
    for result in report.results:
        for frame in result.frames if result.verdict is Verdict.HOLE else ():
            console.print(f"  [red]{escape(result.name)}[/] {escape(frame)}", highlight=False)
    verdict = report.verdict
    console.print(f"[{_STYLES[verdict]}]{WORDS[verdict].upper()}[/] after {report.duration:.0f} s")
