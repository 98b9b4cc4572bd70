"""What the device profile says, checked, and packed for the core."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

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


def test_a_profile_with_ways_that_do_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match='write vm = "tap"'):
        profiles.Forwarder(port="bridge", vm="vhost-user")


def test_the_header_has_room_for_what_a_profile_may_say() -> None:
    header = (CORE / "policy.h").read_text()
    defined = dict(re.findall(r"#define POLICY_(\w+) (\d+)", header))
    limits = {"ETHERTYPES": config.MAX_ETHERTYPES, "TAGS": config.MAX_TAGS, "ETHER": config.HEADER, "TAG": config.TAG}
    assert {name: int(defined[name]) for name in limits} == limits


def edges(schema: dict[str, Any], path: str = "") -> dict[str, tuple[Any, ...]]:
    """Bounds by field, of a JSON schema: least, most, fewest and most entries."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, value in schema["properties"].items():
        keys = ("minimum", "maximum", "minItems", "maxItems")
        for where, inner in ((f"{path}{name}", value), (f"{path}{name}[]", value.get("items", {}))):
            bounds = tuple(inner.get(key) for key in keys)
            found |= {where: bounds} if any(bound is not None for bound in bounds) else {}
    return found


def test_profile_and_forwarder_have_the_same_ranges() -> None:
    """What a profile may say the forwarder reads, and nothing else."""
    ours = msgspec.json.schema_components([config.Config, config.Limit], ref_template="{name}")[1]
    theirs = profiles.Forwarder.model_json_schema()
    limits = edges(theirs["$defs"]["Limits"])
    assert edges(theirs) == {name: edge for name, edge in edges(ours["Config"]).items() if name != "vm_memory_mib"}
    assert limits["rate"] == limits["group_rate"] == edges(ours["Limit"])["rate"]
    assert limits["burst"] == limits["group_burst"] == edges(ours["Limit"])["burst"]
    for bad in ({"max_frame": 1293}, {"max_frame": 9019}, {"tags": 3}, {"ethertypes": [0x5FF]}):
        with pytest.raises(ValueError, match="validation error"):
            profiles.Forwarder.model_validate(bad)


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
