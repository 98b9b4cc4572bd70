"""What the batches contain, how fast they are made, and that the judge tells the VM's own answers from all others."""

from __future__ import annotations

import random
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from proof.outside import groups, link_layer
from proof.outside.catalogue import MAX_PORT_FRAME, PROBES, QUICK, ProbeCatalogue
from proof.outside.resolution import slaac
from proof.outside.targets import UNUSED_MAC, Targets
from proof.result import Result, Verdict
from proof.scan.controls import arp_control, ipv4_path
from proof.scan.frame_batch import PIECES, FrameBatch, GeneratedFrames, LazyFrames, send_batch
from proof.scan.pace import Pace, SynControl
from proof.wire import craft
from proof.wire.craft import FramePath
from proof.wire.frame import Frame, parse
from proof.wire.judge import PortJudge
from proof.wire.target import BROADCAST, Target, eui64, mac_bytes
from tests.unit.proof.simpeer import HOST_MAC, Peer, ether, ipv4, ipv6, vm_stack, wired
from tests.unit.proof.simpeer import TARGET as SMALL

TARGET = Target(
    vm_mac="02:53:4c:00:00:01",
    vm_ipv4="192.168.42.1",
    host_macs={"mgmt0": HOST_MAC, "link0": "02:53:4c:00:01:01", "br0": "02:53:4c:00:01:02"},
)
VM, HOST, TESTER = mac_bytes(TARGET.vm_mac), mac_bytes(HOST_MAC), mac_bytes(TARGET.tester_mac)
VM4, TESTER4 = socket.inet_aton(TARGET.vm_ipv4), socket.inet_aton(TARGET.tester_ipv4)
VM6, TESTER6 = (socket.inet_pton(socket.AF_INET6, ip) for ip in (TARGET.vm_ipv6, TARGET.tester_ipv6))
HOST6, LINK4 = socket.inet_pton(socket.AF_INET6, eui64(HOST_MAC)), socket.inet_aton("169.254.254.1")
ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")


@pytest.fixture(scope="module")
def batches() -> dict[str, FrameBatch]:
    return {batch.name: batch for batch in ProbeCatalogue(TARGET, random.Random(1)).batches()}


def kinds(batch: FrameBatch) -> Counter[tuple[bytes, bytes]]:
    """Destination and EtherType of each frame."""
    return Counter((frame[:6], frame[12:14]) for frame in batch.frames)


# What is sent


def test_a_whole_run_throws_almost_two_hundred_thousand_frames(batches: dict[str, FrameBatch]) -> None:
    assert {batch.group for batch in batches.values()} == {"host"}
    assert len(batches) == len(PROBES)
    assert 170_000 < sum(len(batch.frames) for batch in batches.values()) < 200_000
    for batch in batches.values():
        assert all(0 < len(frame) <= MAX_PORT_FRAME for frame in batch.frames[:4000]), batch.name


def test_a_quick_run_throws_some_of_each_and_is_built_in_seconds() -> None:
    began, total = time.process_time(), 0
    for batch in ProbeCatalogue(TARGET, random.Random(1)).batches(quick=True):
        total += len(batch.frames)
        assert 20 < len(batch.frames) <= QUICK, batch.name
    assert total <= 7500
    assert time.process_time() - began < 10


def test_the_seed_decides_and_a_batch_that_is_left_out_changes_no_other() -> None:
    def some(seed: int, *names: str) -> dict[str, tuple[bytes, ...]]:
        every = ProbeCatalogue(TARGET, random.Random(seed)).batches(quick=True)
        return {batch.name: tuple(batch.frames) for batch in every if batch.name in names}

    first = some(5, "llc", "ethertypes", "snap", "tcp-ipv4")
    assert some(5, "tcp-ipv4") == {"tcp-ipv4": first["tcp-ipv4"]}
    assert some(6, "ethertypes")["ethertypes"] != first["ethertypes"]


def test_every_ethertype_goes_to_all_and_to_the_port_itself(batches: dict[str, FrameBatch]) -> None:
    frames = batches["ethertypes"].frames
    first = [mac_bytes(mac) for mac in (next(iter(TARGET.host_macs.values())), BROADCAST)]
    wanted = {mac + kind.to_bytes(2, "big") for mac in first for kind in range(0x0600, 0x10000)}
    sent = {frame[:6] + frame[12:14] for frame in frames[:]}
    assert wanted <= sent
    others = [mac_bytes(mac) for mac in (*TARGET.host_macs.values(), TARGET.vm_mac)]
    assert {mac + kind.to_bytes(2, "big") for mac in others for kind in (0x88B5, 0x88B6, 0x9000)} <= sent
    assert len(frames[0]) == 60


def test_a_quick_run_asks_for_the_likely_ethertypes_at_every_mac() -> None:
    every = ProbeCatalogue(TARGET, random.Random(2)).batches(quick=True)
    seen = kinds(next(batch for batch in every if batch.name == "ethertypes"))
    macs = (*TARGET.host_macs.values(), BROADCAST, TARGET.vm_mac)
    assert all((mac_bytes(mac), kind.to_bytes(2, "big")) in seen for mac in macs for kind in (0x88B5, 0x88B6, 0x9000))
    assert len(seen) > 150


def test_the_ethertype_walk_is_quick_and_small() -> None:
    walk = link_layer.ethertypes(Targets(TARGET, random.Random(1)))
    tracemalloc.start()
    began = time.process_time()
    made = sum(len(walk[start : start + 3840]) for start in range(0, len(walk), 3840))
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made == len(walk) > 2 * 64000
    assert peak < 20 << 20
    assert made / took > 60_000  # tracing makes it slower than it is


def test_every_protocol_goes_to_every_host_address_at_every_mac(batches: dict[str, FrameBatch]) -> None:
    seen = Counter[tuple[bytes, bytes, int]]()
    for raw in batches["protocols"].frames:
        is_ipv6 = raw[12:14] == b"\x86\xdd"
        seen[raw[:6], raw[38:54] if is_ipv6 else raw[30:34], raw[20] if is_ipv6 else raw[23]] += 1
        if not is_ipv6:
            assert craft._folded(craft._words(raw[14:34])) == 0xFFFF
    assert set(seen.values()) == {1}
    for address in ("169.254.254.1", "169.254.254.2", *(eui64(mac) for mac in TARGET.host_macs.values())):
        for mac in (*TARGET.host_macs.values(), TARGET.vm_mac, BROADCAST):
            assert all((mac_bytes(mac), ip_address(address).packed, number) in seen for number in range(256))


def test_all_dsaps_and_ip_in_snap(batches: dict[str, FrameBatch]) -> None:
    llc = batches["llc"].frames
    assert {frame[14] for frame in llc if frame[:6] == HOST} == set(range(256))
    assert all(int.from_bytes(frame[12:14], "big") == len(frame) - 14 for frame in llc)
    snap = batches["snap"].frames
    for kind in (b"\x08\x00", b"\x08\x06", b"\x86\xdd"):
        assert any(frame[:6] == HOST and frame[14:22] == b"\xaa\xaa\x03\0\0\0" + kind for frame in snap)
        tagged = [
            frame for frame in snap if frame[12:14] == b"\x81\x00" and frame[18:26] == b"\xaa\xaa\x03\0\0\0" + kind
        ]
        assert any(frame[:6] == HOST for frame in tagged)
        assert all(int.from_bytes(frame[16:18], "big") == len(frame) - 18 for frame in tagged)


def test_tags_of_every_priority_and_up_to_four(batches: dict[str, FrameBatch]) -> None:
    depths, priorities = set(), set()
    for frame in batches["vlan"].frames:
        at = 12
        while int.from_bytes(frame[at : at + 2], "big") in link_layer.TPIDS:
            at += 4
        depths.add((at - 12) // 4)
        if frame[12:14] == b"\x81\x00" and not frame[14] & 0x0F and not frame[15]:
            priorities.add(frame[14] >> 5)
    assert depths == {1, 2, 3, 4}
    assert priorities == set(range(8))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("link-protocols", kind) for kind in (0x88CC, 0x8809, 0x888E, 0x8863, 0x8864, 0x88F7, 0x8808, 0x8902)),
        *(("tunnels", kind) for kind in (0x8847, 0x8848, 0x8864)),
        ("wake-on-lan", 0x0842),
        *(("arp-reverse", kind) for kind in (0x0806, 0x8035)),
    ],
)
def test_link_protocols_go_to_every_mac(batches: dict[str, FrameBatch], name: str, kind: int) -> None:
    macs = {dst for dst, seen in kinds(batches[name]) if seen == kind.to_bytes(2, "big")}
    assert {mac_bytes(mac) for mac in TARGET.host_macs.values()} <= macs


def test_every_well_known_group_is_asked_at_its_mac_and_at_the_host(batches: dict[str, FrameBatch]) -> None:
    seen = {(frame[:6], parse(frame, 0).ip_dst) for frame in batches["group-pings"].frames}
    wanted = [f"224.0.0.{last}" for last in range(256)] + [
        "239.255.255.250",
        "ff01::1",
        "ff02::fb",
        "ff05::2",
        "ff08::101",
    ]
    for group in (*wanted, *groups.ipv6_groups()):
        for mac in (craft.group_mac(group), *TARGET.host_macs.values()):
            assert (mac_bytes(mac), ip_address(group).packed) in seen


def test_group_macs() -> None:
    assert craft.group_mac("224.0.0.251") == "01:00:5e:00:00:fb"
    assert craft.group_mac("239.255.255.250") == "01:00:5e:7f:ff:fa"
    assert craft.group_mac("ff02::1:ff00:1234") == "33:33:ff:00:12:34"


def test_frames_are_cut_after_every_byte(batches: dict[str, FrameBatch]) -> None:
    lengths = Counter(len(frame) for frame in batches["cut"].frames)
    assert set(range(1, 73)) <= set(lengths)
    jumbo = {len(frame) for frame in batches["jumbo"].frames}
    assert {1515, 9000, 65535} <= jumbo
    short = {
        len(f)
        for v in ProbeCatalogue(TARGET, random.Random(1), max_frame=1600).batches()
        if v.name == "jumbo"
        for f in v.frames
    }
    assert max(short) == 1536


def test_the_sources_are_false_and_the_links_own_are_among_them(batches: dict[str, FrameBatch]) -> None:
    seen = {str(ip_address(parse(frame, 0).ip_src)) for frame in batches["sources"].frames}
    assert {"169.254.254.1", "169.254.254.2", "127.0.0.1", "0.0.0.0", "240.0.0.1", "224.0.0.1"} <= seen
    assert {TARGET.vm_ipv4, TARGET.vm_ipv6, "::1", "ff02::1", "::ffff:7f00:1"} <= seen
    assert TARGET.tester_ipv4 not in seen


def test_nothing_tells_the_vm_another_mac_for_the_tester(batches: dict[str, FrameBatch]) -> None:
    """Else the VM would answer the controls at a MAC that is not the tester's."""
    names = (
        "arp-reverse",
        "arp-claims",
        "arp-elsewhere",
        "nd",
        "nd-claims",
        "routers",
        "redirects",
        "source-macs",
        "snap",
    )
    for name in (*names, "vlan", "groups", "link-protocols", "leases", "cut", "lengths"):
        for raw in batches[name].frames:
            frame = parse(raw, 0)
            if frame.arp_hw and frame.ip_src == TESTER4:
                assert frame.arp_hw == TESTER, name
            if frame.nd_mac and TESTER6 in (frame.ip_src, frame.nd_target):
                assert frame.nd_mac == TESTER, name


def test_a_question_follows_what_a_bridge_may_learn(batches: dict[str, FrameBatch]) -> None:
    heal = craft.arp_request(FramePath(TARGET.tester_mac, BROADCAST, TARGET.tester_ipv4, TARGET.vm_ipv4))
    frames = batches["source-macs"].frames
    last = max(index for index, frame in enumerate(frames) if frame[6:12] == VM)
    assert frames[last + 1] == heal
    assert {frame[6:12] for frame in frames} >= {VM, HOST, bytes(6), b"\xff" * 6, mac_bytes(UNUSED_MAC)}


def checksums_are_right(raw: bytes) -> bool:
    """Let scapy make all checksums anew."""
    packet = Ether(raw)
    layer: Packet = packet
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields:
                layer.delfieldval(name)
        layer = layer.payload
    return bytes(packet) == raw


def paths() -> Iterator[FramePath]:
    rng = random.Random(3)
    for _ in range(40):
        for size in (4, 16):
            source, target = (str(ip_address(rng.randbytes(size))) for _ in range(2))
            yield FramePath("02:" + rng.randbytes(5).hex(":"), "02:" + rng.randbytes(5).hex(":"), source, target)


def test_frames_that_are_aimed_by_arithmetic_are_what_scapy_makes() -> None:
    for path in paths():
        frames = [
            craft.ping(path, 0xFFFF, 0xFFFE),
            craft.udp(path, 1, 2, b"abc"),
            craft.tcp_syn(path, 1, 65535, 1 << 31, 3),
        ]
        if path.is_ipv6:
            frames += [craft.neighbour_solicit(path), craft.neighbour_solicit(path, multicast=False)]
        for raw in frames:
            assert checksums_are_right(raw)
            packet = Ether(raw)
            assert (packet.src, packet.dst) == (path.src_mac, packet.dst)
            layer = packet[IPv6] if path.is_ipv6 else packet[IP]
            assert layer.src == path.src_ip
            if ICMPv6ND_NS in packet:
                assert packet[ICMPv6ND_NS].tgt == path.dst_ip
            else:
                assert (layer.dst, packet.dst) == (path.dst_ip, path.dst_mac)
            assert any(kind in packet for kind in (ICMP, TCP, UDP, ICMPv6EchoRequest, ICMPv6ND_NS))


def test_fragments_of_an_echo_add_up_to_one_that_would_be_answered(batches: dict[str, FrameBatch]) -> None:
    pieces: dict[int, bytes] = {}
    for raw in batches["fragments"].frames:
        packet = Ether(raw)
        if IP in packet and packet[IP].proto == 1 and packet.dst == HOST_MAC and packet[IP].dst == "169.254.254.1":
            pieces.setdefault(packet[IP].frag, bytes(packet[IP].payload))
    whole = b"".join(pieces[at] for at in sorted(pieces))[:64]
    assert craft._folded(craft._words(whole)) == 0xFFFF


# How it is sent


def send_frames(peer: Peer, frames: Sequence[bytes]) -> Result:
    rng, path = random.Random(1), ipv4_path(SMALL)
    with wired(peer) as wire:
        return send_batch(
            wire,
            FrameBatch("host", "x", "x", frames),
            control=SynControl(path, 443, rng),
            bracket=lambda: [arp_control(path)],
            judge=PortJudge(SMALL),
            pace=Pace(),
        )


def number(index: int) -> bytes:
    return HOST + TESTER + b"\x88\xb5" + index.to_bytes(4, "big") + bytes(42)


def test_every_frame_of_a_long_batch_is_sent_once_and_in_order() -> None:
    order: list[int] = []

    def note(frame: Frame) -> list[bytes]:
        if frame.kind == 0x88B5:
            order.append(int.from_bytes(frame.raw[14:18], "big"))
        return []

    result = send_frames(Peer([vm_stack()], extra=note), GeneratedFrames(PIECES[0] + 500, number))
    assert result.verdict is Verdict.SEALED
    assert order == list(range(PIECES[0] + 500))
    assert "3 checks" in result.control


def test_a_batch_with_a_lost_control_is_sent_again_in_pieces() -> None:
    lost, heard, order = [1200], Counter[int](), list[int]()
    vm = vm_stack()

    def answer(frame: Frame) -> list[bytes]:
        if frame.kind == 0x88B5:
            order.append(int.from_bytes(frame.raw[14:18], "big"))
            heard[order[-1]] += 1
        elif frame.flags == 2 and lost and heard[lost[0]]:
            lost.pop()
            return []
        reply = vm.answer(frame)
        return [] if reply is None else [reply]

    result = send_frames(Peer([], extra=answer), GeneratedFrames(2000, number))
    assert result.verdict is Verdict.SEALED
    assert "1 pieces sent again" in result.control
    assert set(heard) == set(range(2000))
    assert order[-1] == 1999
    assert heard[0] == 3  # once lost, then twice without a loss


def test_an_answer_to_one_ethertype_among_all_is_a_hole() -> None:
    def answer(frame: Frame) -> list[bytes]:
        return [ether(TESTER, HOST, 0x8123, bytes(46))] if frame.kind == 0x8123 and frame.dst == HOST else []

    small = replace(SMALL, host_macs={"mgmt0": HOST_MAC})
    walk = link_layer.ethertypes(Targets(small, random.Random(1)))
    first = 0x8123 - link_layer.FIRST_ETHERTYPE - 700
    assert send_frames(Peer([vm_stack()], extra=answer), walk[first : first + 1500]).verdict is Verdict.HOLE
    assert send_frames(Peer([vm_stack()], extra=answer), walk[:1500]).verdict is Verdict.SEALED


def test_a_lazy_batch_is_built_once_and_not_before_it_is_wanted() -> None:
    built: list[int] = []

    def build() -> tuple[bytes, ...]:
        built.append(1)
        return (b"a", b"b", b"c")

    frames = LazyFrames(build)
    assert not built
    assert (len(frames), frames[1], tuple(frames[1:]), b"c" in frames) == (3, b"b", (b"b", b"c"), True)
    assert built == [1]
    with pytest.raises(IndexError):
        GeneratedFrames(3, number)[3]


# Whose answer it is


def icmp6(source: bytes, kind: int, code: int, pointer: int, quoted: bytes, to: bytes = TESTER6) -> Frame:
    body = bytes([kind, code, 0, 0]) + pointer.to_bytes(4, "big") + quoted
    return parse(ether(TESTER, VM, 0x86DD, ipv6(source, to, 58, body)), 0)


def quoted6(target: bytes, header: int, options: int = 1) -> bytes:
    """A packet of the tester that begins with hop-by-hop options of so many eight bytes, or with none."""
    return ipv6(TESTER6, target, header, bytes([58, options - 1, 1, 4 + 8 * (options - 1)]) + bytes(8 * options))


def echo_reply(source: bytes) -> Frame:
    return parse(ether(TESTER, VM, 0x0800, ipv4(source, TESTER4, 1, bytes(8))), 0)


@pytest.mark.parametrize(
    ("frame", "hole"),
    [
        # Hop-by-hop options are read before it is known for whom a packet is.
        (icmp6(VM6, 4, 2, 42, quoted6(HOST6, 0)), False),
        (icmp6(VM6, 4, 0, 4, quoted6(HOST6, 0)), False),
        (icmp6(VM6, 4, 2, 52, quoted6(HOST6, 0, 2)), False),
        # What lies behind them is not, nor is another header in their place.
        (icmp6(VM6, 4, 2, 50, quoted6(HOST6, 0)), True),
        (icmp6(VM6, 4, 2, 42, quoted6(HOST6, 60)), True),
        (icmp6(VM6, 4, 1, 42, quoted6(HOST6, 0)), True),
        (icmp6(VM6, 4, 1, 6, quoted6(HOST6, 200)), True),
        # Members of a group complain of options alone, hosts of packets for themselves of anything.
        (icmp6(VM6, 4, 2, 42, quoted6(ALL_NODES, 60)), False),
        (icmp6(VM6, 1, 4, 0, quoted6(ALL_NODES, 17)), True),
        (icmp6(VM6, 4, 1, 6, quoted6(VM6, 200)), False),
        (icmp6(VM6, 3, 1, 0, quoted6(VM6, 44)), False),  # a fragment's time is over (RFC 8200 section 4.5)
        (icmp6(VM6, 3, 0, 0, quoted6(HOST6, 58)), True),
        (icmp6(VM6, 1, 3, 0, quoted6(HOST6, 58)), True),
        (icmp6(VM6, 1, 0, 0, quoted6(HOST6, 58)), False),
        (icmp6(HOST6, 4, 2, 42, quoted6(HOST6, 0)), True),
        (icmp6(VM6, 4, 2, 42, b""), False),  # it quotes nobody
        # Addresses that the VM is about to take: its own, and one that a router offered.
        (icmp6(bytes(16), 135, 0, 0, VM6, ALL_NODES), False),
        (icmp6(bytes(16), 135, 0, 0, socket.inet_pton(socket.AF_INET6, slaac(TARGET.vm_mac)), ALL_NODES), True),
        (icmp6(VM6, 135, 0, 0, TESTER6), False),
        (echo_reply(VM4), False),
        (echo_reply(LINK4), True),
    ],
)
def test_the_judge_tells_own_answers_from_those_for_others(frame: Frame, hole: bool) -> None:
    assert (PortJudge(TARGET)(frame) is not None) == hole


@pytest.mark.parametrize(("wanted", "hole"), [(VM4, False), (bytes(4), False), (LINK4, True), (TESTER4, True)])
def test_arp_probes_for_another_address_are_a_hole(wanted: bytes, hole: bool) -> None:
    body = b"\x00\x01\x08\x00\x06\x04\x00\x01" + VM + bytes(4) + bytes(6) + wanted
    assert (PortJudge(TARGET)(parse(ether(b"\xff" * 6, VM, 0x0806, body), 0)) is not None) == hole


def test_no_answer_of_a_linux_host_to_any_of_it_is_a_hole(batches: dict[str, FrameBatch]) -> None:
    """What the simulated VM says to every frame that reaches it is its own, whatever was asked."""
    vm, judge = vm_stack(TARGET), PortJudge(TARGET)
    answered = 0
    for batch in batches.values():
        for raw in batch.frames[:4000]:
            reply = vm.answer(parse(raw, 0))
            if reply is not None:
                answered += 1
                assert judge(parse(reply, 0)) is None, (batch.name, raw.hex())
    assert answered > 100
