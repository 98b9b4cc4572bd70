"""Several profiles at the same time: one that fails is told with its own words, and does not hold the others up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from rootfs import matrix
from rootfs.base.version import PROJECT


def test_what_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    rows = matrix.build(["qemu", "x86-64-uefi"], ["--engine", "none-such"], 2, tmp_path, console)
    assert [(row.profile, row.good, row.image) for row in rows] == [("qemu", False, ""), ("x86-64-uefi", False, "")]
    matrix.show(rows, console)
    text = console.export_text()
    assert text.count("failed") == 2
    assert text.count("no engine 'none-such'") == 2
    assert str(tmp_path / "x86-64-uefi.log") in text
    assert [row["profile"] for row in json.loads(matrix.to_json(rows))] == ["qemu", "x86-64-uefi"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_each_build_and_waits_for_it(tmp_path: Path, number: signal.Signals) -> None:
    work = tmp_path / "build"
    work.write_text(f"#!/bin/sh\ntrap 'sleep 0.3; echo >> {tmp_path}/ended; exit 1' TERM\necho >> {tmp_path}/begun\n")
    work.write_text(work.read_text() + "while :; do sleep 0.1; done\n")
    work.chmod(0o755)
    script = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from rootfs import matrix; from rootfs.base.cli_errors import report_errors\n"
        f"sys.executable = {str(work)!r}\n"
        f"call = lambda: matrix.build(['qemu', 'x86-64-uefi'], [], 2, Path({str(tmp_path)!r}), Console(quiet=True))\n"
        "report_errors(call)()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    begun, ended, deadline = tmp_path / "begun", tmp_path / "ended", time.monotonic() + 60
    while not begun.exists() or begun.read_text().count("\n") < 2:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    said = child.communicate(timeout=30)[1]
    assert "interrupted" in said
    assert ended.read_text().count("\n") == 2
