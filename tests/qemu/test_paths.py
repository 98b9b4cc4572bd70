"""QEMU starts, is reached and keeps a machine wherever its files are. Nothing boots: seconds."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from driver.machine import QemuMachine
from driver.ports import Forward
from driver.shell import HostShell
from proof.rig import listening
from rootfs.base.tools_tree import Tools
from tests.conftest import ODD_NAMES
from tests.images import image_file

pytestmark = pytest.mark.qemu
SIZE = 1 << 20


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if ":" not in name], ids=ascii)
def test_a_machine_in_an_odd_place(tools: Tools, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of everything that it has a path of: temporary files, image, disk, sockets, saved state, the tools themselves."""
    odd = tmp_path / name
    for part in ("tmp", "image", "kept"):
        (odd / part).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(odd / "tmp"))
    (odd / "tools").symlink_to(tools.tree)
    disk, image = odd / "image/disk.img", image_file(odd / "image/x,y.img")
    for path in (disk, image.path):
        path.touch()
        with path.open("r+b") as file:
            file.truncate(SIZE)
    with (
        listening(odd / "wire.pcapng", None) as (wire, path),
        QemuMachine(
            Tools(odd / "tools"), image, wire=path, forward=Forward(), persist=disk, log=odd / "console"
        ) as machine,
    ):
        wire.wait_connected(10)
        HostShell(machine.shell_socket).close()
        (block,) = [entry for entry in machine.qmp("query-block") if entry["device"] == "disk"]
        assert block["inserted"]["image"]["virtual-size"] == SIZE
        machine.run()
        saved = machine.save(odd / "kept")
    assert list((odd / "tmp").iterdir()) == []
    assert stat.S_IMODE((odd / "console").stat().st_mode) == 0o600, "it may have a password"
    with QemuMachine(Tools(odd / "tools"), image, saved=saved) as again:
        again.run()
        assert again.alive()
    with QemuMachine(Tools(odd / "tools"), image) as again:
        assert again.qmp("query-name") == {"name": "an-image"}
