"""What the device profile says, checked, and packed for the core."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from backend.forwarder import config, counters, policy
from backend.forwarder.errors import ConfigError
from backend.protocol import link_plan
from rootfs.base.version import PROJECT
from rootfs.spec import profile as profiles
from rootfs.tree import overlay
from tests.unit.forwarder.rig import VM_MAC, settings

CORE = PROJECT / "backend/forwarder/core"
TEMPLATE = PROJECT / "overlays/host/etc/sallyport/port.json.j2"


def document(**changes: Any) -> dict[str, Any]:
    return dict(json.loads(msgspec.json.encode(settings())) | changes)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert config.read(write(tmp_path / "port.json", document())) == settings()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"port": "magic"}, "port"),
        ({"tags": 3}, "tags"),
        ({"ethertypes": []}, "ethertypes"),
        ({"ethertypes": [46]}, "ethertypes"),
        ({"ethertypes": [2048] * 17}, "ethertypes"),
        ({"max_frame": 9019}, "max_frame"),
        ({"vm_memory_mib": 0}, "vm_memory_mib"),
        ({"from_vm": {"all": {"rate": -1, "burst": 1}, "group": {"rate": 0, "burst": 1}}}, "from_vm.all.rate"),
        ({"from_port": {"all": {"rate": 1, "burst": 0}, "group": {"rate": 0, "burst": 1}}}, "from_port.all.burst"),
        ({"surprise": 1}, "surprise"),
        ({"port": "kernel", "vm": "vhost-user"}, "vm"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_field(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    file = write(tmp_path / "port.json", document(**changes))
    with pytest.raises(ConfigError) as caught:
        config.read(file)
    assert str(file) in str(caught.value)
    assert field in str(caught.value)
    assert "device profile" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_no_file_or_no_json_is_the_same_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "port.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        config.read(file)


@pytest.mark.parametrize(
    ("port", "vm"), [("ring", "vhost-user"), ("ring", "tap"), ("kernel", "tap"), ("bridge", "tap")]
)
def test_the_image_renders_what_the_forwarder_reads(tmp_path: Path, port: Any, vm: Any) -> None:
    profile = profiles.load("qemu").model_copy(update={"forwarder": profiles.Forwarder(port=port, vm=vm)})
    values = {"profile": profile, "link": link_plan}
    (tmp_path / "port.json").write_text(overlay.render(TEMPLATE, values))
    read = config.read(tmp_path / "port.json")
    assert (read.port, read.vm, read.vm_memory_mib) == (port, vm, profile.vm.memory_mib)
    assert read.from_vm.group.rate == profile.forwarder.from_vm.group_rate


def test_the_header_has_room_for_what_a_profile_may_say() -> None:
    header = (CORE / "policy.h").read_text()
    defined = dict(re.findall(r"#define POLICY_(\w+) (\d+)", header))
    limits = {"ETHERTYPES": config.MAX_ETHERTYPES, "TAGS": config.MAX_TAGS, "ETHER": config.HEADER, "TAG": config.TAG}
    assert {name: int(defined[name]) for name in limits} == limits


LIMITS = {"rate": 1, "burst": 1, "group_rate": 1, "group_burst": 1}
VERDICTS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    *(({"port": port, "vm": vm}, good) for port, vm, good in (
        ("ring", "vhost-user", True), ("ring", "tap", True), ("kernel", "tap", True), ("bridge", "tap", True),
        ("kernel", "vhost-user", False), ("bridge", "vhost-user", False), ("magic", "tap", False),
        ("ring", "e1000", False),
    )),
    *(({"port": port, "vm": "tap", "tags": tags}, good) for port, tags, good in (
        ("ring", 2, True), ("kernel", 1, True), ("bridge", 1, False), ("ring", 3, False), ("ring", -1, False),
    )),
    *(({"max_frame": frame}, good) for frame, good in ((1293, False), (1294, True), (9018, True), (9019, False))),
    *(({"ethertypes": types}, good) for types, good in (
        ([], False), ([0x5FF], False), ([0x600], True), ([0xFFFF], True), ([0x10000], False), ([0x800] * 16, True),
        ([0x800] * 17, False),
    )),
    *(({way: LIMITS | {name: value}}, good) for way in ("from_port", "from_vm") for name, value, good in (
        ("rate", -1, False), ("rate", 0, True), ("rate", 100_000_000, True), ("rate", 100_000_001, False),
        ("group_rate", -1, False), ("group_rate", 0, True), ("group_rate", 100_000_001, False),
        ("burst", 0, False), ("burst", 1_000_000, True), ("burst", 1_000_001, False),
        ("group_burst", 0, False), ("group_burst", 1_000_000, True), ("group_burst", 1_000_001, False),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "good"), VERDICTS, ids=[str(changes) for changes, _ in VERDICTS])
def test_profile_and_forwarder_have_the_same_verdict(tmp_path: Path, changes: dict[str, Any], good: bool) -> None:
    """What a profile may say the forwarder reads, and nothing else: the image's own template lies between them."""
    section = profiles.Forwarder().model_dump() | changes
    (tmp_path / "port.json").write_text(
        overlay.render(TEMPLATE, {"profile": {"forwarder": section, "vm": {"memory_mib": 256}}})
    )
    with contextlib.nullcontext() if good else pytest.raises(ValidationError):
        profiles.Forwarder.model_validate(changes)
    with contextlib.nullcontext() if good else pytest.raises(ConfigError):
        config.read(tmp_path / "port.json")


def test_every_vm_that_a_profile_may_have_can_be_mapped() -> None:
    """The forwarder's bound of the VM's memory is wider than the profile's: it stands for other guests, too."""
    ours = msgspec.json.schema_components([config.Config], ref_template="{name}")[1]["Config"]["properties"][
        "vm_memory_mib"
    ]
    theirs = profiles.FrontendVm.model_json_schema()["properties"]["memory_mib"]
    assert ours["minimum"] <= theirs["minimum"] <= theirs["maximum"] <= ours["maximum"]


def test_the_policy_is_packed_as_the_header_declares_it() -> None:
    limited = config.Direction(all=config.Limit(1000, 10), group=config.Limit(100, 3))
    packed = policy.pack(settings(tags=1, from_vm=limited), policy.parse_mac(VM_MAC), "169.254.254.0/30")
    # struct policy of core/policy.h, read field by field.
    assert packed[:8] == bytes.fromhex(VM_MAC.replace(":", "")) + bytes([1, 3])
    assert struct.unpack_from("=16H", packed, 8) == (0x0800, 0x0806, 0x86DD, *[0] * 13)
    assert struct.unpack_from("=4I", packed, 40) == (0xA9FEFE00, 0xFFFFFFFC, 1514, 0)
    rates = struct.unpack_from("=8Q", packed, 56)
    assert rates == (0, 0, 1_000_000, 10_000_000, 0, 0, 10_000_000, 30_000_000)
    assert len(packed) == 120


@pytest.mark.parametrize(
    "text",
    [
        *("", "02:5a", "02:5a:11:00:00", "02-5a-11-00-00-02", "03:00:00:00:00:01", "0:0:0:0:0:0", "00:00:00:00:00:00"),
        "zz:00:00:00:00:00",
    ],
)
def test_only_one_stations_address_is_the_vms(text: str) -> None:
    with pytest.raises(ValueError, match=r"MAC|invalid literal"):
        policy.parse_mac(text)


def test_verdicts_have_the_names_and_the_order_of_the_header_everywhere() -> None:
    header = re.search(r"enum verdict \{(.*?)\};", (CORE / "policy.h").read_text(), re.DOTALL)
    assert header is not None
    names = tuple(name.lower() for name in re.findall(r"^    VERDICT_(\w+),", header.group(1), re.MULTILINE))
    assert names == counters.VERDICTS
    capture = re.search(r"VERDICT_NAMES\[VERDICTS\] = \{(.*?)\};", (CORE / "capture.c").read_text(), re.DOTALL)
    assert capture is not None
    assert tuple(re.findall(r'"(\w+)"', capture.group(1))) == counters.VERDICTS


def test_counters_are_named_by_direction() -> None:
    counts = tuple(tuple((d * 100 + v, v) for v in range(len(counters.VERDICTS))) for d in range(2))
    named = counters.named(counts)
    assert (named[0].name, named[0].frames) == ("rx_passed", 0)
    assert (named[-1].name, named[-1].frames, named[-1].bytes) == ("tx_failed", 113, 13)


@pytest.mark.parametrize("port", ["ring", "kernel"])
def test_the_rules_let_out_what_the_forwarder_marked(port: Any) -> None:
    mark = re.search(r"#define POLICY_MARK (0x[0-9a-f]+)", (CORE / "policy.h").read_text())
    assert mark is not None
    profile = profiles.load("qemu").model_copy(update={"forwarder": profiles.Forwarder(port=port, vm="tap")})
    rules = overlay.render(TEMPLATE.with_name("port.nft.j2"), {"profile": profile, "link": link_plan})
    assert rules.count(f"meta mark {mark.group(1)} accept") == 2  # at the port and at the tap
