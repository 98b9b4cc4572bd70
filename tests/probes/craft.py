"""Frames to send: built once by scapy, and patched by arithmetic where tens of thousands are needed."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_getnsma,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils6 import in6_getnsmac, inet_ntop, inet_pton

from tests.probes.target import BROADCAST


@dataclass(frozen=True, slots=True)
class Path:
    """From whom to whom: MAC and IP (both v4 or both v6) of either end."""

    src_mac: str
    dst_mac: str
    src_ip: str
    dst_ip: str

    @property
    def is_ipv6(self) -> bool:
        """Whether the addresses are IPv6."""
        return ip_address(self.dst_ip).version == 6

    def to(self, *, mac: str | None = None, ip: str | None = None) -> Path:
        """Return the same path with another destination."""
        return replace(self, dst_mac=mac or self.dst_mac, dst_ip=ip or self.dst_ip)

    def layers(self, ttl: int = 64) -> Packet:
        """Return the Ethernet and IP layers."""
        ether = Ether(src=self.src_mac, dst=self.dst_mac)
        if self.is_ipv6:
            return ether / IPv6(src=self.src_ip, dst=self.dst_ip, hlim=ttl)
        return ether / IP(src=self.src_ip, dst=self.dst_ip, ttl=ttl)


class Template:
    """A TCP or UDP frame made once by scapy, and then for any ports and sequence number by arithmetic alone."""

    def __init__(self, frame: bytes, *, is_ipv6: bool, is_udp: bool = False) -> None:
        """Take a finished ``frame`` whose ports and sequence number are zero."""
        start = 14 + (40 if is_ipv6 else 20)
        sum_at = start + (6 if is_udp else 16)
        self._is_udp = is_udp
        self._head = frame[:start]
        self._middle = frame[start + (4 if is_udp else 8) : sum_at]
        self._tail = frame[sum_at + 2 :]
        self._base = ~int.from_bytes(frame[sum_at : sum_at + 2], "big") & 0xFFFF

    def __call__(self, sport: int, dport: int, seq: int = 0) -> bytes:
        """Return the frame, its checksum updated as in RFC 1624: HC' = ~(~HC + ~m + m'), where m is zero."""
        total = self._base + sport + dport + (seq >> 16) + (seq & 0xFFFF)
        total = (total & 0xFFFF) + (total >> 16)
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        if self._is_udp:  # a UDP checksum of zero means "none" (RFC 768)
            return (
                self._head
                + struct.pack("!HH", sport, dport)
                + self._middle
                + struct.pack("!H", total or 0xFFFF)
                + self._tail
            )
        return (
            self._head + struct.pack("!HHI", sport, dport, seq) + self._middle + struct.pack("!H", total) + self._tail
        )


@lru_cache(maxsize=256)
def tcp_template(path: Path, flags: str, ttl: int = 64) -> Template:
    """Return the template of a TCP segment without data; ``flags`` in scapy's letters."""
    options, window = ([("MSS", 1440)], 64240) if flags == "S" else ([], 0)
    tcp = TCP(sport=0, dport=0, seq=0, flags=flags, window=window, options=options)
    return Template(bytes(path.layers(ttl) / tcp), is_ipv6=path.is_ipv6)


@lru_cache(maxsize=256)
def udp_template(path: Path, payload: bytes, ttl: int = 64) -> Template:
    """Return the template of a UDP datagram."""
    datagram = path.layers(ttl) / UDP(sport=0, dport=0) / Raw(payload)
    return Template(bytes(datagram), is_ipv6=path.is_ipv6, is_udp=True)


def tcp_syn(path: Path, sport: int, dport: int, seq: int, ttl: int = 64) -> bytes:
    """Return a SYN."""
    return tcp_template(path, "S", ttl)(sport, dport, seq)


def tcp_reset(path: Path, sport: int, dport: int, seq: int) -> bytes:
    """Return an RST that ends a half-open connection; ``seq`` is what the peer expects next."""
    return tcp_template(path, "R")(sport, dport, seq)


def udp(path: Path, sport: int, dport: int, payload: bytes, ttl: int = 64) -> bytes:
    """Return a UDP datagram."""
    return udp_template(path, payload, ttl)(sport, dport)


def ping(path: Path, ident: int, seq: int, ttl: int = 64) -> bytes:
    """Return an echo request of the path's family."""
    echo = ICMPv6EchoRequest(id=ident, seq=seq) if path.is_ipv6 else ICMP(id=ident, seq=seq)
    return bytes(path.layers(ttl) / echo / Raw(b"sallyport probe "))


def arp_request(path: Path, *, ethernet_dst: str = BROADCAST) -> bytes:
    """Return a who-has for the path's destination IP."""
    ask = ARP(op=1, hwsrc=path.src_mac, psrc=path.src_ip, hwdst="00:00:00:00:00:00", pdst=path.dst_ip)
    return bytes(Ether(src=path.src_mac, dst=ethernet_dst) / ask)


def arp_reply(path: Path) -> bytes:
    """Return an is-at for the path's source, addressed to its destination."""
    tell = ARP(op=2, hwsrc=path.src_mac, psrc=path.src_ip, hwdst=path.dst_mac, pdst=path.dst_ip)
    return bytes(Ether(src=path.src_mac, dst=path.dst_mac) / tell)


def neighbour_solicit(path: Path, *, multicast: bool = True) -> bytes:
    """Return a neighbour solicitation for the path's destination, to its solicited-node group or its own MAC."""
    group = in6_getnsma(inet_pton(10, path.dst_ip))  # 10 is AF_INET6
    mac, ip = (in6_getnsmac(group), inet_ntop(10, group)) if multicast else (path.dst_mac, path.dst_ip)
    ask = ICMPv6ND_NS(tgt=path.dst_ip) / ICMPv6NDOptSrcLLAddr(lladdr=path.src_mac)
    return bytes(Ether(src=path.src_mac, dst=mac) / IPv6(src=path.src_ip, dst=ip, hlim=255) / ask)


def neighbour_advert(path: Path) -> bytes:
    """Return a solicited advertisement of the path's source to its destination."""
    tell = ICMPv6ND_NA(tgt=path.src_ip, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=path.src_mac)
    return bytes(path.layers(255) / tell)


def tagged(frame: bytes, vid: int, tpid: int = 0x8100) -> bytes:
    """Return ``frame`` with an IEEE 802.1Q tag for VLAN ``vid`` in front."""
    return frame[:12] + struct.pack("!HH", tpid, vid) + frame[12:]
