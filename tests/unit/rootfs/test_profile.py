"""Device profiles: what is wrong is named by file and field."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from backend.daemon import audit
from rootfs.base.errors import SallyportError
from rootfs.spec import profile

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
        ("[modules]", "[forwarder]\nmax_frame = 1293\n[modules]", "forwarder.max_frame"),
        ("[modules]", "[forwarder]\nmax_frame = 9019\n[modules]", "forwarder.max_frame"),
        ("[modules]", '[forwarder]\nport = "bridge"\nvm = "tap"\ntags = 1\n[modules]', "forwarder"),
        ('name = "mine"', 'name = "My Box"', "name"),
        ("[modules]", "[forwarder.from_vm]\nrate = -1\n[modules]", "forwarder.from_vm.rate"),
        ("[modules]", "[forwarder.from_port]\ngroup_burst = 0\n[modules]", "forwarder.from_port.group_burst"),
    ],
)
def test_a_wrong_field_is_named_in_plain_words(tmp_path: Path, old: str, new: str, field: str) -> None:
    said = refused(write(tmp_path, old, new))
    assert re.match(rf"(.*; )?{re.escape(field)}: ", said)
    assert not re.search(r"\[a-z|0-9\]|\\d|Input|Extra|pattern|validation", said), "a library's words, or an expression"


@pytest.mark.parametrize(
    ("given", "means"),
    [
        *((word, word) for word in ("ttyS0", "ttyS0,115200", "ttyS0,115200n8", "ttyAMA0", "ttymxc0", "hvc0", "tty0")),
        *((word, word) for word in ("ttyUSB0,9600e7r", "ttyMSM0,115200n8", "ttyPS1,9600o", "ttyS12,57600n")),
        ("ttyS0,115200N8", "ttyS0,115200n8"),
        ("ttyUSB0,9600E7R", "ttyUSB0,9600e7r"),
    ],
)
def test_a_console_is_what_the_kernel_takes(tmp_path: Path, given: str, means: str) -> None:
    assert profile.load(str(write(tmp_path, "ttyS0,115200", given))).console == means


@pytest.mark.parametrize(
    ("console", "wanted"),
    [
        *(
            (word, "such as ttyS0")
            for word in ("", "tty", "/dev/ttyS0", "ttyS0 init=/bin/sh", "ttyS0\\n", "uart,io,0x3f8")
        ),
        *((word, "such as 115200") for word in ("ttyS0,", "ttyS0,fast", "ttyS0,115200x8", "ttyS0,115200n9")),
        *(
            (word, "such as 115200")
            for word in ("ttyS0,115200n8x", "ttyS0,115200 n8", "ttyS0,9600,n8", "ttyS0,115200r")
        ),
        *((word, "50 to 4000000 bit/s") for word in ("ttyS0,0", "ttyS0,49n8", "ttyS0,9999999")),
    ],
)
def test_a_console_that_the_kernel_would_not_take_is_refused_with_an_example(
    tmp_path: Path, console: str, wanted: str
) -> None:
    said = refused(write(tmp_path, "ttyS0,115200", console))
    assert said.startswith("console: ")
    assert wanted in said


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("pci:0000:02:00.1", "pci:0000:02:00.1"),
        ("pci:10000:E1:1F.7", "pci:10000:e1:1f.7"),
        ("pci:0000:0A:00.0", "pci:0000:0a:00.0"),
        ("pci:02:00.0", "pci:0000:02:00.0"),
        ("pci:00000002:03:00.0", "pci:0002:03:00.0"),
    ],
)
def test_a_port_is_named_as_the_kernel_names_it(tmp_path: Path, given: str, means: str) -> None:
    assert profile.load(str(write(tmp_path, 'match = "first"', f'match = "{given}"'))).management.match == means


@pytest.mark.parametrize(
    "match",
    [
        *("", "second", "eth0", "0000:02:00.0", "pci:", "pci:0:2:0", "pci:0000:02:00", "pci:0000:02:00.8", "usb:1-1"),
        *(
            "pci:0000:02:20.0",
            "pci:0000:02:00.0; reboot",
            "pci:0000:02:00.0\\n",
            "pci:g000:02:00.0",
            "pci:100000000:02:00.0",
        ),
    ],
)
def test_what_names_no_port_is_refused_with_an_example(tmp_path: Path, match: str) -> None:
    said = refused(write(tmp_path, 'match = "first"', f'match = "{match}"'))
    assert said.startswith("management.match: ")
    assert "such as pci:0000:02:00.1" in said


def test_an_error_says_what_was_given_and_what_is_wanted(tmp_path: Path) -> None:
    said = refused(write(tmp_path, "memory_mib = 192\ncpus = 1", "memory_mib = 1\ncpu = 1"))
    assert "vm.memory_mib: 1 is out of range; want 96 to 4096" in said
    assert "vm.cpus: is missing; want 1 to 16" in said
    assert "vm.cpu: there is no such field; there are: memory_mib, cpus" in said


def test_the_mtu_follows_from_the_longest_frame() -> None:
    forwarder = profile.Forwarder
    assert (forwarder().mtu, forwarder().port_mtu) == (1500, 1500)
    assert forwarder(max_frame=1294).mtu == 1280
    # Linux lets no tag of 802.1ad exceed the MTU by itself.
    assert [forwarder(max_frame=9014, tags=tags).port_mtu for tags in range(3)] == [9000, 9004, 9008]


def test_another_way_is_held_against_the_whole_profile(tmp_path: Path) -> None:
    file = write(tmp_path, "[modules]", "[forwarder]\ntags = 1\n[modules]")
    assert profile.load(str(file), "ring-tap").name == "mine-ring-tap"
    with pytest.raises(SallyportError, match="forwarder: tags = 1 goes with") as caught:
        profile.load(str(file), "bridge")
    assert str(file) in str(caught.value)


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
    said = refused(write(tmp_path, "192.168.42.1/24", address))
    assert said.startswith("management.address: ")
    assert "such as 192.168.42.1/24" in said


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
