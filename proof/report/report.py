"""The report of a proof: JSON and JUnit for machines, a self-contained HTML page for people, a table here.

What the appliance said is quoted in all of them, so every text is taken for hostile: JSON and XML get what they can
carry, the page and the terminal what can be printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jinja2
import msgspec
from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite
from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proof.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict, exit_code, overall
from rootfs.base.errors import SallyportError
from rootfs.base.untrusted import printable

__all__ = [
    "EXIT_HOLE",
    "EXIT_NOT_TESTED",
    "EXIT_SEALED",
    "FileDigest",
    "Report",
    "digest_file",
    "exit_code",
    "from_json",
    "print_summary",
    "printable",
    "publish",
    "replace_text",
    "to_json",
    "write_report",
]

STATEMENT = "statement.dsse.json"
TEMPLATES = Path(__file__).with_name("templates")
MAX_REPORT = 64 << 20
"""Bytes of a ``report.json`` that is read back; a full run writes about 100 kB."""
GROUPS: Mapping[str, tuple[str, str]] = {
    "early": ("The port from power-on", "Frames fired before any service is up are answered by nobody but the VM."),
    "controls": ("Positive controls at the port", "What must answer answers, by the path of every negative probe."),
    "port": (
        "Every port and protocol of the VM",
        "Of all TCP and UDP ports and IP protocols, only the expected answer.",
    ),
    "host": ("The host behind the port", "No frame makes the host answer: no address, MAC, protocol or tag."),
    "drops": ("What is dropped, by the counters", "A frame that must be dropped arrived, and its drop was counted."),
    "passive": ("Every frame since power-on", "Whatever left the port was sent by the VM, for itself."),
    "audit": ("The traces", "What strangers provoke pushes out no operator's entry, and every log is a whole chain."),
    "devices": ("What the VM can see", "Its devices, firmware and processor are those that were declared."),
    "forwarding": ("Between the VM's two NICs", "Nothing passes: a packet for somebody else ends in the VM."),
    "link-controls": ("Positive controls on the link", "The backend can be reached from inside the VM."),
    "link": ("The host behind the link", "A root shell in the VM reaches the backend's port and nothing else."),
    "spoof": ("Frames under false names", "The VM cannot send as anybody else."),
    "instructions": ("The backend's protocol misused", "Nothing but a well-formed, fresh, permitted instruction acts."),
    "flood": ("Floods from inside", "The host does its own work, and the backend answers in time."),
    "listeners": ("Listening sockets of the host", "The backend's port is the only one, in every namespace."),
    "system": ("The running host", "Services are confined, the root is read-only, the kernel is set as declared."),
    "flash": ("The whole flash image", "Each byte is what this checkout makes of its root file system and its kernel."),
    "tree": ("The image's own files", "No secret, no surprise of rights, no way to log in."),
}
"""Title and promise of each group, in the order of the report; unknown groups follow."""
_BOOTS: Mapping[str, tuple[str, str]] = {
    "outside": ("The image at its port", "It boots and lives to the end of the probes."),
    "inside": ("The test image", "It boots and lets the probes in."),
}
"""Where a run says that a whole boot came to nothing; no place in the picture."""
WORDS = {
    Verdict.CONTROL: "seen",
    Verdict.SEALED: "sealed",
    Verdict.HOLE: "HOLE",
    Verdict.NOT_TESTED: "not tested",
}
_STYLES = {Verdict.CONTROL: "cyan", Verdict.SEALED: "green", Verdict.HOLE: "bold red", Verdict.NOT_TESTED: "yellow"}
_BACKGROUND = frozenset({"passive", "early"})
"""Groups that watch while others probe: their time is not of their own."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file that belongs to a run. ``size`` in bytes, ``sha256`` in hex."""

    name: str
    size: int
    sha256: str


def digest_file(path: Path) -> FileDigest:
    """Digest a whole file, whatever its size; `OSError` if it cannot be read."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(path.name, file.tell(), sha256)


@dataclass(frozen=True)
class Report:
    """A whole run. ``started`` is ISO 8601 with its zone; ``duration`` in seconds.

    ``sha256`` is the image's in hex; empty for a device, whose image nobody has seen.
    """

    results: list[Result]
    image: str
    sha256: str
    seed: int
    started: str
    duration: float
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further facts worth a line, such as the boot time."""
    captures: tuple[FileDigest, ...] = ()
    """The pcapng files of the run, beside the report."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of the run."""
        return overall(self.results)

    @property
    def repeat(self) -> str:
        """The command line that makes the same random choices again."""
        try:
            words = shlex.split(self.command)
        except ValueError:
            return self.command
        kept = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if "--seed" not in (before, word) and not word.startswith("--seed=")
        ]
        return shlex.join([*kept, "--seed", str(self.seed)])

    def groups(self) -> list[tuple[str, list[Result]]]:
        """Return the results by group, in the report's order."""
        names = sorted({r.group for r in self.results}, key=lambda n: ([*GROUPS, n].index(n), n))
        return [(name, [r for r in self.results if r.group == name]) for name in names]


def group_verdict(results: Iterable[Result]) -> Verdict | None:
    """Return the worst verdict of a group, or ``None`` if it has no results."""
    order = (Verdict.HOLE, Verdict.NOT_TESTED, Verdict.SEALED, Verdict.CONTROL)
    verdicts = {result.verdict for result in results}
    return next((verdict for verdict in order if verdict in verdicts), None)


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` is always whole, after a power cut too: the old file or the new one."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_json(report: Report) -> str:
    """Return the report as JSON; half a surrogate pair, which no JSON text can carry, becomes a question mark."""
    body = {**asdict(report), "verdict": report.verdict, "exit_code": exit_code(report.results)}
    text = json.dumps(body, indent=2, default=str, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace").decode()


_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_DigestOrNone = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class _SavedResult(msgspec.Struct, forbid_unknown_fields=True):
    group: _Name
    name: _Name
    tried: str
    verdict: Verdict
    evidence: str
    control: str
    duration: _Seconds
    frames: tuple[str, ...]


class _SavedDigest(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: _Digest


class _SavedReport(msgspec.Struct, forbid_unknown_fields=True):
    results: list[_SavedResult]
    image: _Name
    sha256: _DigestOrNone
    seed: int
    started: str
    duration: _Seconds
    command: str
    versions: dict[str, str]
    facts: dict[str, str]
    captures: tuple[_SavedDigest, ...]
    verdict: Verdict
    exit_code: int


def from_json(text: str | bytes) -> Report:
    """Load what `to_json` wrote.

    Raises:
        SallyportError: it is no such report, or says a verdict that its own results do not bear out.
    """
    try:
        if len(text) > MAX_REPORT:
            raise ValueError(f"it is longer than {MAX_REPORT} bytes")
        saved = msgspec.json.decode(text, type=_SavedReport)
        if datetime.fromisoformat(saved.started).tzinfo is None:
            raise ValueError(f"{saved.started!r} has no time zone - at `$.started`")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError
        raise SallyportError(
            f"this is no report of a proof: {error}", "name a report.json of `invoke verify`"
        ) from error
    values = {name: getattr(saved, name) for name in saved.__struct_fields__}
    values["results"] = [Result(**msgspec.structs.asdict(result)) for result in saved.results]
    values["captures"] = tuple(FileDigest(**msgspec.structs.asdict(capture)) for capture in saved.captures)
    said = values.pop("verdict"), values.pop("exit_code")
    report = Report(**values)
    if said != (report.verdict, exit_code(report.results)):
        raise SallyportError(
            f"this report says {said[0]} (exit code {said[1]}), but its results say {report.verdict}",
            "it was changed after the run: repeat the proof",
        )
    return report


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML: a hole is a failure, what was not tested an error."""
    xml = JUnitXml("sallyport verify")
    for name, results in report.groups():
        suite = TestSuite(printable(f"verify.{name}"))
        for result in results:
            case = TestCase(printable(result.name), printable(f"verify.{name}"), time=round(result.duration, 3))
            text = printable("\n".join([result.tried, result.evidence, f"control: {result.control}", *result.frames]))
            if result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED):
                kind = Failure if result.verdict is Verdict.HOLE else Error
                outcome = kind(printable(result.evidence), result.verdict.value)
                outcome.text = text
                case.result = [outcome]
            case.system_out = text
            suite.add_testcase(case)
        suite.add_property("seed", str(report.seed))
        suite.add_property("sha256", report.sha256)
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    return str(xml.tostring().decode())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Row:
    """A result and the name of its place in the page, which no text of the appliance has a part in."""

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
        """What is not in order."""
        return tuple(row for row in self.rows if row.result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED))

    @property
    def fine(self) -> tuple[_Row, ...]:
        """The others."""
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
    """Make a value fit to be shown: `Markup` is the template's own text, any other may be the appliance's."""
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


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``report.json``, ``junit.xml`` and ``report.html`` into ``folder``; return the paths by kind.

    Raises:
        OSError: one of them cannot be written; what was there before is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.json": to_json(report), "junit.xml": to_junit(report), "report.html": to_html(report)}
    for name, text in texts.items():
        replace_text(folder / name, text)
    return {Path(name).suffix[1:]: folder / name for name in texts}


def captures_of(folder: Path, since: str) -> tuple[FileDigest, ...]:
    """Digest the captures in ``folder`` that were written after ``since`` (ISO 8601): others are of another run."""
    began = datetime.fromisoformat(since).timestamp()
    return tuple(digest_file(path) for path in sorted(folder.glob("*.pcapng")) if path.stat().st_mtime >= began)


def publish(report: Report, folder: Path, key: Path | None = None) -> dict[str, Path]:
    """Write the report into ``folder``, where its captures are, and sign a statement about all of it if there is a key.

    A statement of an earlier run is removed: it would be about files that are no longer there.

    Args:
        report: its captures are looked for if it names none.
        folder: of the report, the captures and the statement.
        key: PEM file of the private key.

    Returns:
        The paths by kind: ``json``, ``xml``, ``html``, and ``statement`` if there is one.

    Raises:
        OSError: something cannot be written.
        SallyportError: the statement cannot be signed; the report is written nevertheless.
    """
    if not report.captures and folder.is_dir():
        report = replace(report, captures=captures_of(folder, report.started))
    (folder / STATEMENT).unlink(missing_ok=True)
    paths = write_report(report, folder)
    if key is not None:
        from proof.report.statement import sign  # it reads reports, so it cannot come first

        sign(
            report, [*paths.values(), *(folder / capture.name for capture in report.captures)], key, folder / STATEMENT
        )
        paths["statement"] = folder / STATEMENT
    return paths


def print_summary(report: Report, console: Console | None = None) -> None:
    """Print one line for each probe, the details of what is not in order, and the verdict."""
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
