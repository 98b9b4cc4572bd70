"""One Ethernet frame, parsed by struct as far as the probes need it.

The peer is hostile: `parse` never raises, whatever the bytes. A field that is absent or cut short stays ``None``
(or empty), and ``broken`` says that a header ended early.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VLAN_TYPES = (0x8100, 0x88A8)  # IEEE 802.1Q: customer and service tag
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
ARP_REQUEST, ARP_REPLY = 1, 2
ROUTER_ADVERT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT = 134, 135, 136  # RFC 4861
ICMP_ERRORS = (3, 4, 5, 11, 12)  # RFC 792; each quotes the packet that provoked it
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_EXTENSIONS = (0, 43, 60)  # RFC 8200: hop-by-hop, routing, destination options
_FRAGMENT = 44


@dataclass(slots=True)
class Frame:
    """A received frame. ``time`` is `time.monotonic` seconds; addresses are raw bytes (4, 6 or 16)."""

    raw: bytes
    time: float
    dst: bytes = b""
    src: bytes = b""
    tags: tuple[int, ...] = ()
    kind: int | None = None
    """The EtherType after all tags; below 1536 it is an IEEE 802.3 length."""
    arp_op: int | None = None
    arp_hw: bytes = b""
    arp_target: bytes = b""
    ip_src: bytes = b""
    """IPv4 or IPv6 source; for ARP the sender's protocol address: for whom the frame speaks."""
    ip_dst: bytes = b""
    proto: int | None = None
    sport: int | None = None
    dport: int | None = None
    seq: int = 0
    ack: int = 0
    flags: int = 0
    icmp_type: int | None = None
    icmp_code: int = 0
    icmp_id: int = 0
    icmp_seq: int = 0
    nd_target: bytes = b""
    nd_mac: bytes = b""
    quoted_dst: bytes = b""
    """Destination of the packet that an ICMP error quotes."""
    quoted_proto: int | None = None
    """Its protocol (IPv4) or the next header that the IPv6 header itself names."""
    quoted_sport: int | None = None
    quoted_port: int | None = None
    """Its destination port; both behind extension headers, and only if it is no later fragment."""
    broken: bool = False

    @property
    def pointer(self) -> int:
        """Offset in the quoted packet that an ICMPv6 parameter problem points at (RFC 4443 section 3.4)."""
        return self.icmp_id << 16 | self.icmp_seq

    @property
    def is_port_unreachable(self) -> bool:
        """Whether this is the ICMP error that means "nobody listens at this port" (RFC 792; RFC 4443 section 3.1)."""
        return (self.proto, self.icmp_type, self.icmp_code) in ((ICMP, 3, 3), (ICMP6, 1, 4))

    def is_answer_to_syn(self, syn_seq: int) -> bool:
        """Tell whether this TCP segment acknowledges a SYN with the given sequence number."""
        return bool(self.flags & ACK) and self.ack == (syn_seq + 1) & 0xFFFFFFFF


def _transport(frame: Frame, data: bytes, offset: int) -> None:
    if frame.proto == TCP and len(data) >= offset + 14:
        frame.sport, frame.dport, frame.seq, frame.ack, _, frame.flags = struct.unpack_from("!HHIIBB", data, offset)
    elif frame.proto == UDP and len(data) >= offset + 8:
        frame.sport, frame.dport = struct.unpack_from("!HH", data, offset)
    elif frame.proto in (ICMP, ICMP6) and len(data) >= offset + 8:
        frame.icmp_type, frame.icmp_code, _, frame.icmp_id, frame.icmp_seq = struct.unpack_from("!BBHHH", data, offset)
        if frame.proto == ICMP6:
            _icmp6(frame, data, offset)
        elif frame.icmp_type in ICMP_ERRORS:
            _quoted_ipv4(frame, data, offset + 8)
    elif frame.proto in (TCP, UDP, ICMP, ICMP6):
        frame.broken = True


def _quoted_ipv4(frame: Frame, data: bytes, offset: int) -> None:
    if len(data) < offset + 20:
        return
    frame.quoted_proto, frame.quoted_dst = data[offset + 9], data[offset + 16 : offset + 20]
    inner = offset + (data[offset] & 15) * 4
    if len(data) >= inner + 4 and not int.from_bytes(data[offset + 6 : offset + 8], "big") & 0x1FFF:
        frame.quoted_sport, frame.quoted_port = struct.unpack_from("!HH", data, inner)


def _quoted_ipv6(frame: Frame, data: bytes, offset: int) -> None:
    if len(data) < offset + 40:
        return
    frame.quoted_proto, frame.quoted_dst = data[offset + 6], data[offset + 24 : offset + 40]
    header, inner = _skip_extensions(data, data[offset + 6], offset + 40)
    if header != _FRAGMENT and len(data) >= inner + 4:
        frame.quoted_sport, frame.quoted_port = struct.unpack_from("!HH", data, inner)


def _icmp6(frame: Frame, data: bytes, offset: int) -> None:
    kind = frame.icmp_type
    if kind is not None and kind < 128:
        _quoted_ipv6(frame, data, offset + 8)
    if kind not in (NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT):
        return
    if len(data) < offset + 24:
        frame.broken = True
        return
    frame.nd_target = data[offset + 8 : offset + 24]
    option = offset + 24
    while len(data) >= option + 8 and data[option + 1]:
        if data[option] in (1, 2):  # source or target link-layer address
            frame.nd_mac = data[option + 2 : option + 8]
        option += data[option + 1] * 8


def _ipv4(frame: Frame, data: bytes, offset: int) -> None:
    if len(data) < offset + 20:
        frame.broken = True
        return
    frame.proto = data[offset + 9]
    frame.ip_src, frame.ip_dst = data[offset + 12 : offset + 16], data[offset + 16 : offset + 20]
    if not int.from_bytes(data[offset + 6 : offset + 8], "big") & 0x1FFF:
        _transport(frame, data, offset + (data[offset] & 15) * 4)


def _ipv6(frame: Frame, data: bytes, offset: int) -> None:
    if len(data) < offset + 40:
        frame.broken = True
        return
    frame.ip_src, frame.ip_dst = data[offset + 8 : offset + 24], data[offset + 24 : offset + 40]
    frame.proto, offset = _skip_extensions(data, data[offset + 6], offset + 40)
    if frame.proto != _FRAGMENT:
        _transport(frame, data, offset)


def _skip_extensions(data: bytes, header: int, offset: int) -> tuple[int, int]:
    """Return the first next header that is no extension, and where what it names begins."""
    for _ in range(8):  # more extension headers than this is nobody's honest traffic
        if header not in _EXTENSIONS or len(data) < offset + 8:
            break
        header, offset = data[offset], offset + 8 + data[offset + 1] * 8
    return header, offset


def parse(raw: bytes, time: float) -> Frame:
    """Parse ``raw`` (an Ethernet frame without FCS); never raises."""
    frame = Frame(raw, time)
    if len(raw) < 14:
        frame.broken = True
        return frame
    frame.dst, frame.src = raw[:6], raw[6:12]
    kind, offset = int.from_bytes(raw[12:14], "big"), 14
    while kind in VLAN_TYPES and len(raw) >= offset + 4 and len(frame.tags) < 4:
        frame.tags += (int.from_bytes(raw[offset : offset + 2], "big") & 0xFFF,)
        kind, offset = int.from_bytes(raw[offset + 2 : offset + 4], "big"), offset + 4
    frame.kind = kind
    if kind == IPV4:
        _ipv4(frame, raw, offset)
    elif kind == IPV6:
        _ipv6(frame, raw, offset)
    elif kind == ARP:
        if len(raw) < offset + 28 or raw[offset : offset + 6] != b"\x00\x01\x08\x00\x06\x04":
            frame.broken = True
        else:
            frame.arp_op = int.from_bytes(raw[offset + 6 : offset + 8], "big")
            frame.arp_hw, frame.ip_src = raw[offset + 8 : offset + 14], raw[offset + 14 : offset + 18]
            frame.arp_target = raw[offset + 24 : offset + 28]
    return frame


def summary(raw: bytes) -> str:
    """Return one line about a frame for people: scapy's view of it, or its first bytes if scapy balks."""
    from scapy.layers import inet, inet6, l2  # noqa: F401 - slow import; they register their layers

    head = f"{raw[6:12].hex(':')} > {raw[:6].hex(':')}" if len(raw) >= 12 else "runt"
    try:
        text = str(l2.Ether(raw[:1514]).summary())
    except Exception:  # a hostile frame may break any dissector
        text = raw[:32].hex()
    return f"{head} {''.join(c if c.isprintable() else '?' for c in text)[:160]} ({len(raw)} bytes)"
