"""Probes with frames that are too short, too long, or whose headers do not describe their content."""

from __future__ import annotations

from collections.abc import Iterator

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw

from proof.outside.targets import SPORT, Targets
from proof.scan.ports import GENERIC
from proof.wire.craft import FramePath, arp_request, ether, neighbour_solicit, ping, tcp_syn, udp
from proof.wire.target import BROADCAST

MTU_FRAME = 1514
JUMBO = (1515, 1518, 1519, 1522, 1536, 2048, 4096, 4097, 8192, 9000, 9014, 9018, 9216, 16110, 65535)
"""Bytes of a frame: at the limit of IEEE 802.3 with and without tags, jumbo frames, the limit of a socket."""
SHORTEST = 60  # IEEE 802.3 clause 4.4.2, without FCS


def _ends(targets: Targets) -> Iterator[tuple[FramePath, FramePath]]:
    """Yield pairs of an IPv4 and an IPv6 path: to the VM, and to the host at each of its MACs."""
    yield targets.v4, targets.v6
    for mac, ipv6 in zip(targets.host_macs, targets.ipv6, strict=True):
        yield targets.v4.to(mac=mac, ip=targets.ipv4[0]), targets.v6.to(mac=mac, ip=ipv6)


def _valid_frames(v4: FramePath, v6: FramePath) -> list[bytes]:
    """Return one short frame of each protocol, to port 7000, which is closed here: no connection is left open."""
    frames = [arp_request(v4, ethernet_dst=v4.dst_mac), neighbour_solicit(v6, multicast=False)]
    for path in (v4, v6):
        frames += [ping(path, 31, 1), tcp_syn(path, SPORT, 7000, 1), udp(path, SPORT, 7000, GENERIC)]
    return frames


def cut(targets: Targets) -> Iterator[bytes]:
    """Yield frames of each protocol cut after every byte, and frames with 0 to 59 bytes of payload."""
    for v4, v6 in _ends(targets):
        for frame in _valid_frames(v4, v6):
            for length in targets.some(range(1, len(frame)), 2, always=(13, 14)):
                yield frame[:length]
        for kind in (0x0000, 0x0003, 0x05DC, 0x05FF, 0x0800, 0x0806, 0x8100, 0x86DD, 0xFFFF):
            for length in targets.some(range(SHORTEST), 2, always=(0,)):
                yield ether(targets.target.tester_mac, v4.dst_mac, kind, bytes(length))


def wrong_lengths(targets: Targets) -> Iterator[bytes]:
    """Yield length and version fields that do not match the frame."""
    for v4, v6 in _ends(targets):
        head4, head6 = _head(v4), _head(v6)
        for length in (0, 1, 19, 20, 21, 27, 29, 1500, 0xFFFF):
            yield head4 + bytes(_ipv4(v4, len=length))
        for words in range(16):
            yield head4 + bytes(_ipv4(v4, ihl=words))
            yield head4 + bytes(_ipv4(v4, version=words))
            yield head6 + bytes(IPv6(src=v6.src_ip, dst=v6.dst_ip, version=words) / UDP(sport=SPORT, dport=7000))
            for path in (v4, v6):
                yield bytes(path.layers() / TCP(sport=SPORT, dport=7000, dataofs=words))
        for length in (0, 1, 7, 9, 1460, 0xFFFF):
            for path in (v4, v6):
                yield bytes(path.layers() / UDP(sport=SPORT, dport=7000, len=length) / Raw(GENERIC))
            yield head6 + bytes(IPv6(src=v6.src_ip, dst=v6.dst_ip, plen=length) / UDP(sport=SPORT, dport=7000))
        for field in (
            {"hwlen": 0},
            {"hwlen": 255},
            {"plen": 0},
            {"plen": 255},
            {"plen": 16},
            {"hwtype": 6},
            {"ptype": 0},
        ):
            yield ether(
                v4.src_mac, v4.dst_mac, 0x0806, bytes(ARP(psrc=v4.src_ip, pdst=v4.dst_ip, hwsrc=v4.src_mac, **field))
            )


def _head(path: FramePath) -> bytes:
    return ether(path.src_mac, path.dst_mac, 0x86DD if path.is_ipv6 else 0x0800, b"")


def _ipv4(path: FramePath, **fields: int) -> Packet:
    return IP(src=path.src_ip, dst=path.dst_ip, **fields) / UDP(sport=SPORT, dport=7000) / Raw(GENERIC)


def wrong_checksums(targets: Targets) -> Iterator[bytes]:
    """Yield checksums of IPv4, TCP, UDP, ICMP that are wrong by one bit, zero, or all ones."""
    for ends in _ends(targets):
        for path in ends:
            bodies: list[Packet] = [TCP(sport=SPORT, dport=7000), UDP(sport=SPORT, dport=7000) / Raw(GENERIC)]
            bodies += [] if path.is_ipv6 else [ICMP(id=32)]
            for body in bodies:
                good = type(path.layers())(bytes(path.layers() / body))
                right = int(good.getlayer(type(body)).chksum)
                for wrong in (right ^ 1, right ^ 0x8000, 0, 0xFFFF):
                    body.chksum = wrong
                    yield bytes(path.layers() / body)
            if not path.is_ipv6:
                for wrong in (0, 1, 0xFFFF):
                    yield _head(path) + bytes(_ipv4(path, chksum=wrong))


def oversized(targets: Targets) -> Iterator[bytes]:
    """Yield frames longer than the port's MTU allows, up to what the wire of this run can send."""
    for length in (length for length in JUMBO if length <= targets.max_frame):
        for v4, v6 in _ends(targets):
            for path, header in ((v4, 28), (v6, 48)):
                yield udp(path, SPORT, 7000, bytes(length - 14 - header))
            yield ether(v4.src_mac, v4.dst_mac, 0x88B5, bytes(length - 14))
        yield ether(targets.target.tester_mac, BROADCAST, 0x88B5, bytes(length - 14))
