"""Saving a machine, against a QEMU that answers what the test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver.machine import Machine, MachineError
from rootfs.base.tools_tree import Tools
from tests.images import image_file


class SavingMachine(Machine):
    """Nothing runs; ``query-migrate`` says ``answers`` one after the other."""

    def __init__(self, folder: Path, *answers: dict[str, Any]) -> None:
        super().__init__(
            Tools(folder),
            image_file(folder / "image", test_access=True),
            persist=folder / "disk",
        )
        self._answers = list(answers)
        for name in ("state", "vars.fd"):
            (self._directory / name).write_text(name)

    def qmp(self, command: str, **arguments: Any) -> Any:
        return self._answers.pop(0) if command == "query-migrate" else {}


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    made: list[Machine] = []
    yield made
    for machine in made:
        machine.stop()


def test_a_machine_is_saved_when_its_devices_are_too(tmp_path: Path, machines: list[Machine]) -> None:
    """QEMU says ``device`` for a moment after ``active``: the devices' state is being written, nothing has failed."""
    kept = tmp_path / "kept"
    kept.mkdir()
    states = ("setup", "active", "device", "device", "completed")
    machine = SavingMachine(tmp_path, {}, *({"status": state} for state in states))
    machines.append(machine)
    saved = machine.save(kept)
    assert saved.state.read_text() == "state"


def test_a_failure_to_save_is_told_in_qemu_s_words(tmp_path: Path, machines: list[Machine]) -> None:
    machine = SavingMachine(tmp_path, {"status": "active"}, {"status": "failed", "error-desc": "No space left"})
    machines.append(machine)
    with pytest.raises(MachineError, match="No space left"):
        machine.save(tmp_path)
