"""Probes at multicast groups: whether anybody joined one, or answers for one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from scapy.layers.inet import IP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_RS,
    ICMPv6NIQueryIPv4,
    ICMPv6NIQueryIPv6,
    ICMPv6NIQueryName,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from proof.outside.targets import Targets
from proof.wire.craft import group_mac, ping

IPV4_GROUPS = (
    *(f"224.0.0.{last}" for last in range(256)),
    *(f"224.0.1.{last}" for last in (1, 2, 22, 24, 35, 39, 40, 41, 60, 75, 76, 129, 130, 131, 132, 178, 187)),
    *(f"239.255.255.{last}" for last in (246, 250, 252, 253, 254, 255)),
    *("224.0.252.1", "224.2.127.254", "232.0.0.1", "239.0.0.1", "239.192.0.1", "239.255.0.1", "239.255.2.2"),
)
"""IANA's registry "IPv4 Multicast Address Space": all of the local block, and who listens in the others."""
IPV6_IDS = (
    *(f"{number:x}" for number in (*range(1, 0x12), 0x12, 0x16, 0x1A, 0x6A, 0x6B, 0x6C, 0x6D, 0x6E, 0x6F, 0xFB, 0xFC)),
    *("fd", "101", "102", "108", "10c", "114", "116", "123", "130", "133", "181", "182", "184", "18c", "201", "202"),
    *("1:1", "1:2", "1:3", "1:4", "1:5", "1:6", "2:0", "2:ff00:1", "db8:0:0"),
)
"""IANA's registry "IPv6 Multicast Address Space": group identifiers of variable scope."""
IPV6_SCOPES = (1, 2, 5, 8)
"""Interface, link, site and organisation (RFC 4291 section 2.7)."""
JOINED = ("ff02::1", "ff02::2", "ff02::16", "ff02::fb", "ff02::6a")
"""Groups that a host or a router joins by itself (RFC 4291 section 2.7.1, RFC 3810, RFC 4286)."""
IGMP_QUERIES = tuple(
    bytes.fromhex(text)
    for text in (
        "1100eeff00000000",  # version 1 (RFC 1112)
        "110aeef500000000",  # version 2 (RFC 2236 section 2), to be answered within a second
        "110aecf4000000000201 0000".replace(" ", ""),  # version 3 (RFC 3376 section 4.1)
    )
)


@cache
def ipv6_groups() -> tuple[str, ...]:
    """Return every well-known group in each scope."""
    return tuple(f"ff0{scope}::{ident}" for scope in IPV6_SCOPES for ident in IPV6_IDS)


def pings(targets: Targets) -> Iterator[bytes]:
    """Yield echo requests to every well-known group, at the group's MAC and at each host MAC."""
    for groups, base in ((IPV4_GROUPS, targets.v4), (ipv6_groups(), targets.v6)):
        for group in targets.some(groups, 20, always=groups[1:6]):
            for mac in (group_mac(group), *targets.host_macs):
                yield ping(base.to(mac=mac, ip=group), targets.rng.getrandbits(16), 1)


def queries(targets: Targets) -> Iterator[bytes]:
    """Yield router solicitations, node information (RFC 4620), MLD and IGMP. The VM may answer for itself."""
    alert = IPv6ExtHdrHopByHop(options=[RouterAlert()])
    questions = (ICMPv6NIQueryName(data=b"\x00"), ICMPv6NIQueryIPv6(), ICMPv6NIQueryIPv4())
    for group in JOINED:
        for mac in (group_mac(group), *targets.host_macs):
            base = Ether(src=targets.target.tester_mac, dst=mac) / IPv6(src=targets.v6.src_ip, dst=group, hlim=255)
            for body in (ICMPv6EchoRequest(id=targets.rng.getrandbits(16)), ICMPv6ND_RS(), *questions):
                yield bytes(base / body)
            base[IPv6].hlim = 1
            for body in _mld(group):
                yield bytes(base / alert / body)
    for group in ("224.0.0.1", "224.0.0.2", "224.0.0.22", "224.0.0.251"):
        for mac in (group_mac(group), *targets.host_macs):
            for query in IGMP_QUERIES:
                packet = IP(src=targets.v4.src_ip, dst=group, ttl=1, proto=2, options=[IPOption_Router_Alert()])
                yield bytes(Ether(src=targets.target.tester_mac, dst=mac) / packet / Raw(query))


def _mld(group: str) -> tuple[Packet, ...]:
    """Return MLD messages of both versions (RFC 2710, RFC 3810): queries, reports, done."""
    record = ICMPv6MLDMultAddrRec(rtype=4, dst=group)
    return (
        *(ICMPv6MLQuery(mrd=100), ICMPv6MLQuery2(mrd=100), ICMPv6MLQuery2(mrd=100, mladdr=group)),
        *(ICMPv6MLReport(mladdr=group), ICMPv6MLDone(mladdr=group), ICMPv6MLReport2(records=[record])),
    )
