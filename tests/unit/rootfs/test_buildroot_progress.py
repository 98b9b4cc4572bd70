"""What is told of a build where there is no bar: a log, a pipe."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from rootfs.engines.buildroot import progress


def test_each_package_that_is_done_has_a_line_and_so_has_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=120)
    with progress.show_progress(["host"], console) as say:
        for now, words, done in (  # noqa: B007 - the clock reads it
            (1000.0, "zlib", 0),
            (1030.0, "linux", 1),
            (1050.0, "linux", 1),
            (1089.0, "linux", 1),
            (1090.0, "linux", 1),
            (1091.0, "linux", 1),
        ):
            say["host"](words, done, 3)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "  … host: 0 of 3 packages after 0 min; zlib",
        "  … host: 1 of 3 packages after 0 min; linux",
        "  … host: 1 of 3 packages after 2 min; linux",
    ]
