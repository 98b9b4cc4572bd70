"""Disks that come late: the first one is waited for, a second one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.appliance import Api, first_password, wait_managed
from driver.machine import QemuMachine
from driver.ports import Forward, free_port
from rootfs import build as images
from rootfs.artifact import gpt, layout
from rootfs.artifact.gpt import Table
from rootfs.artifact.imagefile import open_image
from rootfs.base.tools_tree import Tools
from rootfs.build import Built

pytestmark = pytest.mark.qemu

PORTS = ("first", "second")


def starter(image: Path, target: Path) -> None:
    """A disk that holds what the firmware starts, and no slot."""
    table = gpt.read(image)
    esp = table.partitions[0]
    with image.open("rb") as source, target.open("wb") as file:
        size = esp.start + esp.size + layout.ALIGNMENT
        file.truncate(size)
        gpt.write(file, Table(table.sector, size, table.disk, (esp,)))
        source.seek(esp.start)
        file.seek(esp.start)
        file.write(source.read(esp.size))


def plug(machine: QemuMachine, image: Path, port: str) -> None:
    """Plug in a disk that has the image, write-protected."""
    file = {"driver": "file", "filename": machine.path_of(image)}
    machine.qmp("blockdev-add", **{"driver": "raw", "node-name": f"disk-{port}", "read-only": True, "file": file})
    machine.qmp("device_add", driver="virtio-blk-pci", id=f"plugged-{port}", drive=f"disk-{port}", bus=port)


def test_a_late_disk_is_waited_for_and_a_second_one_is_refused(tools: Tools, release: Built) -> None:
    forward, image = Forward(free_port()), open_image(release.image)
    disk = images.OUT / "test-starter.disk"
    starter(image.path, disk)
    extra = [w for n, p in enumerate(PORTS, 1) for w in ("-device", f"pcie-root-port,id={p},chassis={n},slot={n}")]
    log = images.OUT / "test-disks.log"
    try:
        with QemuMachine(
            tools, image, forward=forward, persist=disk, log=log, shown=[image.path], extra=extra
        ) as machine:
            machine.run()
            for seconds in (5, 10, 25):
                machine.wait_serial(f"waiting for a disk with a partition slot-a, {seconds}", 120)
            plug(machine, image.path, "first")
            api = Api(forward.https)
            wait_managed(machine, api)
            # The disk is write-protected: it is no reason to be locked out either.
            machine.wait_serial("is write-protected", 1)
            api.login(first_password(machine))
            assert api.get("/status")["storage"]["state"] == "copy"
            mark = len(machine.serial)
            plug(machine, image.path, "second")
            machine.wait_serial("Two disks have a partition slot-a", 30, start=mark)
            machine.wait_serial("two partitions are named slot-a, vd.2 and vd.2; unplug the disk", 120, start=mark)
    finally:
        disk.unlink()
