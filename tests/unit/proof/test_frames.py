"""Frames are built and read correctly, and no bytes make the parser raise."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ParamProblem, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from proof.outside.catalogue import ProbeCatalogue
from proof.wire.craft import FramePath, arp_request, neighbour_advert, ping, tagged, tcp_syn, udp
from proof.wire.frame import NEIGHBOUR_ADVERT, parse, summary
from proof.wire.judge import PortJudge
from proof.wire.target import Target, eui64
from tests.unit.proof.simpeer import TARGET

V4 = FramePath("02:00:00:00:00:01", "02:00:00:00:00:02", "192.0.2.1", "192.0.2.2")
V6 = FramePath("02:00:00:00:00:01", "02:00:00:00:00:02", "fe80::1", "fe80::2")


@pytest.mark.parametrize("path", [V4, V6])
def test_patched_checksums_are_those_of_scapy(path: FramePath) -> None:
    rng = random.Random(1)
    for _ in range(100):
        sport, dport, seq = rng.randrange(65536), rng.randrange(65536), rng.getrandbits(32)
        for raw, layer in ((tcp_syn(path, sport, dport, seq), TCP), (udp(path, sport, dport, b"odd"), UDP)):
            packet = Ether(raw)
            packet[layer].chksum = None
            assert bytes(packet) == raw
            assert (packet[layer].sport, packet[layer].dport) == (sport, dport)


def test_a_udp_checksum_is_never_zero() -> None:
    assert all(udp(V4, 1, port, b"even")[40:42] != b"\0\0" for port in range(65536))


def test_fields_are_read() -> None:
    syn = parse(tcp_syn(V4, 1000, 443, 7), 1.5)
    assert (syn.sport, syn.dport, syn.seq, syn.flags, syn.time) == (1000, 443, 7, 2, 1.5)
    assert parse(ping(V6, 5, 6), 0).icmp_id == 5
    advert = parse(neighbour_advert(V6), 0)
    assert (advert.icmp_type, advert.nd_target[-1], advert.nd_mac[-1]) == (NEIGHBOUR_ADVERT, 1, 1)
    tag = parse(tagged(tagged(arp_request(V4), 5), 9, 0x88A8), 0)
    assert (tag.tags, tag.arp_target) == ((9, 5), bytes([192, 0, 2, 2]))


def quoting() -> list[tuple[bytes, tuple[int | None, ...]]]:
    """ICMP errors, and what is to be read of them: quoted protocol, ports, and whether it means a closed port."""
    sent4, sent6 = udp(V4, 1000, 53, b"")[14:], udp(V6, 1000, 53, b"")[14:]
    back4, back6 = (
        FramePath(V4.dst_mac, V4.src_mac, V4.dst_ip, V4.src_ip),
        FramePath(V6.dst_mac, V6.src_mac, V6.dst_ip, V6.src_ip),
    )
    options = IP(src=V4.src_ip, dst=V4.dst_ip, options=b"\x01" * 4) / UDP(sport=1000, dport=53)
    later = IP(src=V4.src_ip, dst=V4.dst_ip, proto=17, frag=5) / Raw(bytes(8))
    nested = IPv6(src=V6.src_ip, dst=V6.dst_ip) / IPv6ExtHdrDestOpt() / UDP(sport=1000, dport=53)
    fragment = IPv6(src=V6.src_ip, dst=V6.dst_ip) / IPv6ExtHdrFragment(nh=17, offset=3) / Raw(bytes(8))
    gone4, gone6 = back4.layers() / ICMP(type=3, code=3), back6.layers() / ICMPv6DestUnreach(code=4)
    return [
        (bytes(gone4 / Raw(sent4)), (17, 1000, 53, True)),
        (bytes(gone4 / options), (17, 1000, 53, True)),
        (bytes(gone4 / later), (17, None, None, True)),
        (bytes(gone4 / Raw(sent4[:19])), (None, None, None, True)),
        (bytes(back4.layers() / ICMP(type=11, code=0) / Raw(sent4)), (17, 1000, 53, False)),
        (bytes(gone6 / Raw(sent6)), (17, 1000, 53, True)),
        (bytes(gone6 / nested), (60, 1000, 53, True)),
        (bytes(gone6 / fragment), (44, None, None, True)),
        (bytes(back6.layers() / ICMPv6ParamProblem(code=1, ptr=6) / Raw(sent6)), (17, 1000, 53, False)),
    ]


@pytest.mark.parametrize(("raw", "said"), quoting())
def test_what_an_icmp_error_quotes_is_read(raw: bytes, said: tuple[int | None, ...]) -> None:
    frame = parse(raw, 0)
    assert (frame.quoted_proto, frame.quoted_sport, frame.quoted_port, frame.is_port_unreachable) == said
    if frame.icmp_type == 4:
        assert frame.pointer == 6


def test_no_bytes_make_the_parser_the_judge_or_the_summary_raise() -> None:
    rng, judge = random.Random(2), PortJudge(TARGET)
    seeds = [
        frame for batch in ProbeCatalogue(TARGET, rng).batches(quick=True) for frame in rng.sample(batch.frames, 4)
    ]
    seeds += [raw for raw, _ in quoting()] * 4
    for count in range(3000):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            raw[rng.randrange(len(raw))] = rng.getrandbits(8)
        cut = bytes(raw[: rng.randrange(len(raw) + 1)])
        judge(parse(cut, 0))
        if count % 10 == 0:
            assert summary(cut).isprintable()


def test_link_local_address_of_a_mac() -> None:
    assert eui64("52:54:00:12:34:56") == "fe80::5054:ff:fe12:3456"


@pytest.mark.parametrize(
    "wrong",
    [
        {"vm_mac": "02-53-4c-00-00-01"},
        {"vm_ipv4": "10.0.0.1"},
        {"vm_ipv4": "192.168.42"},
        {"host_macs": {"mgmt0": "02:53:4c:00:00:01"}},
        {"tcp_open": frozenset({22})},
    ],
)
def test_a_target_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    right = {"vm_mac": "02:53:4c:00:00:01", "vm_ipv4": "192.168.42.1", "host_macs": {"mgmt0": "52:54:00:00:00:01"}}
    Target(**right)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"."):
        Target(**{**right, **wrong})  # type: ignore[arg-type]
