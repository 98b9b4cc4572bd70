"""The kinds of numbers at one address, and how each is probed: TCP ports, UDP ports, IP protocols, next headers.

A number *answers* (open, or handled), is *refused* (closed, or unknown), or stays *silent*. A silent TCP port is
filtered. Where numbers are refused by ICMP errors, silence means more: if a stack refuses every number but one, a
program there receives datagrams without answering.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Protocol

from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.packet import Raw

from proof.scan.ports import GENERIC, UDP_PAYLOADS
from proof.wire import frame as fr
from proof.wire.craft import FramePath, ping, tcp_reset, tcp_syn, udp
from proof.wire.frame import Frame
from proof.wire.target import mac_bytes

ATTEMPTS = 8
"""How often one number is tried at most; each time from another source port, with another sequence number."""
SPORTS = range(60001, 65000)
"""Source ports of the probes; those of the controls lie below."""

HOP_BY_HOP, IPV4_IN_IP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 4, 43, 44, 59, 60
IGMP, PIM, UDP_LITE = 2, 103, 136

HANDLED_IPV4: Mapping[int, str] = {
    fr.ICMP: "ping is a control",
    fr.TCP: "the page and the command line",
    fr.UDP: "part of every IPv4 stack; each of its ports is asked by itself",
}
"""IPv4 protocols that the VM must handle: seen as such, they are the control of those that it must not."""
OPTIONAL_IPV4: Mapping[int, str] = {
    IGMP: "Linux takes queries and answers to groups alone (CONFIG_IP_MULTICAST, net/ipv4/igmp.c)",
    PIM: "taken and dropped where the kernel can route multicast (CONFIG_IP_PIMSM_V2, net/ipv4/ipmr.c)",
    UDP_LITE: "built into Linux with UDP; no port of it is open, or the sweep would say so (net/ipv4/udplite.c)",
}
"""Protocols that the VM may handle, refuse or silently drop, and why that is no way in."""
HANDLED_IPV6: Mapping[int, str] = {
    HOP_BY_HOP: "RFC 8200 section 4.3",
    fr.TCP: "the page and the command line",
    fr.UDP: "part of every IPv6 stack; each of its ports is asked by itself",
    ROUTING: "RFC 8200 section 4.4: ignored when no segment is left",
    FRAGMENT: "RFC 8200 section 4.5",
    fr.ICMP6: "ping is a control, neighbour discovery a need",
    DESTINATION: "RFC 8200 section 4.6",
}
OPTIONAL_IPV6: Mapping[int, str] = {
    NO_NEXT: "nothing follows, and nothing is to be said to it (RFC 8200 section 4.7)",
    PIM: "taken and dropped where the kernel can route multicast (CONFIG_IPV6_PIMSM_V2, net/ipv6/ip6mr.c)",
    UDP_LITE: "built into Linux with UDP; no port of it is open (net/ipv6/udplite.c)",
}


class NumberedProbe(Protocol):
    """One kind of numbered thing at one address."""

    sends: str
    """What is sent, for the report: "SYN"."""
    things: str
    """What the numbers are, for the report: "TCP ports"."""
    universe: int
    """How many numbers there are."""
    words: tuple[str, str]
    """The words for a number that answers and for one that is refused: "open" and "closed"."""
    silence_tells: bool
    """Whether a silent number among refused ones means that a program receives there."""
    path: FramePath

    def frame(self, number: int, attempt: int) -> bytes:
        """Return the frame that asks for ``number``; ``attempt`` counts from 0."""

    def said(self, frame: Frame) -> tuple[int, bool] | None:
        """Return the number that ``frame`` answers for, and whether that is open; ``None`` if it answers for none."""

    def reset(self, frame: Frame) -> bytes | None:
        """Return the frame that frees the state that the answered probe left at the far end, or None."""


class _Peer:
    """The sender that an answer must have, and the source ports of the probes."""

    def __init__(self, path: FramePath, rng: random.Random) -> None:
        self.path = path
        self._mac, self._address = mac_bytes(path.dst_mac), ip_address(path.dst_ip).packed
        self._own = ip_address(path.src_ip).packed
        self._sports = rng.sample(SPORTS, ATTEMPTS)
        self._known = frozenset(self._sports)

    def _sport(self, attempt: int) -> int:
        return self._sports[attempt % ATTEMPTS]

    def _sent(self, frame: Frame) -> bool:
        return frame.src == self._mac and frame.ip_src == self._address and not frame.tags

    def reset(self, frame: Frame) -> bytes | None:
        """Nothing is left behind by a datagram."""
        return None


class TcpPorts(_Peer):
    """TCP ports: SYN, answered by SYN and ACK, or by RST (RFC 9293 section 3.5)."""

    sends, things, universe, words, silence_tells = "SYN", "TCP ports", 65536, ("open", "closed"), False

    def __init__(self, path: FramePath, rng: random.Random) -> None:
        super().__init__(path, rng)
        self._passes = {sport: rng.getrandbits(32) for sport in self._sports}

    def frame(self, number: int, attempt: int) -> bytes:
        """Return a SYN."""
        sport = self._sport(attempt)
        return tcp_syn(self.path, sport, number, self._passes[sport])

    def said(self, frame: Frame) -> tuple[int, bool] | None:
        """Return the port that acknowledges one of the SYNs."""
        if frame.proto != fr.TCP or frame.dport not in self._known or frame.sport is None or not self._sent(frame):
            return None
        if not frame.is_answer_to_syn(self._passes[frame.dport]) or not frame.flags & (fr.SYN | fr.RST):
            return None
        return frame.sport, not frame.flags & fr.RST

    def reset(self, frame: Frame) -> bytes:
        """Return the RST that ends a half-open connection."""
        return tcp_reset(self.path, frame.dport or 0, frame.sport or 0, frame.ack)


class UdpPorts(_Peer):
    """UDP ports: the request that the port's service would answer, or any datagram; refused by port unreachable."""

    sends, things, universe, words, silence_tells = "a datagram", "UDP ports", 65536, ("open", "closed"), True

    def frame(self, number: int, attempt: int) -> bytes:
        """Return a datagram."""
        return udp(self.path, self._sport(attempt), number, UDP_PAYLOADS.get(number, GENERIC))

    def said(self, frame: Frame) -> tuple[int, bool] | None:
        """Return the port of an answer, whichever it comes from (TFTP's is a new one), or the one quoted as closed."""
        if not self._sent(frame):
            return None
        if frame.proto == fr.UDP and frame.dport in self._known and frame.sport is not None:
            return frame.sport, True
        if not frame.is_port_unreachable or frame.quoted_proto != fr.UDP or frame.quoted_dst != self._address:
            return None
        if frame.quoted_sport not in self._known or frame.quoted_port is None:
            return None
        return frame.quoted_port, False


class Protocols(_Peer):
    """IPv4 protocols or IPv6 next headers: a packet of each, with a body that makes sense where one is known.

    Refused are those of which an ICMP error says "protocol unreachable" (RFC 792) or "unrecognized next header" where
    ours stands (RFC 4443 section 3.4); any other answer to such a packet shows that the number is handled.
    ``tcp_port`` is open, ``udp_port`` closed: where TCP and UDP have something to say.
    """

    sends, universe, words, silence_tells = "a packet", 256, ("handled", "refused"), True

    def __init__(self, path: FramePath, rng: random.Random, *, tcp_port: int, udp_port: int) -> None:
        super().__init__(path, rng)
        self.things = "IPv6 next headers" if path.is_ipv6 else "IPv4 protocols"
        self.handled = frozenset(HANDLED_IPV6 if path.is_ipv6 else HANDLED_IPV4)
        self.optional = frozenset(OPTIONAL_IPV6 if path.is_ipv6 else OPTIONAL_IPV4)
        self._rng, self._tcp_port, self._udp_port = rng, tcp_port, udp_port
        self._echo_reply = (fr.ICMP6, 129) if path.is_ipv6 else (fr.ICMP, 0)

    def frame(self, number: int, attempt: int) -> bytes:
        """Return a packet of the protocol, or with the next header, ``number``."""
        sport = self._sport(attempt)
        if number == fr.TCP:
            return tcp_syn(self.path, sport, self._tcp_port, self._rng.getrandbits(32))
        if number == fr.UDP:
            return udp(self.path, sport, self._udp_port, GENERIC)
        packet = self.path.layers()
        if self.path.is_ipv6:
            packet[IPv6].nh = number
        else:
            packet[IP].proto = number
        return bytes(packet / Raw(self._body(number, sport)))

    def _body(self, number: int, sport: int) -> bytes:
        """Return what follows the IP header. An extension header carries a ping: its answer shows that it was read."""
        echo = ping(self.path, sport, number)[54 if self.path.is_ipv6 else 34 :]
        extensions = {
            HOP_BY_HOP: bytes((fr.ICMP6, 0, 1, 4, 0, 0, 0, 0)),  # PadN
            DESTINATION: bytes((fr.ICMP6, 0, 1, 4, 0, 0, 0, 0)),
            ROUTING: bytes((fr.ICMP6, 0, 253, 0, 0, 0, 0, 0)),  # an experimental type (RFC 4727), no segment left
            FRAGMENT: bytes((fr.ICMP6, 0, 0, 0)) + sport.to_bytes(4, "big"),  # an atomic one (RFC 6946)
        }
        if self.path.is_ipv6 and number in extensions:
            return extensions[number] + echo
        if number == (fr.ICMP6 if self.path.is_ipv6 else fr.ICMP):
            return echo
        if number == UDP_LITE:
            return self._udp_lite(sport)
        return self._rng.randbytes(32)

    def _udp_lite(self, sport: int) -> bytes:
        """Return a UDP-Lite datagram, the whole of it covered by its checksum (RFC 3828 section 3.1)."""
        head, layers = sport.to_bytes(2, "big") + self._udp_port.to_bytes(2, "big") + bytes(2), self.path.layers()
        plain = head + bytes(2) + GENERIC
        if self.path.is_ipv6:
            checksum = in6_chksum(UDP_LITE, layers[IPv6], plain)
        else:
            checksum = in4_chksum(UDP_LITE, layers[IP], plain)
        return head + int(checksum or 0xFFFF).to_bytes(2, "big") + GENERIC

    def said(self, frame: Frame) -> tuple[int, bool] | None:
        """Return the number that an error quotes, or that an answer to one of the packets shows to be handled."""
        if not self._sent(frame) or frame.ip_dst != self._own or frame.proto is None:
            return None
        if frame.quoted_proto is not None:
            return (frame.quoted_proto, not self._refused(frame)) if frame.quoted_dst == self._address else None
        if frame.proto in (fr.ICMP, fr.ICMP6):
            is_reply = (frame.proto, frame.icmp_type) == self._echo_reply and frame.icmp_id in self._known
            return (frame.icmp_seq, True) if is_reply and frame.icmp_seq < self.universe else None
        if frame.proto in (fr.TCP, fr.UDP):
            return (frame.proto, True) if frame.dport in self._known else None
        return frame.proto, True

    def _refused(self, frame: Frame) -> bool:
        error = (frame.proto, frame.icmp_type, frame.icmp_code)
        return error == (fr.ICMP, 3, 2) or (error == (fr.ICMP6, 4, 1) and frame.pointer == 6)

    def reset(self, frame: Frame) -> bytes | None:
        """Return the RST that ends a half-open connection."""
        if frame.proto != fr.TCP or not frame.flags & fr.SYN:
            return None
        return tcp_reset(self.path, frame.dport or 0, frame.sport or 0, frame.ack)
