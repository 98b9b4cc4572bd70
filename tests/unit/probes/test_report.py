"""The report says what was found, escapes what is hostile and is never half written."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from tests.probes.report import Report, print_summary, write_report
from tests.probes.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict, exit_code

HOSTILE = "<script>alert(1)</script>[red]\x00\x1b[31m\ud800&"


def result(verdict: Verdict, name: str = "probe", text: str = "evidence") -> Result:
    return Result("host", name, "tried", verdict, text, "control", 0.5, (text,))


def report(*results: Result) -> Report:
    return Report(list(results), "a.img", "ab" * 32, 7, "2026-01-01T00:00:00+00:00", 3.0, "invoke verify")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["sealed", "control"], EXIT_SEALED),
        (["sealed", "hole", "not-tested"], EXIT_HOLE),
        (["sealed", "not-tested"], EXIT_NOT_TESTED),
        (["control"], EXIT_NOT_TESTED),
        ([], EXIT_NOT_TESTED),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    assert exit_code([result(Verdict(verdict)) for verdict in verdicts]) == code


def test_the_files(tmp_path: Path) -> None:
    hostile = result(Verdict.HOLE, text=HOSTILE)
    paths = write_report(
        report(hostile, result(Verdict.NOT_TESTED, "b"), result(Verdict.SEALED, "c")), tmp_path / "out"
    )
    body = json.loads(paths["json"].read_text())
    assert (body["verdict"], body["exit_code"], body["seed"], len(body["results"])) == ("hole", 3, 7, 3)
    root = ET.fromstring(paths["xml"].read_text())
    assert [len(root.findall(f".//testcase/{kind}")) for kind in ("failure", "error")] == [1, 1]
    page = paths["html"].read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Hole found" in page
    assert "http" not in page.replace("http-equiv", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["junit.xml", "report.html", "report.json"]


def test_a_failing_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(report(result(Verdict.SEALED)), tmp_path)
    before = (tmp_path / "report.json").read_text()
    monkeypatch.setattr("tests.probes.report.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(report(result(Verdict.HOLE)), tmp_path)
    assert (tmp_path / "report.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_the_summary_shows_hostile_text_as_text() -> None:
    out = io.StringIO()
    print_summary(report(result(Verdict.HOLE, text="[red]x[/red]")), Console(file=out, width=120))
    assert "[red]x[/red]" in out.getvalue()
    assert out.getvalue().rstrip().endswith("HOLE after 3 s")
