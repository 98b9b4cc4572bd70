"""One policy in every datapath: the same frames, from a profile's settings to what comes out and what is counted.

A datapath is set up as the image does it: the policy from `port.json`, the rules from `port.nft`, the bridge by the
commands of `port-setup`, the MTU from the profile. Behind each frame goes one that must pass: what has not come before
that one was dropped, and one counter says why.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from backend.forwarder import config, datapaths, policy
from backend.forwarder.counters import named
from backend.forwarder.kernel_programs import KernelPrograms
from backend.protocol import link_plan
from rootfs.base.version import PROJECT
from rootfs.spec import profile as profiles
from rootfs.tree import overlay
from tests.unit.forwarder.rig import (
    FROM_PORT,
    FROM_VM,
    OUTER_MAC,
    VM_MAC,
    Row,
    Running,
    frame,
    inside,
    ip,
    needs_root,
    no_segmentation,
    receive_offload,
    wait_for,
)
from tests.unit.forwarder.vhost_frontend import Frontend

pytestmark = needs_root

HOST = PROJECT / "overlays/host"
MAC = policy.parse_mac(VM_MAC)
BATCH = "ip -n mgmt -batch - <<END\n"
ROOM = 9200  # MTU of those who send
SECONDS = 3.0


# --- the datapaths ---


class Wire(Protocol):
    """An end of the row."""

    def send(self, *frames: bytes) -> None: ...

    def receive(self, count: int = 1, timeout: float = 1.0) -> list[bytes]: ...


@dataclass(frozen=True)
class Bed:
    """A datapath that runs: its two ends, what it counted."""

    row: Row
    ends: tuple[Wire, Wire]
    counted: Callable[[], dict[str, int]]


class Guest:
    """The VM's end as QEMU has it: vhost-user."""

    def __init__(self, path: str) -> None:
        self._frontend = Frontend(path).start()
        self._frontend.give_buffers(32)

    def send(self, *frames: bytes) -> None:
        for data in frames:
            self._frontend.transmit(data)
            assert self._frontend.tx.wait_used(1, SECONDS)

    def receive(self, count: int = 1, timeout: float = 1.0) -> list[bytes]:
        return [data for _, data in self._frontend.receive(timeout)]

    def close(self) -> None:
        self._frontend.close()


def rendered(device: profiles.Profile, path: str) -> str:
    return overlay.render(HOST / path, {"profile": device, "link": link_plan})


@contextlib.contextmanager
def ring(row: Row, settings: config.Config, packed: bytes, device: profiles.Profile, folder: Path) -> Iterator[Bed]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "vhost.sock"))
    listener.listen(1)
    with inside(row.appliance):
        datapath = datapaths.RingDatapath(settings, packed, MAC, listener)
    with (
        Running(datapath),
        row.socket("outside") as outside,
        contextlib.closing(Guest(str(folder / "vhost.sock"))) as guest,
    ):
        yield Bed(row, (outside, guest), lambda: frames(datapath))


@contextlib.contextmanager
def ring_tap(row: Row, settings: config.Config, packed: bytes, device: profiles.Profile, folder: Path) -> Iterator[Bed]:
    with inside(row.appliance):
        datapath = datapaths.RingDatapath(settings, packed, MAC, None)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        yield Bed(row, (outside, vm), lambda: frames(datapath))


@contextlib.contextmanager
def kernel(row: Row, settings: config.Config, packed: bytes, device: profiles.Profile, folder: Path) -> Iterator[Bed]:
    with inside(row.appliance):
        index = socket.if_nametoindex
        datapath = KernelPrograms(index("mgmt0"), index("access0"), packed, datapaths.BPF_OBJECT)
    with contextlib.closing(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        yield Bed(row, (outside, vm), lambda: frames(datapath))


@contextlib.contextmanager
def bridge(row: Row, settings: config.Config, packed: bytes, device: profiles.Profile, folder: Path) -> Iterator[Bed]:
    with inside(row.appliance):
        for file in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            file.write_text("0")  # of a machine that runs containers; the appliance has no br_netfilter

    def nft(*words: str, text: str | None = None) -> str:
        command = ["ip", "netns", "exec", row.appliance, "nft", *words]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=20).stdout

    nft("-f", "-", text=rendered(device, "etc/sallyport/port.nft.j2"))
    nft("add", "element", "netdev", "port", "vm", f"{{ {VM_MAC} }}")
    script = rendered(device, "usr/lib/sallyport/port-setup.j2")
    batch = script.split(BATCH)[1].split("\nEND\n")[0]
    command = ["ip", "-n", row.appliance, "-batch", "-"]
    subprocess.run(command, input=batch, text=True, capture_output=True, check=True, timeout=20)
    ip("-n", row.appliance, "link", "set", "mgmt0", "up")
    # The kernel takes up to a second to believe in a carrier.
    assert wait_for(lambda: forwards(row, "mgmt0") and forwards(row, "access0"))

    def counted() -> dict[str, int]:
        items = json.loads(nft("-json", "list", "counters"))["nftables"]
        found = [item["counter"] for item in items if "counter" in item]
        # Groups are for the bridge itself as well, which takes none (to_host).
        return {one["name"]: one["packets"] for one in found if one["packets"] and one["name"] != "to_host"}

    with row.socket("outside") as outside, row.socket("vm") as vm:
        yield Bed(row, (outside, vm), counted)


def forwards(row: Row, device: str) -> bool:
    command = ["ip", "-n", row.appliance, "-json", "-details", "link", "show", "dev", device]
    links = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
    return bool(links[0]["linkinfo"]["info_slave_data"]["state"] == "forwarding")


def frames(datapath: datapaths.RingDatapath | KernelPrograms) -> dict[str, int]:
    return {counter.name: counter.frames for counter in named(datapath.counters()) if counter.frames}


def mtus(device: profiles.Profile) -> dict[str, int]:
    """What the image sets, by interface: of the port and the tap on the host, of ``access`` in the VM."""
    host = rendered(device, "usr/lib/sallyport/port-setup.j2")
    vm = rendered(device, "../frontend_vm/etc/init.d/setup.j2")
    return {name: int(mtu) for name, mtu in re.findall(r"link set (\w+) mtu (\d+)", host + vm)}


SET_UPS: dict[str, Any] = {"ring": ring, "ring-tap": ring_tap, "kernel": kernel, "bridge": bridge}


@contextlib.contextmanager
def bed(datapath: str, settings: dict[str, Any], folder: Path, room: int = 0) -> Iterator[Bed]:
    """The datapath, with a profile's ``[forwarder]`` of these settings."""
    port, vm = profiles.DATAPATHS[datapath]
    forwarder = profiles.Forwarder.model_validate({"port": port, "vm": vm} | settings)
    device = profiles.load("qemu").model_copy(update={"forwarder": forwarder})
    (folder / "port.json").write_text(rendered(device, "etc/sallyport/port.json.j2"))
    read = config.read(folder / "port.json")
    packed = policy.pack(read, MAC, link_plan.LINK_NETWORK)
    with Row() as row:
        row.mtu(ROOM)
        for old, new in (("m0", "mgmt0"), ("t0", "access0")):
            link = ["-n", row.appliance, "link", "set"]
            ip(*link, old, "down")
            ip(*link, old, "name", new)
            ip(*link, new, "mtu", str(mtus(device)["mgmt0"] + room), "up")
        if not room and not forwarder.tags:  # what the VM's own MTU allows it is what it can send
            ip("-n", row.vm, "link", "set", "b0", "mtu", str(mtus(device)["access"]))
        with SET_UPS[datapath](row, read, packed, device, folder) as made:
            yield made


# --- the table ---


@dataclass(frozen=True)
class Case:
    """A frame of one direction, from `make`, and the verdict on it."""

    name: str
    verdict: str
    change: dict[str, Any] = field(default_factory=dict)
    ends: tuple[int, ...] = (FROM_PORT, FROM_VM)


@dataclass(frozen=True)
class Group:
    """What the profile says, and frames that are sent under it."""

    name: str
    settings: dict[str, Any]
    cases: tuple[Case, ...]
    datapaths: tuple[str, ...] = tuple(SET_UPS)
    room: int = 0
    """Bytes of the interfaces' MTU above the profile's, as of a card that takes longer frames than it should."""


def tag(vid: int, tpid: int = 0x8100, priority: int = 0) -> bytes:
    return tpid.to_bytes(2, "big") + (priority << 13 | vid).to_bytes(2, "big")


def ipv4(source: bytes = bytes(4), destination: bytes = bytes(4)) -> bytes:
    return bytes(12) + source + destination


ARP = bytes.fromhex("0001080006040001")
INSIDE = bytes([169, 254, 254, 2])
PRIORITY = tag(0, priority=5)
PASSED = "passed"
TAGLESS = (
    Case("IPv4", PASSED),
    Case("ARP", PASSED, {"ethertype": 0x0806, "payload": ARP + bytes(20)}),
    Case("IPv6", PASSED, {"ethertype": 0x86DD}),
    Case("a priority tag", PASSED, {"tags": PRIORITY}),
    Case("a priority tag of no priority", PASSED, {"tags": tag(0)}),
    Case("broadcast", PASSED, {"destination": "ff:ff:ff:ff:ff:ff"}),
    Case("broadcast with a priority tag", PASSED, {"destination": "ff:ff:ff:ff:ff:ff", "tags": PRIORITY}),
    Case("a group", PASSED, {"destination": "33:33:00:00:00:01"}),
    Case("a link protocol's group", PASSED, {"destination": "01:80:c2:00:00:0e"}),
    *(
        Case(f"the group of {word}", "destination", {"destination": f"01:80:c2:00:00:{last}"})
        for word, last in (("spanning tree", "00"), ("pause", "01"), ("slow protocols", "02"))
    ),
    Case("for another station", "destination", {"destination": "02:5a:11:00:00:99"}, (FROM_PORT,)),
    Case("under the VM's address", "spoofed", {"source": VM_MAC}, (FROM_PORT,)),
    Case("under another address", "spoofed", {"source": "02:5a:11:00:00:99"}, (FROM_VM,)),
    Case("under a group's address", "spoofed", {"source": "03:00:00:00:00:01"}),
    Case("spoofed behind a priority tag", "spoofed", {"source": "03:00:00:00:00:01", "tags": PRIORITY}),
    Case("LLDP", "ethertype", {"ethertype": 0x88CC}),
    Case("LLDP behind a priority tag", "ethertype", {"ethertype": 0x88CC, "tags": PRIORITY}),
    Case("a length", "ethertype", {"ethertype": 46}),
    Case("IPv4 from the link", "link_address", {"payload": ipv4(INSIDE)}),
    Case("IPv4 for the link", "link_address", {"payload": ipv4(bytes(4), INSIDE)}),
    Case("IPv4 for the link behind a priority tag", "link_address", {"payload": ipv4(INSIDE), "tags": PRIORITY}),
    Case("ARP from the link", "link_address", {"ethertype": 0x0806, "payload": ARP + bytes(6) + INSIDE}),
    Case("ARP for the link", "link_address", {"ethertype": 0x0806, "payload": ARP + bytes(16) + INSIDE}),
    Case("ARP cut short", "runt", {"ethertype": 0x0806, "size": 41}),
    Case("IPv4 cut short", "runt", {"payload": bytes(17), "size": 33}),
)
TAGGED = (
    Case("VLAN 5", "tags", {"tags": tag(5)}),
    Case("VLAN 5 with a priority", "tags", {"tags": tag(5, priority=7)}),
    Case("VLAN 0 of 802.1ad", "tags", {"tags": tag(0, 0x88A8)}),
    Case("VLAN 0 by an old number", "tags", {"tags": tag(0, 0x9100)}),
    Case("two priority tags", "tags", {"tags": PRIORITY * 2}),
    Case("VLAN 5 behind a priority tag", "tags", {"tags": PRIORITY + tag(5)}),
    Case("an 802.1ad tag behind a priority tag", "tags", {"tags": PRIORITY + tag(5, 0x88A8)}),
    Case("a priority tag behind VLAN 5", "tags", {"tags": tag(5) + PRIORITY}),
    Case("QinQ", "tags", {"tags": tag(5, 0x88A8) + tag(6)}),
)


def sizes(length: int, verdict: str, *, tags: bytes = b"") -> Iterator[Case]:
    for front in dict.fromkeys((b"", PRIORITY, tags)):
        yield Case(f"{length} bytes behind {front.hex() or 'no tag'}", verdict, {"size": length, "tags": front})


RINGS_AND_KERNEL = ("ring", "ring-tap", "kernel")
TABLE = (
    Group("the defaults", {}, (*TAGLESS, *TAGGED, *sizes(1514, PASSED))),
    Group("longer than the defaults", {}, tuple(sizes(1515, "oversized")), room=8),
    Group(
        "EtherTypes of a profile's own",
        {"ethertypes": [0x88CC, 0x0806]},
        (
            Case("LLDP", PASSED, {"ethertype": 0x88CC}),
            Case("LLDP to its group", PASSED, {"ethertype": 0x88CC, "destination": "01:80:c2:00:00:0e"}),
            Case("LLDP behind a priority tag", PASSED, {"ethertype": 0x88CC, "tags": PRIORITY}),
            Case("IPv4", "ethertype"),
            Case("IPv6", "ethertype", {"ethertype": 0x86DD}),
        ),
    ),
    Group("the shortest MTU", {"max_frame": 1294}, tuple(sizes(1294, PASSED))),
    Group("longer than the shortest MTU", {"max_frame": 1294}, tuple(sizes(1295, "oversized")), room=8),
    Group("jumbo frames", {"max_frame": 9014}, tuple(sizes(9014, PASSED))),
    Group("longer than jumbo frames", {"max_frame": 9014}, tuple(sizes(9015, "oversized")), room=8),
    Group(
        "one tag",
        {"tags": 1},
        (
            *TAGLESS,
            Case("VLAN 5", PASSED, {"tags": tag(5)}),
            Case("802.1ad of the longest", PASSED, {"tags": tag(5, 0x88A8), "size": 1514}),
            Case("802.1ad", PASSED, {"tags": tag(5, 0x88A8)}),
            Case("an old number", PASSED, {"tags": tag(5, 0x9100)}),
            Case("VLAN 5 behind a priority tag", PASSED, {"tags": PRIORITY + tag(5)}),
            Case("a priority tag behind VLAN 5", "tags", {"tags": tag(5) + PRIORITY}),
            Case("QinQ", "tags", {"tags": tag(5, 0x88A8) + tag(6)}),
            Case("the link behind VLAN 5", "link_address", {"tags": tag(5), "payload": ipv4(INSIDE)}),
            *sizes(1514, PASSED, tags=tag(5)),
        ),
        RINGS_AND_KERNEL,
    ),
    Group("one tag, longer", {"tags": 1}, tuple(sizes(1515, "oversized", tags=tag(5))), RINGS_AND_KERNEL, room=8),
    Group(
        "two tags",
        {"tags": 2, "max_frame": 9014},
        (
            Case("QinQ", PASSED, {"tags": tag(5, 0x88A8) + tag(6)}),
            Case("three", "tags", {"tags": tag(5, 0x88A8) + tag(6) + tag(7)}),
            Case("QinQ behind a priority tag", "tags", {"tags": PRIORITY + tag(5, 0x88A8) + tag(6)}),
            *sizes(9014, PASSED, tags=tag(5, 0x88A8) + tag(6)),
        ),
        RINGS_AND_KERNEL,
    ),
)
ROWS = [(group, datapath) for group in TABLE for datapath in group.datapaths]


def made(end: int, mark: int, change: dict[str, Any]) -> bytes:
    """A frame of a direction with a number of its own in its last bytes."""
    macs = {"source": OUTER_MAC, "destination": VM_MAC}
    if end == FROM_VM:
        macs = {"source": VM_MAC, "destination": OUTER_MAC}
    words = macs | {"payload": ipv4()} | change
    data = frame(**words)
    return data[:-2] + mark.to_bytes(2, "big")


def judged(bed: Bed, end: int, sent: bytes, control: bytes) -> tuple[bool, dict[str, int]]:
    """Whether it came out at the other end, and how the counters rose by it and the frame behind it."""
    before = Counter(bed.counted())
    bed.ends[end].send(sent, control)
    came: list[bytes] = []
    deadline = time.monotonic() + SECONDS
    while control not in came and time.monotonic() < deadline:
        came += bed.ends[1 - end].receive(1, 0.3)
    assert control in came, "what must pass did not come"
    assert set(came) <= {sent, control}, "a frame came changed"
    while (rose := Counter(bed.counted()) - before).total() < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    return sent in came, dict(rose)


@pytest.mark.parametrize(
    ("group", "datapath"), ROWS, ids=[f"{group.name}, {datapath}".replace(" ", "-") for group, datapath in ROWS]
)
def test_every_datapath_says_the_same_of_a_frame(tmp_path: Path, group: Group, datapath: str) -> None:
    wrong = []
    marks = itertools.count(1)
    plain = {"ethertype": group.settings.get("ethertypes", [0x0800])[0]}
    with bed(datapath, group.settings, tmp_path, group.room) as ready:
        for case, end in [(one, end) for one in group.cases for end in one.ends]:
            sent, control = made(end, next(marks), case.change), made(end, next(marks), plain)
            word = ("rx_", "tx_")[end]
            expected = Counter([word + case.verdict, word + PASSED])
            found = judged(ready, end, sent, control)
            if found != (case.verdict == PASSED, dict(expected)):
                wrong.append(f"{word}{case.name}: want {case.verdict}, found {found}")
    assert not wrong, "\n".join(wrong)


LIMITS = {"rate": 20, "burst": 10, "group_rate": 10, "group_burst": 4}
FREE = {"rate": 0, "group_rate": 0}


@pytest.mark.parametrize("datapath", SET_UPS)
def test_port_tap_and_vm_have_the_mtu_of_the_longest_frame(datapath: str) -> None:
    port, vm = profiles.DATAPATHS[datapath]
    forwarder = profiles.Forwarder.model_validate({"port": port, "vm": vm, "max_frame": 9014})
    device = profiles.load("qemu").model_copy(update={"forwarder": forwarder})
    assert mtus(device) == {"mgmt0": 9000, "access": 9000} | ({"access0": 9000} if vm == "tap" else {})


@pytest.mark.parametrize("datapath", ["ring-tap", "kernel", "bridge"])
def test_a_station_answers_behind_a_priority_tag(tmp_path: Path, datapath: str) -> None:
    """The end of the row is a network stack as the VM's, without 802.1Q of its own: it takes the frame for untagged."""
    ask = bytes.fromhex("0001080006040001" + "020000000001" + "0a090001" + "000000000000" + "0a090002")
    with bed(datapath, {}, tmp_path) as ready:
        ready.row.addresses()
        for tags in (PRIORITY, tag(5)):
            question = frame(destination="ff:ff:ff:ff:ff:ff", ethertype=0x0806, payload=ask, tags=tags)
            ready.ends[FROM_PORT].send(question)
            answers = ready.ends[FROM_PORT].receive(1, 1.0 if tags == PRIORITY else 0.3)
            assert [data[12:22] for data in answers] == ([b"\x08\x06" + ask[:7] + b"\x02"] if tags == PRIORITY else [])


def test_the_bridge_judges_frames_as_they_are_on_the_wire(tmp_path: Path) -> None:
    """What comes together is not made one (GRO): that would be longer than any frame. The control: else it would be."""

    def stream(row: Row) -> bool:
        """TCP from outside to the VM; whether all of it came in time."""

        def send(to: socket.socket, data: bytes) -> None:
            with contextlib.suppress(OSError):
                to.sendall(data)

        with inside(row.vm):
            listener = socket.create_server(("10.9.0.2", 5001))
        with inside(row.outside):
            client = socket.create_connection(("10.9.0.2", 5001), timeout=1)
        server, _ = listener.accept()
        server.settimeout(1)
        left = size = 2 << 20
        with listener, client, server, contextlib.suppress(TimeoutError):
            sender = threading.Thread(target=send, args=(client, bytes(size)))
            sender.start()
            while left and (got := len(server.recv(1 << 20))):
                left -= got
        sender.join(SECONDS)
        return left == 0

    with bed("bridge", {"from_port": FREE, "from_vm": FREE}, tmp_path) as ready:
        ready.row.addresses()
        for end, device in ((ready.row.outside, "a0"), (ready.row.vm, "b0")):
            ip("-n", end, "link", "set", device, "mtu", "1500")
        with inside(ready.row.outside):
            no_segmentation("a0")
        with inside(ready.row.appliance):
            receive_offload("mgmt0")
        assert stream(ready.row)
        assert "rx_oversized" not in ready.counted()
        ip("-n", ready.row.appliance, "link", "set", "mgmt0", "gro_max_size", "65536")
        stream(ready.row)
        assert ready.counted()["rx_oversized"] > 0


@pytest.mark.parametrize("end", [FROM_PORT, FROM_VM], ids=["from-port", "from-vm"])
@pytest.mark.parametrize("datapath", SET_UPS)
def test_every_datapath_has_the_same_limits(tmp_path: Path, datapath: str, end: int) -> None:
    """Of each direction: the burst passes, then the rate; groups have a bucket in front of the one of all."""
    word, names = ("rx_", "tx_")[end], ("from_port", "from_vm")
    limited = {names[end]: LIMITS, names[1 - end]: FREE}
    with bed(datapath, limited, tmp_path) as ready:

        def volley(kind: int, **change: Any) -> dict[str, int]:
            before = Counter(ready.counted())
            ready.ends[kind].send(*(made(kind, mark, change) for mark in range(30)))
            deadline = time.monotonic() + SECONDS
            while (rose := Counter(ready.counted()) - before).total() < 30 and time.monotonic() < deadline:
                time.sleep(0.002)
            return dict(rose)

        first = volley(end, destination="ff:ff:ff:ff:ff:ff")
        assert set(first) == {f"{word}passed", f"{word}group_rate"}, first
        assert 4 <= first[f"{word}passed"] <= 7, first
        time.sleep(0.6)  # the bucket of all is full again
        second = volley(end)
        assert set(second) == {f"{word}passed", f"{word}rate"}, second
        assert 10 <= second[f"{word}passed"] <= 16, second
        time.sleep(0.25)  # five more
        third = volley(end)
        assert 4 <= third[f"{word}passed"] <= 9, third
        assert volley(1 - end) == {f"{('tx_', 'rx_')[end]}passed": 30}
