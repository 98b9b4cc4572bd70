"""Device profiles: what is wrong is named by file and field."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from backend import audit
from rootfs import profile
from rootfs.errors import SallyportError

GOOD = (profile.DIRECTORY / "qemu.toml").read_text().replace('name = "qemu"', 'name = "mine"')


def write(tmp_path: Path, old: str, new: str) -> Path:
    assert old in GOOD
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace(old, new, 1))
    return file


def refused(file: Path) -> str:
    with pytest.raises(SallyportError) as caught:
        profile.load(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert caught.value.hint
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize("name", profile.names())
def test_shipped_profiles_load(name: str) -> None:
    assert profile.load(name).name == name


def test_there_is_a_profile_for_the_virtual_machine_and_one_for_hardware() -> None:
    assert {"qemu", "x86-64-uefi"} <= set(profile.names())
    assert profile.load("qemu").kernel == "cloud"
    assert profile.load("x86-64-uefi").kernel == "generic"


def test_a_profile_of_ones_own_loads_by_its_path(tmp_path: Path) -> None:
    mine = profile.load(str(write(tmp_path, 'match = "first"', 'match = "pci:0000:02:00.1"')))
    assert (mine.name, mine.management.match) == ("mine", "pci:0000:02:00.1")
    assert str(mine.management.interface.ip) == "192.168.42.1"


def test_a_profile_that_says_nothing_of_the_forwarder_gets_ring_and_vhost_user(tmp_path: Path) -> None:
    assert "[forwarder" not in GOOD
    forwarder = profile.load("qemu").forwarder
    assert (forwarder.port, forwarder.vm, forwarder.tags) == ("ring", "vhost-user", 0)
    assert 0 < forwarder.from_vm.group_rate < forwarder.from_vm.rate
    wish = '[forwarder]\nport = "kernel"\nvm = "tap"\n[forwarder.from_vm]\nrate = 7\n[modules]'
    chosen = profile.load(str(write(tmp_path, "[modules]", wish))).forwarder
    assert (chosen.port, chosen.vm, chosen.from_vm.rate) == ("kernel", "tap", 7)
    assert chosen.from_port == forwarder.from_port


def test_an_unknown_name_gets_a_guess_and_the_list() -> None:
    with pytest.raises(SallyportError, match="'qmeu'") as caught:
        profile.load("qmeu")
    assert "did you mean 'qemu'?" in caught.value.hint
    assert "x86-64-uefi" in caught.value.hint


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match=re.escape(str(tmp_path / "absent.toml"))):
        profile.load(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("cpus = 1", "cpus = 1\ncpu = 2", "vm.cpu"),
        ("cpus = 1", "", "vm.cpus"),
        ("cpus = 1", "cpus = 0", "vm.cpus"),
        ("cpus = 1", 'cpus = "1"', "vm.cpus"),
        ("cpus = 1", "cpus = 1.0", "vm.cpus"),
        ("memory_mib = 192", "memory_mib = 95", "vm.memory_mib"),
        ("memory_mib = 192", "memory_mib = 4097", "vm.memory_mib"),
        ("slot_mib = 128", "slot_mib = true", "disk.slot_mib"),
        ("esp_mib = 64", "esp_mib = 47", "disk.esp_mib"),
        ("data_mib = 64", "data_mib = 65537", "disk.data_mib"),
        ("data_mib = 64", f"data_mib = {profile.LEAST_DATA_MIB - 1}", "disk.data_mib"),
        ("data_mib = 64", "data_mib = -64", "disk.data_mib"),
        ('arch = "x86_64"', 'arch = "m68k"', "arch"),
        ('kernel = "cloud"', 'kernel = "fog"', "kernel"),
        ('console = "ttyS0,115200"', 'console = "ttyS0 init=/bin/sh"', "console"),
        ('console = "ttyS0,115200"', 'console = "ttyS0\\n"', "console"),
        ('match = "first"', 'match = "pci:0:2:0"', "management.match"),
        ('match = "first"', 'match = "pci:0000:02:00.0; reboot"', "management.match"),
        ('host = ["virtio_net"', 'host = ["virtio net"', "modules.host.0"),
        ('host = ["virtio_net"', 'host = ["$(reboot)"', "modules.host.0"),
        ("initrd = [", 'initrd = "squashfs"\nother = [', "modules.initrd"),
        ("[modules]", '[forwarder]\nport = "hub"\n[modules]', "forwarder.port"),
        ("[modules]", '[forwarder]\nvm = "e1000"\n[modules]', "forwarder.vm"),
        ("[modules]", "[forwarder]\nspeed = 1\n[modules]", "forwarder.speed"),
        ("[modules]", '[forwarder]\nport = "kernel"\n[modules]', "forwarder"),
        ("[modules]", "[forwarder]\ntags = 3\n[modules]", "forwarder.tags"),
        ("[modules]", "[forwarder]\nethertypes = []\n[modules]", "forwarder.ethertypes"),
        ("[modules]", "[forwarder]\nethertypes = [0x0800, 46]\n[modules]", "forwarder.ethertypes.1"),
        ("[modules]", "[forwarder]\nmax_frame = 59\n[modules]", "forwarder.max_frame"),
        ("[modules]", "[forwarder.from_vm]\nrate = -1\n[modules]", "forwarder.from_vm.rate"),
        ("[modules]", "[forwarder.from_port]\ngroup_burst = 0\n[modules]", "forwarder.from_port.group_burst"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert re.match(rf"(.*; )?{re.escape(field)}: ", refused(write(tmp_path, old, new)))


@pytest.mark.parametrize(
    "address",
    [
        "192.168.42.1",
        "192.168.42.1/31",
        "192.168.42.1/33",
        "192.168.42/24",
        "169.254.254.1/30",
        "fd00::1/64",
        "somewhere",
        "",
        "192.168.42.0/24",
        "192.168.42.255/24",
        "127.0.0.1/8",
        "224.0.0.1/24",
        "0.0.0.1/8",
        "192.168.42.1/0.0.0.255",
    ],
)
def test_an_address_that_nobody_could_have_on_a_port_is_refused(tmp_path: Path, address: str) -> None:
    assert refused(write(tmp_path, "192.168.42.1/24", address)).startswith("management.address: ")


def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "memory_mib = 192\ncpus = 1", "memory_mib = 1\ncpus = 99"))
    assert "vm.memory_mib: " in message
    assert "vm.cpus: " in message


def test_bad_toml_names_file_and_line(tmp_path: Path) -> None:
    assert re.search(r"line \d+", refused(write(tmp_path, "cpus = 1", "cpus =")))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'name = "\xff"')
    refused(file)


def test_the_name_must_be_the_files(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text(GOOD)
    assert refused(file).startswith("name: 'mine'")


def test_a_profile_is_not_changed_after_it_was_checked() -> None:
    loaded = profile.load("qemu")
    with pytest.raises(ValueError, match="frozen"):
        loaded.vm.__setattr__("cpus", 99)


def test_the_smallest_data_partition_holds_all_audit_logs_full_and_the_state_besides(tmp_path: Path) -> None:
    """By mke2fs(8) itself, with the options of the image's own."""
    accepted = profile.load(str(write(tmp_path, "data_mib = 64", f"data_mib = {profile.LEAST_DATA_MIB}")))
    disk = tmp_path / "data.ext4"
    with disk.open("wb") as file:
        file.truncate(accepted.disk.data_mib * 2**20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^metadata_csum_seed", disk], check=True)
    said = subprocess.run(["dumpe2fs", "-h", disk], check=True, capture_output=True, text=True).stdout
    facts = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    free = int(facts["Free blocks"]) * int(facts["Block size"])
    kinds = sum(kind.files * kind.file_bytes for kind in audit.KINDS)
    assert free >= kinds + profile.STATE_MIB * 2**20
    assert f"at least {accepted.disk.data_mib}" in refused(
        write(tmp_path, "data_mib = 64", f"data_mib = {accepted.disk.data_mib - 1}")
    )
