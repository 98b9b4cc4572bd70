from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rootfs.base.errors import SallyportError
from tests.bench import figures
from tests.bench.figures import Figure


def test_median_counts_not_the_mean_or_the_last() -> None:
    figure = Figure("boot", "s", 45, (40.0, 100.0, 44.0))
    assert figure.median == 44.0
    assert figure.met
    assert not Figure("boot", "s", 45, (46.0, 1.0, 46.0)).met


def test_finish_writes_whole_json_and_shows_what_was_missed(tmp_path: Path) -> None:
    said = io.StringIO()
    output = tmp_path / "deep/er/figures.json"
    bench = figures.begin(2, output, Console(file=said, width=200))
    told = Figure("told", "s", None, (7.0,))
    assert told.met is None
    bench.finish([Figure("fast", "s", 2, (1.0, 1.5)), Figure("slow", "s", 2, (9.0004, 9.0004)), told])
    found = json.loads(output.read_text())
    assert set(found) == {"when", "machine", "figures"}
    assert set(found["machine"]) == {"cpus", "kernel", "loadavg"}
    assert found["figures"][0] == {"name": "fast", "unit": "s", "target": 2, "median": 1.25, "runs": [1.0, 1.5]}
    assert found["figures"][1]["median"] == 9.0
    rows = {words[1]: line for line in said.getvalue().splitlines() if len(words := line.split()) > 2}
    assert "yes" in rows["fast"]
    assert "no" in rows["slow"]
    assert not {"yes", "no"} & set(rows["told"].split())
    assert found["figures"][2]["target"] is None
    assert [path.name for path in output.parent.iterdir()] == ["figures.json"]  # no temporary file is left


def test_finish_keeps_the_old_figures_when_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "figures.json"
    output.write_text("old")
    bench = figures.begin(1, output, Console(quiet=True))

    def refuse(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no room"):
        bench.finish([Figure("fast", "s", 2, (1.0,))])
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("runs", [0, -1])
def test_begin_refuses_no_runs(tmp_path: Path, runs: int) -> None:
    with pytest.raises(SallyportError, match="nothing to measure"):
        figures.begin(runs, tmp_path / "x.json", Console(quiet=True))


def test_begin_refuses_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match="directory"):
        figures.begin(1, tmp_path, Console(quiet=True))
