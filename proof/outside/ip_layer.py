"""Probes at the IP layer: addresses, protocols, options, extension headers, fragments, routes, false sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Jumbo,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from proof.outside.targets import SPORT, Targets
from proof.scan.frame_batch import GeneratedFrames
from proof.scan.ports import GENERIC
from proof.wire.craft import FramePath, ether, numbered, ping, readdressed, tcp_syn, udp

ELSEWHERE_IPV4 = ("127.0.0.1", "10.0.2.2", "8.8.8.8")
ELSEWHERE_IPV6 = ("fd00::1", "2001:db8::1")
PROTOCOL_BODY = bytes.fromhex("3b00010400000000") + b"sallyport protocol"
"""Behind any protocol number: an extension header of eight bytes that says "no next header" (RFC 8200 section 4)."""


def prefix(targets: Targets) -> Iterator[bytes]:
    """Yield packets to unresolved addresses of the prefix: a host may have one and not answer ARP."""
    hosts = [str(host) for host in IPv4Network(targets.target.prefix)]
    for host in targets.some(hosts, 36):
        for mac in targets.host_macs:
            path = targets.v4.to(mac=mac, ip=host)
            yield ping(path, 11, 1)
            yield tcp_syn(path, SPORT, 7000, targets.rng.getrandbits(32))


def pings(targets: Targets) -> Iterator[bytes]:
    """Yield echo, timestamp and address mask requests to every address at every MAC."""
    everyone = [str(IPv4Network(targets.target.prefix).broadcast_address), "255.255.255.255", "127.0.0.1"]
    for path in targets.paths([*targets.ipv4, *everyone], targets.v4):
        yield ping(path, targets.rng.getrandbits(16), 1)
        for kind in (10, 13, 15, 17, 37, 42):  # RFC 1256, 792, 792, 950, 1788, 8335
            yield bytes(path.layers() / ICMP(type=kind))
    for path in targets.paths([*targets.ipv6, "::1", "::ffff:127.0.0.1"], targets.v6):
        yield ping(path, targets.rng.getrandbits(16), 1)
    for mac in targets.host_macs:  # the VM's own addresses at the host's MACs
        yield ping(targets.v4.to(mac=mac), targets.rng.getrandbits(16), 1)
        yield ping(targets.v6.to(mac=mac), targets.rng.getrandbits(16), 1)


def protocols(targets: Targets) -> GeneratedFrames:
    """Return every IP protocol and next header to every host address at every MAC."""
    bases = [bytes(_bare(path) / Raw(PROTOCOL_BODY)) for path in targets.all_paths()]
    return GeneratedFrames(len(bases) * 256, lambda index: numbered(bases[index >> 8], index & 0xFF))


def _bare(path: FramePath) -> Packet:
    layers = path.layers()
    if path.is_ipv6:
        layers[IPv6].nh = 0
    else:
        layers[IP].proto = 0
    return layers


def options(targets: Targets) -> Iterator[bytes]:
    """Yield every IPv4 option (RFC 791, IANA) at the VM and the host; well-formed ones and source routes at every MAC.

    Malformed ones go only to addresses of whom they are sent to: a stack complains of them whomever the packet is for.
    """
    for kind in targets.some(range(256), 30, always=(0, 1, 7, 68, 130, 131, 136, 137, 148)):
        option = bytes([kind, 4, 4, 0])
        yield _with_options(targets.v4, option)
        for mac in targets.host_macs:
            yield _with_options(targets.v4.to(mac=mac, ip=targets.ipv4[0]), option)
    own = IPv6Address("::ffff:" + targets.target.tester_ipv4).packed[-4:]
    routes = [IPv6Address("::ffff:" + address).packed[-4:] for address in (*targets.ipv4, *ELSEWHERE_IPV4)] + [own]
    recorded = (b"\x07\x0b\x04" + bytes(8) + b"\x00", b"\x44\x0c\x05\x00" + bytes(8), b"\x94\x04\x00\x00")
    for path in targets.paths((*targets.ipv4, targets.target.vm_ipv4), targets.v4):
        for option in recorded:
            yield _with_options(path, option)
    for mac in targets.macs:
        for hop in routes:
            for kind in (131, 137):  # loose and strict source routing, by the VM
                yield _with_options(targets.v4.to(mac=mac), bytes([kind, 7, 4]) + hop + b"\x00")


def _with_options(path: FramePath, raw: bytes) -> bytes:
    """Return an echo request with those bytes as options."""
    body = bytes(ICMP(id=9))
    head = IP(src=path.src_ip, dst=path.dst_ip, proto=1, ihl=5 + len(raw) // 4, len=20 + len(raw) + len(body))
    packet = bytearray(bytes(head)[:20] + raw)
    packet[10:12] = bytes(2)
    total = sum(int.from_bytes(packet[at : at + 2], "big") for at in range(0, len(packet), 2))
    total = (total & 0xFFFF) + (total >> 16)
    packet[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return ether(path.src_mac, path.dst_mac, 0x0800, bytes(packet) + body)


def extensions(targets: Targets) -> Iterator[bytes]:
    """Yield IPv6 extension headers to the VM and the host: options, nested ones, jumbograms, routing headers."""
    echo = ICMPv6EchoRequest(id=9)
    paths = tuple(targets.paths((*targets.ipv6, targets.target.vm_ipv6, "ff02::1"), targets.v6))
    for path in targets.some(paths, 6):
        base = path.layers()
        for kind in (0x1E, 0x5E, 0x9E, 0xDE):  # skip; drop; drop and say so; say so unless it was multicast
            option = [HBHOptUnknown(otype=kind, optdata=b"sally")]
            yield bytes(base / IPv6ExtHdrHopByHop(options=option) / echo)
            yield bytes(base / IPv6ExtHdrDestOpt(options=option) / echo)
        yield bytes(base / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / echo)
        yield bytes(base / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / echo)
        jumbogram = base / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / echo
        jumbogram[IPv6].plen = 0  # RFC 2675 section 3
        yield bytes(jumbogram)
        nested = base.copy()
        for _ in range(8):
            nested /= IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0\0\0")])
        yield bytes(nested / echo)
        yield bytes(base / IPv6ExtHdrHopByHop() / IPv6ExtHdrHopByHop() / echo)  # only the first place is allowed
    yield from _routing_headers(targets)


def _routing_headers(targets: Targets) -> Iterator[bytes]:
    """Yield routing headers through the VM and the host, and back to the tester (RFC 5095, 6275, 6554, 8754)."""
    lasts = (*targets.ipv6, targets.target.tester_ipv6, targets.target.vm_ipv6, *ELSEWHERE_IPV6)
    for path in targets.paths((targets.target.vm_ipv6, *targets.ipv6[:1]), targets.v6):
        for last in targets.some(lasts, 1, always=lasts[:1]):
            # The checksum is that of the packet as its last destination sees it (RFC 8200 section 8.1).
            there, here = (_payload(path.to(ip=ip), ICMPv6EchoRequest(id=9)) for ip in (last, path.dst_ip))
            for kind in (0, 1, 2, 3, 4, 5, 6, 253):
                for left in (0, 1, 2):
                    # Next header, length in eight bytes without the first, type, segments left, 4 bytes by type.
                    header = bytes([58, 2, kind, left]) + bytes(4) + IPv6Address(last).packed
                    yield _raw_ipv6(path, 43, header + (there if left else here))


def _payload(path: FramePath, body: Packet) -> bytes:
    """Return a transport message with its checksum for ``path``, without what is before it."""
    return bytes(path.layers() / body)[54 if path.is_ipv6 else 34 :]


def _raw_ipv6(path: FramePath, number: int, payload: bytes) -> bytes:
    frame = bytearray(readdressed(bytes(FramePath.nowhere(True).layers()), path, 0, has_pseudo=False))
    frame[18:21] = len(payload).to_bytes(2, "big") + bytes([number])
    return bytes(frame) + payload


def fragments(targets: Targets) -> Iterator[bytes]:
    """Yield fragments of both families: tiny, overlapping, endless, empty, the last one alone, beyond 65,535 bytes."""
    for path in (
        *_own_paths(targets, targets.ipv4[:1], targets.v4),
        *_own_paths(targets, targets.ipv6[:1], targets.v6),
    ):
        ident = targets.rng.getrandbits(16)
        segment = _payload(path, TCP(sport=SPORT, dport=7000, flags="S") / Raw(bytes(12)))
        datagram = _payload(path, UDP(sport=SPORT, dport=7000) / Raw(bytes(32)))
        echo = _payload(path, (ICMPv6EchoRequest(id=9) if path.is_ipv6 else ICMP(id=9)) / Raw(bytes(56)))
        for number, body in ((6, segment), (17, datagram), (58 if path.is_ipv6 else 1, echo)):
            ident += 1
            yield from _cut_up(path, number, body, ident)
        for at in range(0, 65528, 8192):  # never ends
            yield _fragment(path, 17, ident + 8, at, bytes(64), more=True)
        for at in (65528, 65520):  # ends behind 65,535
            yield _fragment(path, 17, ident + 9, at, bytes(1024), more=False)


def _own_paths(targets: Targets, host: Sequence[str], base: FramePath) -> Iterator[FramePath]:
    yield base
    for mac in targets.some(targets.macs, 0, always=targets.macs[:1]):
        for address in host:
            yield base.to(mac=mac, ip=address)


def _cut_up(path: FramePath, number: int, body: bytes, ident: int) -> Iterator[bytes]:
    pieces = [(at, body[at : at + 8], at + 8 < len(body)) for at in range(0, len(body), 8)]
    for at, piece, more in pieces:  # as small as they may be (RFC 1858)
        yield _fragment(path, number, ident, at, piece, more=more)
    for at, piece, more in reversed(pieces):  # the last first
        yield _fragment(path, number, ident + 100, at, piece, more=more)
    for at, piece in ((0, body[:24]), (8, b"\xff" * 16), (16, body[16:])):  # overlapping (RFC 5722)
        yield _fragment(path, number, ident + 200, at, piece, more=at != 16)
    yield _fragment(path, number, ident + 300, 0, b"", more=True)  # empty, and nothing follows
    yield _fragment(path, number, ident + 400, 24, body[24:], more=False)  # the last alone
    yield _fragment(path, number, ident + 500, 0, body[:13], more=True)  # no multiple of eight
    yield _fragment(path, number, ident + 600, 0, body, more=False)  # all in one (RFC 6946)


def _fragment(path: FramePath, number: int, ident: int, at: int, piece: bytes, *, more: bool) -> bytes:
    """Return one fragment; ``at`` is its offset in bytes."""
    packet = path.layers()
    if path.is_ipv6:
        packet /= IPv6ExtHdrFragment(nh=number, id=ident, offset=at // 8, m=int(more))
    else:
        packet[IP].proto, packet[IP].id, packet[IP].frag, packet[IP].flags = number, ident & 0xFFFF, at // 8, int(more)
    return bytes(packet / Raw(piece))


def sources(targets: Targets) -> Iterator[bytes]:
    """Yield packets with false sources: link addresses, martians (RFC 1812, 5.3.7), groups, the VM's (land attack)."""
    target, network = targets.target, IPv4Network(targets.target.prefix)
    martians = (
        *targets.ipv4,
        target.vm_ipv4,
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
    )
    martians += ("224.0.0.1", "239.255.255.250", "169.254.1.1", "192.0.2.1", "10.0.2.2", "8.8.8.8")
    martians += (str(network.broadcast_address), str(network.network_address), targets.unused_ipv4)
    for source in martians:
        for path in (
            targets.v4,
            *(targets.v4.to(mac=mac, ip=address) for mac in targets.macs for address in targets.ipv4),
        ):
            yield from _three(FramePath(path.src_mac, path.dst_mac, source, path.dst_ip), targets)
    martians6 = (
        target.vm_ipv6,
        *targets.ipv6,
        "::",
        "::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::169.254.254.1",
    )
    martians6 += (f"::ffff:{target.tester_ipv4}", "64:ff9b::a9fe:fe01", "2002:a9fe:fe01::1", "fec0::1", *ELSEWHERE_IPV6)
    for source in martians6:
        for path in (
            targets.v6,
            *(targets.v6.to(mac=mac, ip=address) for mac in targets.host_macs for address in targets.ipv6),
        ):
            yield from _three(FramePath(path.src_mac, path.dst_mac, source, path.dst_ip), targets)


def _three(path: FramePath, targets: Targets) -> Iterator[bytes]:
    """Yield ping, SYN and datagram; source and destination port are the same, as a land attack needs."""
    yield ping(path, 41, 1)
    yield tcp_syn(path, 7000, 7000, targets.rng.getrandbits(32))
    yield udp(path, 7000, 7000, GENERIC)


def routed(targets: Targets) -> Iterator[bytes]:
    """Yield packets for others at the VM's MAC. With hop limit 1 a router answers even if it has no route back."""
    for ttl in (64, 2, 1):
        for address in (*targets.ipv4, *ELSEWHERE_IPV4):
            path = targets.v4.to(ip=address)
            yield ping(path, 9, ttl, ttl)
            yield udp(path, SPORT, 7000, GENERIC, ttl)
            yield udp(path, SPORT, 33434, GENERIC, ttl)
            for port in (22, 80, 443, 7000):
                yield tcp_syn(path, SPORT, port, targets.rng.getrandbits(32), ttl)
        for address in (*targets.ipv6, *ELSEWHERE_IPV6):
            path = targets.v6.to(ip=address)
            yield ping(path, 9, ttl, ttl)
            yield tcp_syn(path, SPORT, 7000, targets.rng.getrandbits(32), ttl)
    head = Ether(src=targets.target.tester_mac, dst=targets.target.vm_mac)
    for address in targets.target.host_ipv4:
        # From the host's own address, as a reflection of the VM's answer onto the link would need it.
        yield bytes(head / IP(src=address, dst=targets.v4.dst_ip) / UDP(sport=7000, dport=SPORT) / Raw(GENERIC))
        inner = IP(src=targets.v4.src_ip, dst=address) / ICMP(id=9)
        yield bytes(head / IP(src=targets.v4.src_ip, dst=targets.v4.dst_ip) / inner)
        for number, body in ((47, b"\0\0\x08\0"), (94, b""), (137, b"\0\0\x01\xff")):  # GRE, IPIP of old, MPLS in IP
            yield bytes(
                head / IP(src=targets.v4.src_ip, dst=targets.v4.dst_ip, proto=number) / Raw(body + bytes(inner))
            )
        yield bytes(head / IPv6(src=targets.v6.src_ip, dst=targets.v6.dst_ip, nh=4) / Raw(bytes(inner)))
        vxlan = b"\x08\0\0\0\0\0\x01\0" + bytes(head / inner)
        for port in (4789, 8472):
            yield udp(targets.v4, SPORT, port, vxlan)
    for address in targets.ipv6:
        inner6 = IPv6(src=targets.v6.src_ip, dst=address) / ICMPv6EchoRequest(id=9)
        yield bytes(head / IPv6(src=targets.v6.src_ip, dst=targets.v6.dst_ip, nh=41) / Raw(bytes(inner6)))
        yield bytes(head / IP(src=targets.v4.src_ip, dst=targets.v4.dst_ip, proto=41) / Raw(bytes(inner6)))
