"""Builds frames: once by scapy, and then by changing fields and checksums where tens of thousands are needed."""

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

from proof.wire.target import BROADCAST, mac_bytes

NO_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class FramePath:
    """Sender and receiver of a frame: MAC and IP address of both, IPv4 or IPv6."""

    src_mac: str
    dst_mac: str
    src_ip: str
    dst_ip: str

    @property
    def is_ipv6(self) -> bool:
        """Whether the addresses are IPv6."""
        return ip_address(self.dst_ip).version == 6

    def to(self, *, mac: str | None = None, ip: str | None = None) -> FramePath:
        """Return the same path with another destination."""
        return replace(self, dst_mac=mac or self.dst_mac, dst_ip=ip or self.dst_ip)

    @classmethod
    def nowhere(cls, is_ipv6: bool) -> FramePath:
        """Return the path whose addresses are all zero, for frames that `readdressed` completes."""
        address = "::" if is_ipv6 else "0.0.0.0"
        return cls(NO_MAC, NO_MAC, address, address)

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


def _folded(total: int) -> int:
    """Return a sum of 16-bit words in ones' complement (RFC 1071)."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def _words(raw: bytes) -> int:
    """Return the sum of an even number of bytes as 16-bit words."""
    return sum(struct.unpack(f"!{len(raw) // 2}H", raw))


def readdressed(frame: bytes, path: FramePath, sum_at: int, *, has_pseudo: bool = True) -> bytes:
    """Return a frame of `FramePath.nowhere` with the addresses of ``path`` instead (RFC 1624).

    Scapy needs half a millisecond for a frame, and probes send the same one along many paths. ``sum_at`` is the offset
    of the transport checksum; ``has_pseudo`` says whether that covers the addresses, which ICMP for IPv4 does not.
    """
    addresses = ip_address(path.src_ip).packed + ip_address(path.dst_ip).packed
    total, first = _words(addresses), 22 if path.is_ipv6 else 26
    made = bytearray(frame)
    made[:12] = mac_bytes(path.dst_mac) + mac_bytes(path.src_mac)
    made[first : first + len(addresses)] = addresses
    for at in (*(() if path.is_ipv6 else (24,)), *((sum_at,) if has_pseudo else ())):
        old = ~int.from_bytes(made[at : at + 2], "big") & 0xFFFF
        made[at : at + 2] = (~_folded(old + total) & 0xFFFF).to_bytes(2, "big")
    return bytes(made)


@lru_cache(maxsize=64)
def _tcp_nowhere(is_ipv6: bool, flags: str, ttl: int) -> bytes:
    options, window = ([("MSS", 1440)], 64240) if flags == "S" else ([], 0)
    tcp = TCP(sport=0, dport=0, seq=0, flags=flags, window=window, options=options)
    return bytes(FramePath.nowhere(is_ipv6).layers(ttl) / tcp)


@lru_cache(maxsize=1024)
def _udp_nowhere(is_ipv6: bool, payload: bytes, ttl: int) -> bytes:
    return bytes(FramePath.nowhere(is_ipv6).layers(ttl) / UDP(sport=0, dport=0) / Raw(payload))


@lru_cache(maxsize=64)
def _ping_nowhere(is_ipv6: bool, ttl: int) -> bytes:
    echo = ICMPv6EchoRequest(id=0, seq=0) if is_ipv6 else ICMP(id=0, seq=0)
    return bytes(FramePath.nowhere(is_ipv6).layers(ttl) / echo / Raw(b"sallyport probe "))


@lru_cache(maxsize=1)
def _solicit_nowhere() -> bytes:
    ask = ICMPv6ND_NS(tgt="::") / ICMPv6NDOptSrcLLAddr(lladdr=NO_MAC)
    return bytes(FramePath.nowhere(True).layers(255) / ask)


@lru_cache(maxsize=1024)
def tcp_template(path: FramePath, flags: str, ttl: int = 64) -> Template:
    """Return the template of a TCP segment without data; ``flags`` in scapy's letters."""
    frame = _tcp_nowhere(path.is_ipv6, flags, ttl)
    return Template(readdressed(frame, path, 70 if path.is_ipv6 else 50), is_ipv6=path.is_ipv6)


@lru_cache(maxsize=1024)
def udp_template(path: FramePath, payload: bytes, ttl: int = 64) -> Template:
    """Return the template of a UDP datagram."""
    frame = _udp_nowhere(path.is_ipv6, payload, ttl)
    return Template(readdressed(frame, path, 60 if path.is_ipv6 else 40), is_ipv6=path.is_ipv6, is_udp=True)


def tcp_syn(path: FramePath, sport: int, dport: int, seq: int, ttl: int = 64) -> bytes:
    """Return a SYN."""
    return tcp_template(path, "S", ttl)(sport, dport, seq)


def tcp_reset(path: FramePath, sport: int, dport: int, seq: int) -> bytes:
    """Return an RST that ends a half-open connection; ``seq`` is what the peer expects next."""
    return tcp_template(path, "R")(sport, dport, seq)


def udp(path: FramePath, sport: int, dport: int, payload: bytes, ttl: int = 64) -> bytes:
    """Return a UDP datagram."""
    return udp_template(path, payload, ttl)(sport, dport)


def ping(path: FramePath, ident: int, seq: int, ttl: int = 64) -> bytes:
    """Return an echo request of the path's family."""
    sum_at = 56 if path.is_ipv6 else 36
    frame = readdressed(_ping_nowhere(path.is_ipv6, ttl), path, sum_at, has_pseudo=path.is_ipv6)
    total = _folded((~int.from_bytes(frame[sum_at : sum_at + 2], "big") & 0xFFFF) + ident + seq)
    head = struct.pack("!HHH", ~total & 0xFFFF, ident, seq)
    return frame[:sum_at] + head + frame[sum_at + 6 :]


def arp_request(path: FramePath, *, ethernet_dst: str = BROADCAST) -> bytes:
    """Return a who-has for the path's destination IP (RFC 826)."""
    sender = mac_bytes(path.src_mac) + ip_address(path.src_ip).packed
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + bytes(6) + ip_address(path.dst_ip).packed
    return ether(path.src_mac, ethernet_dst, 0x0806, body)


def arp_reply(path: FramePath) -> bytes:
    """Return an is-at for the path's source, addressed to its destination."""
    tell = ARP(op=2, hwsrc=path.src_mac, psrc=path.src_ip, hwdst=path.dst_mac, pdst=path.dst_ip)
    return bytes(Ether(src=path.src_mac, dst=path.dst_mac) / tell)


def neighbour_solicit(path: FramePath, *, multicast: bool = True) -> bytes:
    """Return a neighbour solicitation for the path's destination, to its solicited-node group or its own MAC."""
    group = in6_getnsma(inet_pton(10, path.dst_ip))  # 10 is AF_INET6
    mac, ip = (in6_getnsmac(group), inet_ntop(10, group)) if multicast else (path.dst_mac, path.dst_ip)
    target, link = ip_address(path.dst_ip).packed, b"\x01\x01" + mac_bytes(path.src_mac)
    frame = readdressed(_solicit_nowhere(), path.to(mac=mac, ip=ip), 56)
    body = target + link
    # The type and length of the option are in the sum already.
    total = _folded((~int.from_bytes(frame[56:58], "big") & 0xFFFF) + _words(target) + _words(link[2:]))
    return frame[:56] + (~total & 0xFFFF).to_bytes(2, "big") + frame[58:62] + body


def neighbour_advert(path: FramePath) -> bytes:
    """Return a solicited advertisement of the path's source to its destination."""
    tell = ICMPv6ND_NA(tgt=path.src_ip, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=path.src_mac)
    return bytes(path.layers(255) / tell)


def tagged(frame: bytes, vid: int, tpid: int = 0x8100, *, priority: int = 0) -> bytes:
    """Return ``frame`` with an IEEE 802.1Q tag for VLAN ``vid`` in front; ``priority`` is 0 to 7."""
    return frame[:12] + struct.pack("!HH", tpid, priority << 13 | vid) + frame[12:]


def ether(src: str, dst: str, kind: int, body: bytes) -> bytes:
    """Return an Ethernet II frame."""
    return mac_bytes(dst) + mac_bytes(src) + kind.to_bytes(2, "big") + body


def llc(src: str, dst: str, body: bytes) -> bytes:
    """Return an IEEE 802.3 frame: its length instead of a type; ``body`` begins with the LLC header (IEEE 802.2)."""
    return ether(src, dst, len(body), body)


def snap(frame: bytes, oui: int = 0) -> bytes:
    """Return an Ethernet II ``frame`` in IEEE 802.2 SNAP; ``oui`` 0 is RFC 1042, 0x0000f8 IEEE 802.1H."""
    body = b"\xaa\xaa\x03" + oui.to_bytes(3, "big") + frame[12:]
    return frame[:12] + len(body).to_bytes(2, "big") + body


def group_mac(group: str) -> str:
    """Return the MAC of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7)."""
    address = ip_address(group)
    low = address.packed
    raw = b"\x33\x33" + low[-4:] if address.version == 6 else b"\x01\x00\x5e" + bytes([low[1] & 0x7F]) + low[2:]
    return raw.hex(":")


def numbered(frame: bytes, number: int) -> bytes:
    """Return an IP ``frame`` whose protocol (or next header) is 0 with that ``number`` instead (RFC 1624)."""
    if frame[12:14] == b"\x86\xdd":
        return frame[:20] + bytes([number]) + frame[21:]
    total = ~_folded((~int.from_bytes(frame[24:26], "big") & 0xFFFF) + number) & 0xFFFF
    return frame[:23] + bytes([number]) + total.to_bytes(2, "big") + frame[26:]
