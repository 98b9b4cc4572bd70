"""Several profiles at the same time: one that fails is told with its own words, and does not hold the others up."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from rootfs import matrix


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
