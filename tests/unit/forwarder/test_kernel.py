"""Way ``kernel`` on a real kernel: network namespaces `outside` - `forwarder` - `vm`, joined by veth pairs or a tap."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from backend.forwarder import _kernel, datapaths, errors, kernel_programs
from backend.forwarder.counters import VERDICTS
from backend.forwarder.kernel_programs import KernelPrograms
from tests.unit.forwarder import _testing
from tests.unit.forwarder.policies import BROADCAST, FROM_PORT, FROM_VM, PEER_MAC, VM_MAC, Limit, Policy

OBJECT = datapaths.BPF_OBJECT if datapaths.BPF_OBJECT.exists() else Path(_kernel.__file__).with_name("kernel.bpf.o")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and BPF need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="ip(8) is not installed"),
]

SHOT, REDIRECT = 2, 7  # TC_ACT_SHOT, TC_ACT_REDIRECT of linux/pkt_cls.h
VERDICT_S = 2.0
QUIET_S = 0.15
MTU = 9000
VM_IP, PEER_IP = "192.0.2.1", "192.0.2.2"
_libc = ctypes.CDLL(None, use_errno=True)


# --- namespaces and frames ---


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's sockets are opened in the namespace."""
    clone_newnet = 0x40000000
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if _libc.setns(there.fileno(), clone_newnet) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            _libc.setns(home.fileno(), clone_newnet)


class Wire:
    """Sends and receives whole frames at one interface, tags as they are on a wire."""

    _SOL_PACKET, _AUXDATA, _IGNORE_OUTGOING = 263, 8, 23  # linux/socket.h, linux/if_packet.h
    _VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40

    def __init__(self, namespace: str, interface: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.bind((interface, 3))
        self._socket.setsockopt(self._SOL_PACKET, self._AUXDATA, 1)
        self._socket.setsockopt(self._SOL_PACKET, self._IGNORE_OUTGOING, 1)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def receive(self, timeout_s: float = VERDICT_S) -> bytes | None:
        self._socket.settimeout(timeout_s)
        try:
            frame, ancillary, _, _ = self._socket.recvmsg(70000, socket.CMSG_SPACE(20))
        except TimeoutError:
            return None
        for _, _, data in ancillary:
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", data)
            if status & self._VLAN_VALID:
                tpid = tpid if status & self._VLAN_TPID_VALID else 0x8100
                frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
        return frame

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Place:
    """The namespaces and what is in them."""

    outside: str
    forwarder: str
    vm: str
    port: int
    tap: int
    wires: tuple[Wire, Wire]
    """Where frames of each direction come from: the peer's end, the VM's."""

    @contextlib.contextmanager
    def datapath(self, policy: Policy = Policy()) -> Iterator[KernelPrograms]:  # noqa: B008 - frozen
        with inside(self.forwarder):
            datapath = KernelPrograms(self.port, self.tap, policy.pack(), OBJECT)
        try:
            yield datapath
        finally:
            datapath.close()


@pytest.fixture
def place() -> Iterator[Place]:
    names = [f"kfw-{os.getpid()}-{name}" for name in ("outside", "forwarder", "vm")]
    outside, forwarder, vm = names
    wires: tuple[Wire, ...] = ()
    try:
        for name in names:
            ip("netns", "add", name)
            with inside(name):
                Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        for name, end, here, mac in ((outside, "peer0", "mgmt0", PEER_MAC), (vm, "eth0", "access0", VM_MAC)):
            ip(
                "-n",
                forwarder,
                "link",
                "add",
                here,
                "mtu",
                str(MTU),
                "type",
                "veth",
                "peer",
                "name",
                end,
                "mtu",
                str(MTU),
            )
            ip("-n", forwarder, "link", "set", end, "netns", name)
            ip("-n", name, "link", "set", end, "address", mac.hex(":"), "up")
            ip("-n", forwarder, "link", "set", here, "up")
        with inside(forwarder):
            port, tap = socket.if_nametoindex("mgmt0"), socket.if_nametoindex("access0")
        wires = (Wire(outside, "peer0"), Wire(vm, "eth0"))
        yield Place(outside, forwarder, vm, port, tap, (wires[0], wires[1]))
    finally:
        for wire in wires:
            wire.close()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=10)


def frame(
    from_: int,
    payload: Packet | None = None,
    *,
    dst: bytes | None = None,
    src: bytes | None = None,
    tags: Packet | None = None,
) -> bytes:
    """A good frame of a direction, but for what is given."""
    macs = (PEER_MAC, VM_MAC)
    ether = Ether(src=(src or macs[from_]).hex(":"), dst=(dst or macs[1 - from_]).hex(":"))
    addresses = (PEER_IP, VM_IP)
    body = (
        payload if payload is not None else IP(src=addresses[from_], dst=addresses[1 - from_]) / UDP() / Raw(b"x" * 40)
    )
    return bytes(ether / tags / body if tags is not None else ether / body)


def counted(datapath: KernelPrograms, direction: int) -> list[int]:
    return [frames for frames, _ in datapath.counters()[direction]]


def verdict_after(datapath: KernelPrograms, direction: int, before: list[int]) -> str:
    """The one verdict that was counted since ``before``."""
    deadline = time.monotonic() + VERDICT_S
    while (after := counted(datapath, direction)) == before:
        assert time.monotonic() < deadline, "no verdict was counted"
    changes = {VERDICTS[i]: after[i] - before[i] for i in range(len(VERDICTS)) if after[i] != before[i]}
    assert list(changes.values()) == [1], changes
    return next(iter(changes))


def judged(place: Place, datapath: KernelPrograms, direction: int, sent: bytes) -> tuple[str, bytes | None]:
    """Send a frame: the verdict on it, and what came out at the other side."""
    before = counted(datapath, direction)
    place.wires[direction].send(sent)
    verdict = verdict_after(datapath, direction, before)
    return verdict, place.wires[1 - direction].receive(VERDICT_S if verdict == "passed" else 0.02)


# --- verdicts ---


@pytest.mark.parametrize("direction", [FROM_PORT, FROM_VM])
def test_good_frames_pass_unchanged_in_both_directions(place: Place, direction: int) -> None:
    with place.datapath() as datapath:
        for good in (
            frame(direction),
            frame(direction, dst=BROADCAST),
            frame(direction, ARP(pdst=VM_IP, psrc=PEER_IP), dst=BROADCAST),
            frame(direction, IPv6(src="fe80::1", dst="fe80::2") / ICMP()),
        ):
            assert judged(place, datapath, direction, good) == ("passed", good)
        total = datapath.counters()[direction][0]
        assert total[0] == 4
        assert total[1] > 4 * 42


@pytest.mark.parametrize(
    ("verdict", "direction", "bad"),
    [
        ("runt", FROM_PORT, frame(FROM_PORT, ARP())[:30]),
        ("runt", FROM_VM, frame(FROM_VM, IP())[:33]),
        ("oversized", FROM_PORT, frame(FROM_PORT, IP() / Raw(b"x" * 1481))),
        ("oversized", FROM_VM, frame(FROM_VM, IP() / Raw(b"x" * 1481))),
        ("tags", FROM_PORT, frame(FROM_PORT, tags=Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3))),
        ("spoofed", FROM_PORT, frame(FROM_PORT, src=VM_MAC)),
        ("spoofed", FROM_PORT, frame(FROM_PORT, src=b"\x03" + PEER_MAC[1:])),
        ("spoofed", FROM_VM, frame(FROM_VM, src=PEER_MAC)),
        ("destination", FROM_PORT, frame(FROM_PORT, dst=PEER_MAC)),
        ("ethertype", FROM_PORT, frame(FROM_PORT, Raw(b"\x00" * 46))),
        ("ethertype", FROM_VM, frame(FROM_VM)[:12] + b"\x88\xcc" + b"\x00" * 46),
        ("link_address", FROM_PORT, frame(FROM_PORT, IP(src="169.254.254.1", dst=VM_IP))),
        ("link_address", FROM_VM, frame(FROM_VM, IP(src=VM_IP, dst="169.254.254.2"))),
        ("link_address", FROM_VM, frame(FROM_VM, ARP(psrc="169.254.254.3", pdst=PEER_IP), dst=BROADCAST)),
        ("link_address", FROM_VM, frame(FROM_VM, IP(src="169.254.254.1", dst=VM_IP), tags=Dot1AD() / Dot1Q())),
    ],
)
def test_bad_frames_are_dropped_and_counted(place: Place, verdict: str, direction: int, bad: bytes) -> None:
    with place.datapath() as datapath:
        assert judged(place, datapath, direction, bad) == (verdict, None)
        good = frame(direction)
        assert judged(place, datapath, direction, good) == ("passed", good), "the control"


@pytest.mark.parametrize("tags", [0x8100, 0x88A8, 0x9100])
@pytest.mark.parametrize("inner", [None, 0x8100])
def test_tags_are_kept(place: Place, tags: int, inner: int | None) -> None:
    """The kernel keeps the first 802.1Q or 802.1ad tag beside the frame; 0x9100 and second tags are bytes of it."""
    plain = frame(FROM_PORT)
    tag = struct.pack("!HH", tags, 0x6123) + (struct.pack("!HH", inner, 0x0045) if inner else b"")
    with place.datapath() as datapath:
        for direction in (FROM_PORT, FROM_VM):
            plain = frame(direction)
            sent = plain[:12] + tag + plain[12:]
            assert judged(place, datapath, direction, sent) == ("passed", sent)
        largest = frame(FROM_PORT, IP() / Raw(b"x" * 1480))
        sent = largest[:12] + tag + largest[12:]
        assert judged(place, datapath, FROM_PORT, sent) == ("passed", sent), "tags do not count as length"
    with place.datapath(Policy(tags=1 if inner else 0)) as datapath:
        assert judged(place, datapath, FROM_PORT, sent) == ("tags", None)


def test_jumbo_frames_if_the_policy_wants_them(place: Place) -> None:
    jumbo = frame(FROM_PORT, IP(src=PEER_IP, dst=VM_IP) / Raw(b"j" * 8980))
    with place.datapath(Policy(max_frame=9014)) as datapath:
        assert judged(place, datapath, FROM_PORT, jumbo) == ("passed", jumbo)


# --- limits ---


def burst(place: Place, datapath: KernelPrograms, direction: int, sent: bytes, frames: int) -> dict[str, int]:
    before = counted(datapath, direction)
    for _ in range(frames):
        place.wires[direction].send(sent)
    deadline = time.monotonic() + VERDICT_S
    while sum(after := counted(datapath, direction)) < sum(before) + frames:
        assert time.monotonic() < deadline
    return {VERDICTS[i]: after[i] - before[i] for i in range(len(VERDICTS)) if after[i] != before[i]}


@pytest.mark.parametrize("direction", [FROM_PORT, FROM_VM])
def test_rate_limit(place: Place, direction: int) -> None:
    limit = Limit(rate=20, burst=10)
    with place.datapath(Policy(rate=(limit, limit))) as datapath:
        for tested in (direction, 1 - direction):  # each has a bucket of its own
            verdicts = burst(place, datapath, tested, frame(tested), 60)
            assert 10 <= verdicts["passed"] <= 15
            assert verdicts["rate"] == 60 - verdicts["passed"]
        time.sleep(0.3)  # 6 tokens
        again = burst(place, datapath, direction, frame(direction), 30)
        assert 5 <= again["passed"] <= 12, "the bucket fills again"


def test_group_limit(place: Place) -> None:
    with place.datapath(Policy(group_rate=(Limit(rate=20, burst=5), Limit()))) as datapath:
        verdicts = burst(place, datapath, FROM_PORT, frame(FROM_PORT, dst=BROADCAST), 40)
        assert 5 <= verdicts["passed"] <= 10
        assert verdicts["group_rate"] == 40 - verdicts["passed"]
        assert burst(place, datapath, FROM_PORT, frame(FROM_PORT), 40) == {"passed": 40}, "frames to one station"


def test_a_flood_of_broadcasts_leaves_the_rate_to_others(place: Place) -> None:
    limits = (Limit(rate=20, burst=20), Limit())
    with place.datapath(Policy(rate=limits, group_rate=(Limit(rate=1, burst=2), Limit()))) as datapath:
        assert burst(place, datapath, FROM_PORT, frame(FROM_PORT, dst=BROADCAST), 100)["group_rate"] >= 97
        assert burst(place, datapath, FROM_PORT, frame(FROM_PORT), 15) == {"passed": 15}


# --- the same policy as in the process ---


def generated(seed: int, number: int) -> Iterator[tuple[int, bytes]]:
    """Directions and frames: good ones of every sort, and what random changes make of them."""
    chance = random.Random(seed)
    macs = [
        VM_MAC,
        PEER_MAC,
        BROADCAST,
        bytes(6),
        *map(bytes.fromhex, ("333300000001", "0180c2000002", "0180c2000003")),
    ]
    addresses = [VM_IP, PEER_IP, "169.254.254.1", "169.254.254.3", "169.254.255.0", "0.0.0.0"]
    bodies: list[Packet] = [
        IP(src=addresses[1], dst=addresses[0]) / TCP() / Raw(b"t" * 20),
        *(IP(src=a, dst=b) / UDP() for a, b in itertools.pairwise(addresses)),
        *(ARP(psrc=a, pdst=b) for a, b in itertools.pairwise(addresses)),
        IPv6() / UDP(),
        Raw(b"\x00" * 50),
    ]
    stacks: list[Packet | None] = [
        *(None, None, None, Dot1Q(vlan=1), Dot1AD() / Dot1Q(), Dot1Q() / Dot1Q() / Dot1Q()),
        *(Dot1Q(vlan=0, prio=5), Dot1Q(vlan=0) / Dot1Q(vlan=7), Dot1Q(vlan=0) / Dot1Q(vlan=0), Dot1AD(vlan=0)),
    ]
    for _ in range(number):
        direction = chance.choice([FROM_PORT, FROM_VM])
        made = bytearray(
            frame(
                direction,
                chance.choice(bodies),
                tags=chance.choice(stacks),
                src=chance.choice([None, None, None, *macs]),
                dst=chance.choice([None, None, *macs]),
            )
        )
        kind = chance.randrange(4)
        if kind == 0:
            for _ in range(chance.randrange(1, 4)):
                made[chance.randrange(min(len(made), 42))] = chance.choice([0, 1, 6, 8, 0x81, 0x88, 0xA8, 0x91, 0xFF])
        elif kind == 1:
            del made[chance.randrange(20, len(made)) :]
        elif kind == 2:
            made += bytes(chance.randrange(1400, 1500))
        yield direction, bytes(made)


SHORTEST_RUN = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""Bytes: BPF_PROG_TEST_RUN takes no IP frame without its IP header (net/bpf/test_run.c)."""
POLICIES = (Policy(), Policy(tags=0), Policy(tags=1, ethertypes=(0x0800,)), Policy(link="0.0.0.0/0"))


def test_bpf_and_c_decide_alike() -> None:
    """On the bytes alone, by BPF_PROG_TEST_RUN: tags are all in the frame."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    seen: set[int] = set()
    for policy in POLICIES:
        packed = policy.pack()
        programs = _kernel.Programs(str(OBJECT), packed, 1, 2)
        for direction, sent in generated(seed, 300):
            if len(sent) < SHORTEST_RUN.get(sent[12:14], 0):
                continue  # the next test has them
            before = programs.counters()[direction]
            action, _ = programs.run(direction, sent)
            after = programs.counters()[direction]
            changed = [i for i in range(len(VERDICTS)) if after[i] != before[i]]
            expected = _testing.check(packed, direction, sent, 0)
            assert changed == [expected], (direction, sent.hex())
            assert after[expected] == (before[expected][0] + 1, before[expected][1] + len(sent))
            assert action == (SHOT if expected else REDIRECT)
            seen.add(expected)
        programs.close()
    assert len(seen) >= 8, "the frames were too much alike"


def test_bpf_and_c_decide_alike_on_a_wire(place: Place) -> None:
    """Through interfaces: the first 802.1Q or 802.1ad tag is beside the frame."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    packed = Policy(tags=1).pack()
    beside = 0
    with place.datapath(Policy(tags=1)) as datapath:
        for direction, sent in generated(seed, 200):
            tagged = sent[12:14] in (b"\x81\x00", b"\x88\xa8")
            rest = sent[:12] + sent[16:] if tagged else sent
            expected = _testing.check(packed, direction, rest, int.from_bytes(sent[12:16], "big") if tagged else 0)
            before = counted(datapath, direction)
            place.wires[direction].send(sent)
            assert verdict_after(datapath, direction, before) == VERDICTS[expected], (direction, sent.hex())
            beside += tagged
    assert beside > 10


# --- offloads ---


def test_tcp_with_offloads_is_intact(place: Place) -> None:
    """Super-frames and unfinished checksums of veth: 128 MiB, and no frame counted as too long."""
    ip("-n", place.outside, "address", "add", f"{PEER_IP}/24", "dev", "peer0")
    ip("-n", place.vm, "address", "add", f"{VM_IP}/24", "dev", "eth0")
    block = random.Random(3).randbytes(1 << 20)
    blocks = 128
    with inside(place.vm):
        server = socket.create_server((VM_IP, 7777))
    received = hashlib.sha256()
    sent = hashlib.sha256()

    def serve() -> None:
        server.settimeout(10)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            while chunk := connection.recv(1 << 20):
                received.update(chunk)
            connection.sendall(b"done")

    # Segments of at most 1,514 bytes: the policy's limit is for these, not for the GSO frames.
    ip("-n", place.outside, "link", "set", "peer0", "mtu", "1500")
    ip("-n", place.vm, "link", "set", "eth0", "mtu", "1500")
    with place.datapath(Policy(rate=(Limit(rate=10**7, burst=100), Limit(rate=10**7, burst=100)))) as datapath:
        thread = threading.Thread(target=serve)
        thread.start()
        with inside(place.outside):
            client = socket.create_connection((VM_IP, 7777), timeout=10)
        started = time.monotonic()
        with client:
            for _ in range(blocks):
                client.sendall(block)
                sent.update(block)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(4) == b"done"
        seconds = time.monotonic() - started
        thread.join(10)
        server.close()
        frames, length = datapath.counters()[FROM_PORT][0]
        assert received.digest() == sent.digest()
        assert counted(datapath, FROM_PORT)[VERDICTS.index("oversized")] == 0
        assert length / frames > 3000, "there were no GSO frames: the test tests nothing"
        assert blocks * 8 / 1024 / seconds > 0.3, "Gbit/s"


# struct virtio_net_hdr, virtio 1.2 section 5.1.6
NEEDS_CSUM, GSO_NONE, GSO_TCPV4 = 1, 0, 1


def request(
    flags: int = 0, gso: int = GSO_NONE, header: int = 0, size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("=BBHHHH", flags, gso, header, size, start, offset)


@pytest.fixture
def tap(place: Place) -> Iterator[tuple[Place, int]]:
    """`place`, but the VM's end is a tap with virtio headers, as QEMU has it."""
    ip("-n", place.forwarder, "link", "delete", "access0")
    with inside(place.forwarder):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        # TUNSETIFF; IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"access0", 0x2 | 0x1000 | 0x4000))
        ip("-n", place.forwarder, "link", "set", "access0", "up")
        index = socket.if_nametoindex("access0")
    # The kernel itself finishes checksums at the port, as it does for a card that cannot.
    if shutil.which("ethtool"):
        subprocess.run(
            ["ip", "netns", "exec", place.forwarder, "ethtool", "-K", "mgmt0", "tx", "off"],
            check=True,
            capture_output=True,
        )
    try:
        yield Place(place.outside, place.forwarder, place.vm, place.port, index, place.wires), device
    finally:
        os.close(device)


def test_a_guest_cannot_have_a_judged_byte_overwritten(tap: tuple[Place, int]) -> None:
    """A checksum is stored where the guest says, after the program: at a judged place it could forge an address."""
    place, device = tap
    udp = frame(FROM_VM)
    arp = frame(FROM_VM, ARP(psrc=VM_IP, pdst=PEER_IP), dst=BROADCAST)
    six = frame(FROM_VM, IPv6() / UDP() / Raw(b"x" * 8))
    tagged = frame(FROM_VM, tags=Dot1Q(vlan=5))
    deep = frame(FROM_VM, tags=Dot1Q(vlan=5) / Dot1Q(vlan=6))
    cases = [
        ("passed", udp, request()),
        ("passed", arp, request()),
        ("passed", udp, request(NEEDS_CSUM, start=34, offset=6)),  # where UDP has it
        ("passed", tagged, request(NEEDS_CSUM, start=38, offset=6)),
        ("passed", deep, request(NEEDS_CSUM, start=42, offset=6)),
        ("passed", six, request(NEEDS_CSUM, start=54, offset=6)),
        ("offload", udp, request(NEEDS_CSUM, start=20, offset=10)),  # IPv4 destination
        ("offload", udp, request(NEEDS_CSUM, start=20, offset=12)),
        ("offload", udp, request(NEEDS_CSUM, start=26, offset=0)),  # IPv4 source
        ("offload", tagged, request(NEEDS_CSUM, start=34, offset=2)),
        ("offload", deep, request(NEEDS_CSUM, start=20, offset=0)),  # the EtherType behind two tags
        ("offload", deep, request(NEEDS_CSUM, start=38, offset=2)),
        ("offload", arp, request(NEEDS_CSUM, start=28, offset=0)),  # ARP sender
        ("offload", arp, request(NEEDS_CSUM, start=34, offset=6)),  # ARP target
    ]
    with place.datapath() as datapath:
        for verdict, sent, asked in cases:
            before = counted(datapath, FROM_VM)
            os.write(device, asked + sent)
            assert verdict_after(datapath, FROM_VM, before) == verdict, asked.hex()
            out = place.wires[FROM_PORT].receive(VERDICT_S if verdict == "passed" else 0.02)
            assert (out is not None) == (verdict == "passed")
            if out is not None:
                assert out[:34] == sent[:34], "what was judged is what came out"


def test_gso_frames_of_a_guest_count_by_their_segments(tap: tuple[Place, int]) -> None:
    place, device = tap
    payload = 14 * 1000
    tcp = frame(FROM_VM, IP(src=VM_IP, dst=PEER_IP) / TCP() / Raw(b"s" * payload))
    asked = request(NEEDS_CSUM, GSO_TCPV4, header=54, size=1000, start=34, offset=16)
    with place.datapath(Policy(rate=(Limit(), Limit(rate=1, burst=30)))) as datapath:
        verdicts = []
        for _ in range(3):
            before = counted(datapath, FROM_VM)
            os.write(device, asked + tcp)
            verdicts.append(verdict_after(datapath, FROM_VM, before))
        assert verdicts == ["passed", "passed", "rate"], "14 segments each, a burst of 30"
        before = counted(datapath, FROM_VM)
        os.write(device, request() + frame(FROM_VM))
        assert verdict_after(datapath, FROM_VM, before) == "passed", "two tokens were left"
    cases = {
        "offload": request(NEEDS_CSUM, GSO_TCPV4, header=54, size=255, start=34, offset=16),
        "oversized": request(NEEDS_CSUM, GSO_TCPV4, header=54, size=1461, start=34, offset=16),
        "passed": request(NEEDS_CSUM, GSO_TCPV4, header=54, size=1460, start=34, offset=16),
    }
    with place.datapath() as datapath:
        for verdict, header in cases.items():
            before = counted(datapath, FROM_VM)
            os.write(device, header + tcp)
            assert verdict_after(datapath, FROM_VM, before) == verdict


# --- closed when it should be ---

CHILD = """
    import ctypes, sys
    from pathlib import Path
    CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "BPF": 39, "PERFMON": 38}

    def keep(*names):
        sets = sum(1 << CAPABILITIES[name] for name in names)
        words = []
        for half in (sets & 0xffffffff, sets >> 32):
            words += [half, half, 0]
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*words)
        assert ctypes.CDLL(None, use_errno=True).capset(header, data) == 0

    from backend.forwarder import errors
    from backend.forwarder.kernel_programs import KernelPrograms
    port, tap, policy, program, *capabilities = sys.argv[1:]
    keep(*capabilities)
    try:
        datapath = KernelPrograms(int(port), int(tap), bytes.fromhex(policy), Path(program))
    except errors.ForwarderError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(0)
    keep()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(datapath.counters()[0][0][0], flush=True)
"""


@contextlib.contextmanager
def child(place: Place, *capabilities: str) -> Iterator[subprocess.Popen[str]]:
    """A process that opens the datapath with these capabilities, drops them all, and prints how many frames it saw."""
    code = os.environ.get("KERNEL_TEST_PRELUDE", "") + textwrap.dedent(CHILD)
    arguments = [str(place.port), str(place.tap), Policy().pack().hex(), str(OBJECT), *capabilities]
    process = subprocess.Popen(
        ["ip", "netns", "exec", place.forwarder, sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(said(process))


def test_two_capabilities_suffice_and_then_none(place: Place) -> None:
    with child(place, "BPF", "NET_ADMIN") as process:
        assert said(process) == "ready"
        for number in (1, 2, 3):
            place.wires[FROM_PORT].send(frame(FROM_PORT))
            assert place.wires[FROM_VM].receive() is not None
            assert ask(process) == number


@pytest.mark.parametrize("capability", ["BPF", "NET_ADMIN"])
def test_one_capability_is_not_enough(place: Place, capability: str) -> None:
    with child(place, capability) as process:
        answer = said(process)
        assert answer.startswith("NotPermittedError")
        assert "CAP_BPF and CAP_NET_ADMIN" in answer


def test_killed_is_closed(place: Place) -> None:
    good = (frame(FROM_PORT), frame(FROM_VM))
    with child(place, "BPF", "NET_ADMIN") as process:
        assert said(process) == "ready"
        for direction in (FROM_PORT, FROM_VM):
            place.wires[direction].send(good[direction])
            assert place.wires[1 - direction].receive() == good[direction], "the control"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    deadline = time.monotonic() + VERDICT_S
    with inside(place.forwarder):
        while _kernel.attached(place.port) or _kernel.attached(place.tap):
            assert time.monotonic() < deadline
    for direction in (FROM_PORT, FROM_VM):
        place.wires[direction].send(good[direction])
        assert place.wires[1 - direction].receive(QUIET_S) is None
    with place.datapath() as datapath:
        assert judged(place, datapath, FROM_PORT, good[0]) == ("passed", good[0]), "and may be started again"


def test_nothing_reaches_the_stack(place: Place) -> None:
    """The forwarder's own namespace has an address here, and does not answer for it."""
    ip("-n", place.forwarder, "address", "add", "192.0.2.9/24", "dev", "mgmt0")
    who = frame(FROM_PORT, ARP(psrc=PEER_IP, hwsrc=PEER_MAC.hex(":"), pdst="192.0.2.9"), dst=BROADCAST)
    place.wires[FROM_PORT].send(who)
    assert place.wires[FROM_PORT].receive() is not None, "the control: without the programs the stack answers"
    with place.datapath() as datapath:
        assert judged(place, datapath, FROM_PORT, who) == ("passed", who)
        assert place.wires[FROM_PORT].receive(QUIET_S) is None


def test_a_second_one_is_refused_and_the_first_goes_on(place: Place) -> None:
    with place.datapath() as datapath:
        with pytest.raises(errors.AlreadyRunningError, match="has 1 programs at its ingress"), place.datapath():
            pass
        assert judged(place, datapath, FROM_PORT, frame(FROM_PORT))[0] == "passed"
    with place.datapath() as datapath:
        assert judged(place, datapath, FROM_PORT, frame(FROM_PORT))[0] == "passed"


def test_an_interface_that_vanishes(place: Place) -> None:
    with place.datapath() as datapath:
        assert judged(place, datapath, FROM_PORT, frame(FROM_PORT))[0] == "passed"
        ip("-n", place.forwarder, "link", "delete", "mgmt0")
        assert counted(datapath, FROM_PORT)[0] == 1, "the counters stay"
        before = counted(datapath, FROM_VM)
        place.wires[FROM_VM].send(frame(FROM_VM))
        assert verdict_after(datapath, FROM_VM, before) == "passed", "and is dropped behind the program"
    with pytest.raises(errors.InterfaceMissingError, match="the port, interface"), place.datapath():
        pass


def test_an_interface_that_is_down_and_up_again(place: Place) -> None:
    with place.datapath() as datapath:
        ip("-n", place.forwarder, "link", "set", "mgmt0", "down")
        place.wires[FROM_VM].send(frame(FROM_VM))
        assert place.wires[FROM_PORT].receive(QUIET_S) is None
        ip("-n", place.forwarder, "link", "set", "mgmt0", "up")
        assert judged(place, datapath, FROM_VM, frame(FROM_VM)) == ("passed", frame(FROM_VM))


def test_an_egress_chain_lets_out_these_frames_alone(place: Place) -> None:
    """By their mark, or because the kernel leaves that chain out after a redirect (NETFILTER_SKIP_EGRESS)."""
    if shutil.which("nft") is None:
        pytest.skip("nft(8) is not installed")
    rules = "".join(
        f"table netdev {name}_out {{\n chain out {{\n type filter hook egress device {name} priority 0; policy drop;\n"
        f" meta mark {kernel_programs.MARK:#x} accept\n }}\n }}\n"
        for name in ("mgmt0", "access0")
    )
    own = Wire(place.forwarder, "mgmt0")
    with contextlib.closing(own), place.datapath() as datapath:
        own.send(frame(FROM_VM))
        assert place.wires[FROM_PORT].receive() is not None, "the control: without rules the host can send"
        subprocess.run(
            ["ip", "netns", "exec", place.forwarder, "nft", "-f", "-"], input=rules, text=True, check=True, timeout=10
        )
        with contextlib.suppress(OSError):
            own.send(frame(FROM_VM))
        assert place.wires[FROM_PORT].receive(QUIET_S) is None, "a frame of the host itself"
        for direction in (FROM_PORT, FROM_VM):
            good = frame(direction)
            assert judged(place, datapath, direction, good) == ("passed", good)


def test_frames_leave_with_the_mark(place: Place) -> None:
    so_rcvmark = 75  # asm-generic/socket.h, Linux 5.19
    with inside(place.forwarder):
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        seen.bind(("access0", 3))
    with seen, place.datapath():
        seen.setsockopt(socket.SOL_SOCKET, so_rcvmark, 1)
        seen.settimeout(VERDICT_S)
        place.wires[FROM_PORT].send(frame(FROM_PORT))
        _, ancillary, _, _ = seen.recvmsg(2000, socket.CMSG_SPACE(4))
        assert [int.from_bytes(data, sys.byteorder) for _, _, data in ancillary] == [kernel_programs.MARK]


# --- bad input ---


def test_a_kernel_without_tcx(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EINVAL, "cannot ask")

    monkeypatch.setattr(_kernel, "attached", refuse)
    with pytest.raises(errors.FeatureMissingError, match=r"tcx, since 6\.6"), place.datapath():
        pass


def test_an_object_that_is_not_there(place: Place, tmp_path: Path) -> None:
    with inside(place.forwarder), pytest.raises(errors.FeatureMissingError, match=r"none\.o.*No such file"):
        KernelPrograms(place.port, place.tap, Policy().pack(), tmp_path / "none.o")


def test_an_object_of_another_kind(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.o"
    other.write_bytes(b"not an object")
    with inside(place.forwarder), pytest.raises(errors.FeatureMissingError, match=r"other\.o.*libbpf"):
        KernelPrograms(place.port, place.tap, Policy().pack(), other)


@pytest.mark.parametrize(("policy", "port", "vm"), [(b"short", 1, 2), (Policy().pack(), 0, 1), (Policy().pack(), 1, 1)])
def test_wrong_arguments(policy: bytes, port: int, vm: int) -> None:
    with pytest.raises(ValueError, match="want a policy of 120 bytes"):
        _kernel.Programs(str(OBJECT), policy, port, vm)


def test_closed_is_closed(place: Place) -> None:
    with place.datapath() as datapath:
        datapath.close()
        with pytest.raises(ValueError, match="closed"):
            datapath.counters()
        with inside(place.forwarder):
            assert _kernel.attached(place.port) == 0
