"""Overlays: how they are laid, and what the shipped ones render to."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from backend.protocol import link_plan
from rootfs.base import file_tree
from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT
from rootfs.spec import profile
from rootfs.tree import frontend_image as frontend
from rootfs.tree import host_image, overlay

PROFILES = ("qemu", "qemu-aarch64", "x86-64-uefi")
WAYS = {
    "ring-vhost": profile.Forwarder(port="ring", vm="vhost-user"),
    "ring-tap": profile.Forwarder(port="ring", vm="tap"),
    "kernel": profile.Forwarder(port="kernel", vm="tap"),
    "bridge": profile.Forwarder(port="bridge", vm="tap"),
}
"""All that a device profile can choose."""
TEMPLATES = sorted((PROJECT / "overlays").rglob("*.j2"))
NFT = [template for template in TEMPLATES if template.name.endswith(".nft.j2")]


def template(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "page.j2"
    file.write_text(text)
    return file


def test_render_fills_in_and_keeps_the_last_newline(tmp_path: Path) -> None:
    assert overlay.render(template(tmp_path, "a {{ x.y }}\n"), {"x": {"y": "<&>"}}) == "a <&>\n"


@pytest.mark.parametrize(
    "text", ["one\ntwo {{ nobody }}\n", "one\n{{ known.nobody }}\n", "one\n{% if nobody %}{% endif %}"]
)
def test_an_undefined_name_is_an_error_that_names_file_and_line(tmp_path: Path, text: str) -> None:
    file = template(tmp_path, text)
    with pytest.raises(SallyportError, match="nobody") as caught:
        overlay.render(file, {"known": {}})
    assert str(caught.value).startswith(f"{file}:2: ")
    assert "known" in caught.value.hint


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    file = template(tmp_path, "one\ntwo\n{% if %}\n")
    with pytest.raises(SallyportError) as caught:
        overlay.render(file, {})
    assert str(caught.value).startswith(f"{file}:3: ")


@pytest.fixture
def laid(tmp_path: Path) -> Path:
    """A tree under an overlay: returns the tree; the original of its hard-linked files is beside it, in ``base``."""
    base, over, tree = tmp_path / "base", tmp_path / "over", tmp_path / "tree"
    for directory in (base / "etc", over / "etc/deep", over / "bin"):
        directory.mkdir(parents=True)
    (base / "etc/kept").write_text("kept")
    (base / "etc/replaced").write_text("original")
    (base / "etc/rendered").write_text("original")
    (base / "etc/linked").symlink_to("/etc/kept")
    (base / "etc/shadow").write_text("secret")
    (base / "etc/shadow").chmod(0o600)
    file_tree.link_tree(base, tree)
    (over / "etc/replaced").write_text("new")
    (over / "etc/rendered.j2").write_text("is {{ x }}")
    (over / "etc/linked").write_text("a file now")
    (over / "etc/shadow").symlink_to("nowhere")
    (over / "etc/deep/odd").write_text("odd")
    (over / "etc/deep/odd").chmod(0o640)
    (over / "etc/deep/empty.keep").write_text("")
    (over / "bin/run").write_text("#!/bin/sh")
    (over / "bin/run").chmod(0o700)
    (over / "bin/run.too.j2").write_text("#!/bin/sh")
    (over / "bin/run.too.j2").chmod(0o755)
    (over / "bin/target").symlink_to("../etc")
    overlay.apply(over, tree, {"x": "y"})
    return tree


def test_an_overlay_replaces_renders_and_links(laid: Path) -> None:
    assert (laid / "etc/kept").read_text() == "kept"
    assert (laid / "etc/replaced").read_text() == "new"
    assert (laid / "etc/rendered").read_text() == "is y"
    assert not (laid / "etc/linked").is_symlink()
    assert os.readlink(laid / "etc/shadow") == "nowhere"
    assert os.readlink(laid / "bin/target") == "../etc"
    assert sorted(path.name for path in laid.rglob("*.j2")) == []
    assert [path.name for path in (laid / "etc/deep").iterdir()] == ["odd"]


def test_modes_are_normal_whatever_the_checkout_has(laid: Path) -> None:
    modes = {name: stat.S_IMODE((laid / name).stat().st_mode) for name in ("etc/deep/odd", "etc/rendered", "bin/run")}
    assert modes == {"etc/deep/odd": 0o644, "etc/rendered": 0o644, "bin/run": 0o755}
    assert stat.S_IMODE((laid / "bin/run.too").stat().st_mode) == 0o755


def test_the_original_of_a_hard_linked_file_stays_as_it_was(laid: Path) -> None:
    base = laid.parent / "base"
    assert (base / "etc/kept").samefile(laid / "etc/kept")
    assert {name: (base / "etc" / name).read_text() for name in ("replaced", "rendered", "kept", "shadow")} == {
        "replaced": "original",
        "rendered": "original",
        "kept": "kept",
        "shadow": "secret",
    }
    assert stat.S_IMODE((base / "etc/shadow").stat().st_mode) == 0o600
    assert (base / "etc/linked").is_symlink()


def test_the_skeleton_has_the_links_of_the_merged_usr(tmp_path: Path) -> None:
    overlay.skeleton(tmp_path)
    assert {name: os.readlink(tmp_path / name) for name in file_tree.MERGED} == file_tree.MERGED
    assert all((tmp_path / name).is_dir() for name in (*overlay.SKELETON, "bin"))


def device_with(way: str, name: str = "qemu") -> profile.Profile:
    return profile.load(name).model_copy(update={"forwarder": WAYS[way]})


def values(file: Path, device: profile.Profile, *, test_access: bool = False) -> dict[str, object]:
    if file.relative_to(PROJECT / "overlays").parts[0].startswith("host"):
        return host_image.values(device, "debian", test_access=test_access)
    return frontend.values(device)


def test_there_are_templates_to_test() -> None:
    assert len(TEMPLATES) >= 8
    assert {file.name for file in NFT} >= {"port.nft.j2", "host.nft.j2", "link.nft.j2"}
    assert {file.name for file in TEMPLATES} >= {"port.json.j2", "port-setup.j2", "sallyport-port.service.j2"}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_shipped_templates_render_with_shipped_profiles(file: Path, name: str, way: str) -> None:
    device = device_with(way, name)
    for test_access in (False, True):
        text = overlay.render(file, values(file, device, test_access=test_access))
        assert text.strip()
        assert "{{" not in text
        assert "{%" not in text
        if text.startswith("#!/bin/sh"):
            subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        if file.name.endswith(".json.j2"):
            json.loads(text)


def test_a_port_at_a_fixed_place_renders_too() -> None:
    device = profile.load("qemu")
    fixed = device.model_copy(update={"management": device.management.model_copy(update={"match": "pci:0000:02:00.1"})})
    file = PROJECT / "overlays/host/usr/lib/sallyport/port-setup.j2"
    text = overlay.render(file, values(file, fixed))
    assert 'grep -F "00000000:02:00.1 "' in text
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


_BASE_CHAIN = re.compile(r"type filter hook \w+ (?:device \"\w+\" )?priority \w+; policy (\w+);")
_NFT = ["nft", "-c", "-f", "-"]
_BLOCK = re.compile(r"(table|chain|set|counter) ([\w ]+?) \{")


def rendered(name: str, way: str) -> str:
    """A template of the host, without its comments."""
    (file,) = (file for file in TEMPLATES if file.name == name)
    return re.sub(r"#.*", "", overlay.render(file, values(file, device_with(way))))


RULES = [(file.name, way) for file in NFT for way in WAYS if file.name == "port.nft.j2" or way == "ring-vhost"]
"""Those of the port depend on the way."""


@pytest.mark.parametrize(("name", "way"), RULES)
def test_rules_are_whole(name: str, way: str) -> None:
    """What nft(8) would refuse, as far as can be told without it; with it, it is asked as well."""
    text = rendered(name, way)
    depth = 0
    for char in text:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    names: dict[str, set[str]] = {"table": set(), "chain": set(), "set": set(), "counter": set()}
    for kind, block in _BLOCK.findall(text):
        assert block not in names[kind], f"{kind} {block} twice"
        names[kind].add(block)
    assert len(names["table"]) == (2 if (name, way) == ("port.nft.j2", "bridge") else 1)
    assert set(re.findall(r"counter name (\w+)", text)) == names["counter"]
    assert set(re.findall(r"(?:jump|goto) (\w+)", text)) <= names["chain"]
    assert set(re.findall(r"@(\w+)", text)) <= names["set"]
    if shutil.which("nft"):
        # In a network namespace of its own: the rules of the port name their devices.
        links = "ip link add mgmt0 type veth peer name access0"
        command = ["unshare", "--net", "sh", "-c", f"{links} && exec nft -c -f -"] if os.geteuid() == 0 else _NFT
        checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        # Without CAP_NET_ADMIN, nft parses and then may not ask the kernel.
        assert checked.returncode == 0 or "Operation not permitted" in checked.stderr, checked.stderr


@pytest.mark.parametrize(("name", "way"), RULES)
def test_every_chain_at_a_hook_drops_by_default(name: str, way: str) -> None:
    text = rendered(name, way)
    assert text.count("hook") == len(_BASE_CHAIN.findall(text)) > 0
    assert set(_BASE_CHAIN.findall(text)) == {"drop"}


def chains_of_the_port(way: str) -> dict[str, str]:
    return dict(re.findall(r"chain (\w+) \{\n(.*?)\n    \}", rendered("port.nft.j2", way), re.DOTALL))


@pytest.mark.parametrize("way", WAYS)
def test_the_ports_stack_gets_no_frame_and_says_none(way: str) -> None:
    """The one exception is what the policy passed: these frames pass the egress hook, and only they carry the mark."""
    chains = chains_of_the_port(way)
    devices = ["mgmt0"] if way == "ring-vhost" else ["mgmt0", "access0"]
    bridge = {"forward_port", "input_port"} if way == "bridge" else set()
    assert set(chains) == {f"{end}_{device}" for end in ("in", "out") for device in devices} | bridge
    for device in devices:
        for chain, hook in ((chains[f"in_{device}"], "ingress"), (chains[f"out_{device}"], "egress")):
            assert f'hook {hook} device "{device}"' in chain
        taken = [line.strip() for line in chains[f"in_{device}"].splitlines() if "accept" in line]
        counter = {"mgmt0": "rx_passed", "access0": "tx_passed"}[device]
        assert taken == ([f"meta mark set 0x706f7274 counter name {counter} accept"] if bridge else [])
        accepting = [line.strip() for line in chains[f"out_{device}"].splitlines() if "accept" in line]
        assert accepting == ["meta mark 0x706f7274 accept"]


def test_the_bridge_moves_frames_between_port_and_vm_only_and_takes_none() -> None:
    chains = chains_of_the_port("bridge")
    pairs = re.findall(r'iifname "(\w+)" oifname "(\w+)" accept', chains["forward_port"])
    assert pairs == [("mgmt0", "access0"), ("access0", "mgmt0")]
    assert chains["forward_port"].count("accept") == 2
    assert "accept" not in chains["input_port"]


def test_the_hosts_stack_talks_to_the_backends_port_of_the_link_only() -> None:
    text = rendered("host.nft.j2", "ring-vhost")
    accepting = [line.strip() for line in text.splitlines() if re.search(r"\b(accept|jump)\b", line)]
    link = [line for line in accepting if '"lo"' not in line and line != "counter name link_in accept"]
    assert len(accepting) == len(link) + 3
    for line in link:
        assert f"{link_plan.BACKEND_PORT}" in line
        assert '"link0"' in line
        assert link_plan.FRONTEND_ADDRESS in line
        assert link_plan.BACKEND_ADDRESS in line


@pytest.mark.parametrize("way", WAYS)
def test_rules_stand_before_the_port_is_here_or_up(way: str) -> None:
    text = rendered("port-setup.j2", way)
    loads = text.index("nft -f /etc/sallyport/port.nft")
    ups = [match.start() for match in re.finditer(r"link set (mgmt0|access0|br0) .*\bup$", text, re.MULTILINE)]
    assert all(loads < up for up in ups)
    moved = text.index("netns mgmt name mgmt0")
    # They hang on the device, so it must be here.
    assert moved < loads
    if way == "bridge":
        # It is brought up by the forwarder, not here; and nothing leads anywhere before the rules stand.
        assert loads < text.index("link add br0")
        assert not re.search(r"link set mgmt0 .*\bup$", text, re.MULTILINE)
        assert "{ $(cat /run/sallyport/port/vm-mac) }" in text
    else:
        assert re.search(r"^ip -n mgmt link set mgmt0 up$", text, re.MULTILINE)


@pytest.mark.parametrize(("way", "tap", "bridge"), [("ring-vhost", False, False), ("ring-tap", True, False),
                                                    ("kernel", True, False), ("bridge", True, True)])  # fmt: skip
def test_only_what_the_way_needs_is_made(way: str, tap: bool, bridge: bool) -> None:
    text = rendered("port-setup.j2", way)
    assert ("tuntap add access0" in text) is tap
    assert ("type bridge" in text) is bridge
    # Rings and bridges make the port take frames for the VM's address themselves.
    assert ("\nip -n mgmt link set mgmt0 promisc on\n" in text) is (way == "kernel")
    unit = rendered("sallyport-port.service.j2", way)
    assert ("DeviceAllow=/dev/net/tun rw" in unit) is tap
    assert json.loads(rendered("vm.json.j2", way))["access"] == ("tap" if tap else "vhost-user")


@pytest.mark.parametrize(
    ("way", "capabilities", "families"),
    [
        ("ring-vhost", {"CAP_NET_RAW", "CAP_NET_ADMIN"}, {"AF_UNIX", "AF_PACKET"}),
        ("ring-tap", {"CAP_NET_RAW", "CAP_NET_ADMIN"}, {"AF_UNIX", "AF_PACKET"}),
        ("kernel", {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"}, {"AF_UNIX"}),
        ("bridge", {"CAP_NET_ADMIN"}, {"AF_UNIX", "AF_NETLINK", "AF_INET"}),
    ],
)
def test_the_forwarders_unit_gives_what_its_way_opens_with_and_no_more(
    way: str, capabilities: set[str], families: set[str]
) -> None:
    unit = rendered("sallyport-port.service.j2", way)
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and "DeviceAllow" not in line)
    assert set(settings["AmbientCapabilities"].split()) == capabilities
    assert set(settings["CapabilityBoundingSet"].split()) == capabilities
    assert set(settings["RestrictAddressFamilies"].split()) == families
    assert settings["DevicePolicy"] == "closed"
    # With vhost-user the VM's memory is mapped, and charged to whom touches its pages first.
    assert settings["MemoryMax"] == ("288M" if way == "ring-vhost" else "96M")


@pytest.mark.parametrize("way", WAYS)
def test_a_forwarder_that_ends_does_not_take_the_vm_along(way: str) -> None:
    unit = rendered("sallyport-vm.service.j2", way)
    assert not re.search(r"^(Requires|BindsTo|PartOf|Requisite)=.*sallyport-port", unit, re.MULTILINE)
    assert re.search(r"^Restart=always$", rendered("sallyport-port.service.j2", way), re.MULTILINE)


_UNITS = PROJECT / "overlays" / "host/etc/systemd/system"
_KEPT = ("sallyport-port.service.j2", "sallyport-backend.service", "sallyport-vm.service.j2")


def test_each_service_is_kept_alive_by_itself_so_that_a_stop_is_a_stop() -> None:
    """`Upholds=` would undo a stop at once; without it, what a service requires must not fail it on a first try."""
    for file in _UNITS.glob("sallyport*"):
        assert not re.search(r"^Upholds=", file.read_text(), re.MULTILINE), file.name
    required: set[str] = set()
    for name in _KEPT:
        unit = (_UNITS / name).read_text()
        assert re.search(r"^Restart=always$", unit, re.MULTILINE), name
        assert re.search(r"^StartLimitIntervalSec=0$", unit, re.MULTILINE), name
        required |= {word for line in re.findall(r"^Requires=(.*)$", unit, re.MULTILINE) for word in line.split()}
    assert required == {"sallyport-keys.service", "sallyport-identity.service", "sallyport-network.service"}
    for name in required:
        unit = (_UNITS / name).read_text()
        for line in ("Restart=on-failure", "RestartMode=direct", "StartLimitIntervalSec=0"):
            assert re.search(rf"^{line}$", unit, re.MULTILINE), (name, line)


def test_no_service_can_fill_the_journal() -> None:
    """Whatever the VM makes a service say: entries of some 600 bytes, up to twice the declared number of them."""
    journal = (PROJECT / "overlays" / "host/etc/systemd/journald.conf.d/sallyport.conf").read_text()
    assert {"Storage=volatile", "RuntimeMaxUse=16M", "LineMax=2K", "ReadKMsg=no"} <= set(journal.splitlines())
    an_hour = 0
    for name in _KEPT:
        unit = (_UNITS / name).read_text()
        assert re.search(r"^LogRateLimitIntervalSec=1h$", unit, re.MULTILINE), name
        (burst,) = re.findall(r"^LogRateLimitBurst=(\d+)$", unit, re.MULTILINE)
        an_hour += 2 * int(burst)
    assert 16 * 2**20 / (an_hour * 600) > 12  # hours, with all three at their worst
