from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from driver.errors import MachineError
from rootfs.build import Built
from tests.bench import boot

QUIET = Console(quiet=True)


class Appliance:
    """An appliance in no time: its clock moves when somebody waits."""

    def __init__(self) -> None:
        self.now, self.starts, self.born = 1000.0, 1, 1000.0
        self.restarts, self.back_after, self.boots = 1, 6.0, 0
        self.kills: list[float] = []

    def wait_managed(self, machine: Any, api: Any, timeout: float = 0.0) -> float:
        if not api.port:
            raise MachineError("no port")
        if not self.kills and not machine.shell_used:
            self.boots += 1
            self.now += 30.0 + self.boots
            return 30.0 + self.boots
        self.now += self.back_after
        return 12345.0  # since power-on: not what a kill is measured by

    def check(self, command: str) -> str:
        assert "kill -9" in command
        self.kills.append(self.now - self.born)
        self.starts += self.restarts
        self.born = self.now
        return ""


@pytest.fixture
def appliance(monkeypatch: pytest.MonkeyPatch) -> Appliance:
    it = Appliance()

    class Machine:
        def __init__(self, tools: Any, image: Any, *, forward: Any, log: Path) -> None:
            assert forward.https
            self.shell_used, self.shell_socket, self.image = False, Path("/no/socket"), image

        def __enter__(self) -> Machine:
            return self

        def __exit__(self, *_: object) -> None: ...

        def run(self) -> None: ...

    class Api:
        def __init__(self, port: int) -> None:
            self.port, self.cookie = port, ""

        def login(self, password: str) -> None:
            assert password == "secret"
            self.cookie = "open"

        def get(self, path: str) -> Any:
            assert (path, self.cookie) == ("/status", "open")
            return {"machine": {"state": "running", "uptime_s": it.now - it.born, "starts": it.starts}}

    def sleep(seconds: float) -> None:
        it.now += seconds

    monkeypatch.setattr(boot, "time", SimpleNamespace(monotonic=lambda: it.now, sleep=sleep))
    monkeypatch.setattr(boot, "PackageSets", lambda cache: SimpleNamespace(tools=None))
    monkeypatch.setattr(boot, "QemuMachine", Machine)
    monkeypatch.setattr(boot, "Api", Api)
    monkeypatch.setattr(boot, "wait_managed", it.wait_managed)
    monkeypatch.setattr(boot, "open_image", lambda path: path)
    monkeypatch.setattr(boot, "first_password", lambda machine: "secret")
    monkeypatch.setattr(boot, "wait_host_shell", lambda path: SimpleNamespace(check=it.check, close=lambda: None))
    return it


def _built(name: str) -> Built:
    return Built(Path(f"{name}.img"), Path(f"{name}.manifest.json"), Path("tree"), Path("vm"), "00")


def test_boots_and_kills_are_measured(appliance: Appliance, tmp_path: Path) -> None:
    output = tmp_path / "boot.json"
    boot.run(3, output, QUIET, _built("test"), _built("release"))
    power_on, back = json.loads(output.read_text())["figures"]
    assert (power_on["target"], power_on["runs"], power_on["median"]) == (45, [31.0, 32.0, 33.0], 32.0)
    assert (back["target"], back["runs"]) == (15, [6.0, 6.0, 6.0])
    # None was killed before it was old enough to be started again without a pause.
    assert min(appliance.kills) >= boot.SETTLED_S > 10
    assert len(appliance.kills) == 3


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_vm_that_did_not_restart_once_is_not_a_figure(appliance: Appliance, tmp_path: Path, restarts: int) -> None:
    appliance.restarts = restarts
    with pytest.raises(MachineError, match=f"started {restarts} times"):
        boot.run(1, tmp_path / "boot.json", QUIET, _built("test"), _built("release"))
    assert not (tmp_path / "boot.json").exists()


def test_a_vm_that_never_settles_is_given_up(appliance: Appliance) -> None:
    with pytest.raises(MachineError, match="did not settle within 5 s: running for"):
        boot.settled(1, "secret", age=1e9, timeout=5)
