"""The table of times at the end of a test run: tests, shared fixtures and logged steps, in one process and in two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rootfs.base.version import PROJECT

CONFTEST = """
from pathlib import Path
from tests.timing import Timing

def pytest_configure(config):
    config.pluginmanager.register(Timing(Path("times.json"), 60.0))
"""
TESTS = """
import time
import pytest
from driver.steps import step

@pytest.fixture(scope="module")
def shared():
    with step("boot", "an image"):
        time.sleep(0.8)

@pytest.fixture
def own():
    time.sleep(0.6)

def test_that_needs_it_first(shared):
    pass

def test_that_has_it(shared, own):
    pass
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_time_is_counted_where_it_is_spent(tmp_path: Path, processes: int) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "tests/unit").mkdir(parents=True)
    (tmp_path / "tests/unit/test_it.py").write_text(TESTS)
    split = ("-n", str(processes), "--dist", "loadfile") if processes else ()
    command = [sys.executable, "-m", "pytest", "--rootdir", tmp_path, *split, "tests"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    times = json.loads((tmp_path / "times.json").read_text())
    (fixture,) = times["fixtures"]
    assert "shared" in fixture
    assert 0.8 <= times["fixtures"][fixture] < 1.2
    assert list(times["tests"]) == ["tests/unit/test_it.py::test_that_has_it"]
    assert times["steps"]["boot"]["number"] == times["steps"]["build"]["number"] == 1
    assert times["steps"]["boot"]["seconds"] >= 0.8
    assert times["parts"]["unit"] >= 1.4
    assert "slowest tests and shared fixtures" in done.stdout
    assert "1 x boot" in done.stdout
