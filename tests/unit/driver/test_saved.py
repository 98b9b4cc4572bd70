"""Saving a machine, with a QEMU that answers as the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driver.errors import MachineError
from driver.monitor import Monitor
from driver.saved import save


class FakeMonitor(Monitor):
    """Nothing runs; ``query-migrate`` answers ``answers`` one after the other."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)

    def command(self, command: str, **arguments: Any) -> Any:
        return self._answers.pop(0) if command == "query-migrate" else {}


def test_a_machine_is_saved_when_its_devices_are_too(tmp_path: Path) -> None:
    """QEMU says ``device`` for a moment after ``active``: the devices' state is being written, nothing has failed."""
    kept, own = tmp_path / "kept", tmp_path / "own"
    for folder in (kept, own):
        folder.mkdir()
    for name in ("state", "vars.fd"):
        (own / name).write_text(name)
    states = ("setup", "active", "device", "device", "completed")
    monitor = FakeMonitor({}, *({"status": state} for state in states))
    saved = save(monitor, own, tmp_path / "disk", kept)
    assert saved.state.read_text() == "state"
    assert saved.disk == tmp_path / "disk"


def test_a_failure_to_save_is_told_in_qemu_s_words(tmp_path: Path) -> None:
    monitor = FakeMonitor({"status": "active"}, {"status": "failed", "error-desc": "No space left"})
    with pytest.raises(MachineError, match="No space left"):
        save(monitor, tmp_path, tmp_path / "disk", tmp_path)
