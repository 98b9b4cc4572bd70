"""A short run of every fuzz target, and every seed once; `invoke fuzz --minutes N` is the long one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from rootfs.base.tools_tree import Tools
from tests.fuzz import run

pytestmark = pytest.mark.fuzz

CONSOLE = Console(stderr=True)
MINUTES = 1.5
SEED = 20260101


def test_no_seed_breaks_anything(tools: Tools, tmp_path: Path) -> None:
    report = run.replay(run.on_tree(tools), [], CONSOLE, work=tmp_path)
    report.show(CONSOLE)
    assert report.ok
    assert all(result.inputs > 10 and result.coverage > 50 for result in report.results)


def test_a_short_search_finds_nothing(tools: Tools, tmp_path: Path) -> None:
    report = run.run(run.on_tree(tools), MINUTES, [], CONSOLE, seed=SEED, work=tmp_path)
    report.show(CONSOLE)
    assert report.ok
    assert all(result.executions > 100 for result in report.results)


def test_a_check_that_is_missing_is_found(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the check that a descriptor's index is inside the table, a target must break."""
    core, name = tmp_path / "core", "backend/forwarder/core"
    shutil.copytree(run.SOURCES[name], core)
    source = core / "virtqueue.c"
    text = source.read_text()
    check = "if (index >= size)"
    assert check in text
    source.write_text(text.replace(check, "if (index >= size && index == 0)"))
    monkeypatch.setitem(run.SOURCES, name, core)
    report = run.replay(run.on_tree(tools), ["virtqueue"], CONSOLE, work=tmp_path / "work")
    assert not report.ok
    assert report.exit_code == 1
    assert list((tmp_path / "work/crashes/virtqueue").iterdir())
