"""The script that finds the management port among all NICs, run on directories that look like sysfs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from backend.protocol import link_plan
from rootfs.base.version import PROJECT
from rootfs.spec import profile
from rootfs.tree import overlay

SCRIPT = PROJECT / "overlays/host/usr/lib/sallyport/port-setup.j2"
DEVICES = {
    "eth5": "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0",  # behind Intel's VMD
    "eth4": "pci1000:00/1000:00:01.0",
    "eth3": "pci0000:00/0000:00:1c.0/0000:0a:00.1",
    "eth2": "pci0000:00/0000:00:1c.0/0000:0a:00.0/virtio3",
    "eth1": "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0",
    "eth0": "platform/30be0000.ethernet",
}


def found(tmp_path: Path, match: str, devices: dict[str, str]) -> str:
    net = tmp_path / "sys/class/net"
    net.mkdir(parents=True)
    (net / "lo").mkdir()
    for name, place in devices.items():
        (tmp_path / "sys/devices" / place).mkdir(parents=True)
        (net / name).mkdir()
        (net / name / "device").symlink_to(tmp_path / "sys/devices" / place)
    device = profile.load("qemu")
    management = profile.ManagementPort.model_validate({"match": match, "address": "192.168.42.1/24"})
    values = {"profile": device.model_copy(update={"management": management}), "link": link_plan}
    text = overlay.render(SCRIPT, values)
    functions = text[text.index("nics() {") : text.index("if ! ip -n mgmt link show mgmt0")]
    code = functions.replace("/sys/class/net", str(net)) + "find_port"
    done = subprocess.run(
        ["sh", "-euc", code], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("match", "name"),
    [
        ("first", "eth2"),
        ("pci:0000:0a:00.0", "eth2"),
        ("pci:0A:00.1", "eth3"),
        ("pci:1000:00:01.0", "eth4"),
        ("pci:10000:E1:00.0", "eth5"),
        ("pci:0000:e1:00.0", ""),
        ("pci:0000:00:00.1", ""),  # the end of another one's address
    ],
)
def test_the_port_is_found_by_its_address(tmp_path: Path, match: str, name: str) -> None:
    assert found(tmp_path, match, DEVICES) == name


def test_the_first_port_is_the_lowest_by_number_and_one_without_a_pci_address_comes_last(tmp_path: Path) -> None:
    order = []
    left = dict(DEVICES)
    while left:
        order.append(found(tmp_path / str(len(left)), "first", left))
        del left[order[-1]]
    assert order == ["eth2", "eth3", "eth4", "eth5", "eth1", "eth0"]
