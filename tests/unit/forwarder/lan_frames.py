"""Frames between the stations of a guest LAN, as its tests and its fuzz target's seeds send them."""

from __future__ import annotations

import ipaddress

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

ALL = "ff:ff:ff:ff:ff:ff"
STRANGER = b"\x02\0\0\0\0\x63"


def mac(index: int) -> bytes:
    """The MAC address of port ``index``."""
    return bytes((2, 0, 0, 0, 0, index + 1))


def ipv4(index: int) -> str:
    """Its IPv4 address."""
    return f"10.0.0.{index + 1}"


def ipv6(index: int) -> str:
    """Its IPv6 address."""
    return f"fd00::{index + 1:x}"


def packed(address: str) -> bytes:
    """An address in network order."""
    return ipaddress.ip_address(address).packed


def text(address: bytes) -> str:
    """A MAC address as scapy wants it."""
    return address.hex(":")


def ether(source: int, to: int | str) -> Packet:
    """An Ethernet header between two ports, or to a MAC address."""
    return Ether(src=text(mac(source)), dst=to if isinstance(to, str) else text(mac(to)))


def udp4(source: int, to: int, load: bytes = b"control") -> bytes:
    """A plain datagram."""
    return bytes(ether(source, to) / IP(src=ipv4(source), dst=ipv4(to)) / UDP(sport=1, dport=2) / Raw(load))


def udp6(source: int, to: int, load: bytes = b"control") -> bytes:
    """A plain datagram."""
    return bytes(ether(source, to) / IPv6(src=ipv6(source), dst=ipv6(to)) / UDP(sport=1, dport=2) / Raw(load))


def solicitation(source: int, target: str, *, hlim: int = 255) -> Packet:
    """Who has this IPv6 address?"""
    low = packed(target)[13:]
    group = str(ipaddress.IPv6Address(packed("ff02::1:ff00:0")[:13] + low))
    return (
        ether(source, "33:33:ff:" + low.hex(":"))
        / IPv6(src=ipv6(source), dst=group, hlim=hlim)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=text(mac(source)))
    )


def advertisement(source: int, to: int, target: str) -> Packet:
    """This IPv6 address is mine."""
    return (
        ether(source, to)
        / IPv6(src=ipv6(source), dst=ipv6(to), hlim=255)
        / ICMPv6ND_NA(tgt=target, R=0, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=text(mac(source)))
    )


def who_has(source: int, address: str, to: int | str = ALL) -> Packet:
    """Who has this IPv4 address?"""
    return ether(source, to) / ARP(op=1, hwsrc=text(mac(source)), psrc=ipv4(source), pdst=address)


DELIVERED = {
    "IPv4": bytes(ether(0, 1) / IP(src=ipv4(0), dst=ipv4(1)) / TCP()),
    "IPv4 with options": bytes(ether(0, 1) / IP(src=ipv4(0), dst=ipv4(1), options=IPOption(b"\x01" * 40)) / ICMP()),
    "IPv4 with padding": bytes(ether(0, 1) / IP(src=ipv4(0), dst=ipv4(1)) / ICMP()).ljust(60, b"\0"),
    "IPv6": bytes(ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1)) / ICMPv6EchoRequest()),
    "IPv6 without payload": bytes(ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), nh=59)),
    "IPv6 behind an extension": bytes(ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1)) / IPv6ExtHdrDestOpt() / UDP()),
    "IPv6 with hop limit 255": bytes(ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255) / TCP()),
    "ARP request": bytes(who_has(0, ipv4(1))),
    "ARP request to the station": bytes(who_has(0, ipv4(1), 1)),
    "ARP reply": bytes(ether(0, 1) / ARP(op=2, hwsrc=text(mac(0)), psrc=ipv4(0), hwdst=text(mac(1)), pdst=ipv4(1))),
    "neighbour solicitation": bytes(solicitation(0, ipv6(1))),
    "neighbour solicitation to the station": bytes(
        ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255) / ICMPv6ND_NS(tgt=ipv6(1))
    ),
    "neighbour advertisement": bytes(advertisement(0, 1, ipv6(0))),
}
"""Each goes from station 0 to station 1."""

REFUSED = {
    # an address that nobody has
    "IPv4 to nobody": ("destination", ether(0, 1) / IP(src=ipv4(0), dst="10.0.0.99") / UDP()),
    "IPv6 to nobody": ("destination", ether(0, 1) / IPv6(src=ipv6(0), dst="fd00::99") / UDP()),
    "IPv4-mapped IPv6": ("destination", ether(0, 1) / IPv6(src=ipv6(0), dst="::ffff:" + ipv4(1)) / UDP()),
    "IPv4-compatible IPv6": ("destination", ether(0, 1) / IPv6(src=ipv6(0), dst="::" + ipv4(1)) / UDP()),
    "ARP for nobody": ("destination", who_has(0, "10.0.0.99")),
    "neighbour solicitation for nobody": ("destination", solicitation(0, "fd00::99")),
    # the owner's address, another MAC
    "IPv4 to the wrong station": ("destination", ether(0, 2) / IP(src=ipv4(0), dst=ipv4(1)) / UDP()),
    "IPv6 to the wrong station": ("destination", ether(0, 2) / IPv6(src=ipv6(0), dst=ipv6(1)) / UDP()),
    "ARP to the wrong station": ("destination", who_has(0, ipv4(1), 2)),
    # broadcast and multicast
    "IPv4 broadcast": ("destination", ether(0, ALL) / IP(src=ipv4(0), dst="255.255.255.255") / UDP()),
    "IPv4 to a station by broadcast": ("destination", ether(0, ALL) / IP(src=ipv4(0), dst=ipv4(1)) / UDP()),
    "IPv4 multicast": ("destination", ether(0, "01:00:5e:00:00:fb") / IP(src=ipv4(0), dst="224.0.0.251") / UDP()),
    "DHCP": (
        "destination",
        ether(0, ALL)
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=mac(0))
        / DHCP(options=[("message-type", "discover"), "end"]),
    ),
    "IPv6 multicast": ("destination", ether(0, "33:33:00:00:00:fb") / IPv6(src=ipv6(0), dst="ff02::fb") / UDP()),
    "IPv6 to a station by multicast": (
        "destination",
        ether(0, "33:33:00:00:00:01") / IPv6(src=ipv6(0), dst=ipv6(1)) / UDP(),
    ),
    "MLD report": (
        "destination",
        ether(0, "33:33:00:00:00:16")
        / IPv6(src=ipv6(0), dst="ff02::16", hlim=1)
        / IPv6ExtHdrHopByHop()
        / ICMPv6MLReport2(),
    ),
    "ARP reply to all": ("destination", ether(0, ALL) / ARP(op=2, hwsrc=text(mac(0)), psrc=ipv4(0), pdst=ipv4(1))),
    "ARP request by multicast": ("destination", who_has(0, ipv4(1), "01:00:5e:00:00:01")),
    "solicitation of another group": (
        "destination",
        ether(0, "33:33:ff:00:00:03") / IPv6(src=ipv6(0), dst="ff02::1:ff00:3", hlim=255) / ICMPv6ND_NS(tgt=ipv6(1)),
    ),
    "solicitation by another MAC": (
        "destination",
        ether(0, "33:33:ff:00:00:03") / IPv6(src=ipv6(0), dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt=ipv6(1)),
    ),
    "solicitation from afar": ("destination", solicitation(0, ipv6(1), hlim=64)),
    # to itself
    "IPv4 to itself": ("destination", ether(0, 0) / IP(src=ipv4(0), dst=ipv4(0)) / UDP()),
    "IPv6 to itself": ("destination", ether(0, 0) / IPv6(src=ipv6(0), dst=ipv6(0)) / UDP()),
    "ARP for itself": ("destination", who_has(0, ipv4(0))),
    "neighbour solicitation for itself": ("destination", solicitation(0, ipv6(0))),
    # as somebody else
    "another's IPv4": ("spoofed", ether(0, 1) / IP(src=ipv4(2), dst=ipv4(1)) / UDP()),
    "the receiver's IPv4": ("spoofed", ether(0, 1) / IP(src=ipv4(1), dst=ipv4(1)) / UDP()),
    "nobody's IPv4": ("spoofed", ether(0, 1) / IP(src="10.0.0.99", dst=ipv4(1)) / UDP()),
    "another's IPv6": ("spoofed", ether(0, 1) / IPv6(src=ipv6(2), dst=ipv6(1)) / UDP()),
    "nobody's IPv6": ("spoofed", ether(0, 1) / IPv6(src="fd00::99", dst=ipv6(1)) / UDP()),
    "another's MAC": ("spoofed", ether(2, 1) / IP(src=ipv4(0), dst=ipv4(1)) / UDP()),
    "another's MAC and IPv4": ("spoofed", ether(2, 1) / IP(src=ipv4(2), dst=ipv4(1)) / UDP()),
    "another's MAC and IPv6": ("spoofed", ether(2, 1) / IPv6(src=ipv6(2), dst=ipv6(1)) / UDP()),
    "nobody's MAC": ("spoofed", Ether(src=text(STRANGER), dst=text(mac(1))) / IP(src=ipv4(0), dst=ipv4(1)) / UDP()),
    "ARP with another's IPv4": (
        "spoofed",
        ether(0, 1) / ARP(op=2, hwsrc=text(mac(0)), psrc=ipv4(2), hwdst=text(mac(1)), pdst=ipv4(1)),
    ),
    "ARP with another's MAC inside": (
        "spoofed",
        ether(0, 1) / ARP(op=2, hwsrc=text(mac(2)), psrc=ipv4(0), hwdst=text(mac(1)), pdst=ipv4(1)),
    ),
    "ARP probe for its own": (
        "destination",
        ether(0, ALL) / ARP(op=1, hwsrc=text(mac(0)), psrc="0.0.0.0", pdst=ipv4(0)),
    ),
    "duplicate address detection of its own": (
        "destination",
        ether(0, "33:33:ff:00:00:01") / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=ipv6(0)),
    ),
    "ARP probe": ("spoofed", ether(0, ALL) / ARP(op=1, hwsrc=text(mac(0)), psrc="0.0.0.0", pdst=ipv4(1))),
    "duplicate address detection": (
        "spoofed",
        ether(0, "33:33:ff:00:00:02") / IPv6(src="::", dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt=ipv6(1)),
    ),
    "advertisement of another's address": ("spoofed", advertisement(0, 1, ipv6(2))),
    "advertisement of nobody's address": ("spoofed", advertisement(0, 1, "fd00::99")),
    "router advertisement": (
        "spoofed",
        ether(0, 1)
        / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255)
        / ICMPv6ND_RA()
        / ICMPv6NDOptPrefixInfo(prefix="fd66::", prefixlen=64),
    ),
    "redirect": (
        "spoofed",
        ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255) / ICMPv6ND_Redirect(tgt=ipv6(0), dst=ipv6(2)),
    ),
    "router advertisement behind an extension": (
        "spoofed",
        ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255) / IPv6ExtHdrDestOpt() / ICMPv6ND_RA(),
    ),
    "router advertisement in a fragment": (
        "spoofed",
        ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255) / IPv6ExtHdrFragment(nh=58) / ICMPv6ND_RA(),
    ),
    # what it does not carry
    "802.1Q": ("tags", ether(0, 1) / Dot1Q(vlan=5) / IP(src=ipv4(0), dst=ipv4(1)) / UDP()),
    "priority tag": ("tags", ether(0, 1) / Dot1Q(vlan=0) / IP(src=ipv4(0), dst=ipv4(1)) / UDP()),
    "802.1ad": ("tags", ether(0, 1) / Dot1AD(vlan=5) / Dot1Q(vlan=6) / IP(src=ipv4(0), dst=ipv4(1))),
    "LLDP": ("ethertype", Ether(src=text(mac(0)), dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46))),
    "spanning tree": ("ethertype", Ether(src=text(mac(0)), dst="01:80:c2:00:00:00", type=38) / Raw(bytes(46))),
    "the EtherType of nothing": ("ethertype", Ether(src=text(mac(0)), dst=text(mac(1)), type=0xFFFF) / Raw(bytes(46))),
    "ARP of another protocol": ("ethertype", ether(0, ALL) / ARP(ptype=0x86DD, psrc=ipv4(0), pdst=ipv4(1))),
    "reverse ARP": ("ethertype", ether(0, ALL) / ARP(op=3, hwsrc=text(mac(0)), psrc=ipv4(0), pdst=ipv4(1))),
    # whose headers do not hold together
    "IPv4 of version 5": ("runt", ether(0, 1) / IP(version=5, src=ipv4(0), dst=ipv4(1)) / UDP()),
    "IPv4 header of 16 bytes": ("runt", ether(0, 1) / IP(ihl=4, src=ipv4(0), dst=ipv4(1)) / UDP()),
    "IPv4 header beyond its end": ("runt", ether(0, 1) / IP(ihl=15, src=ipv4(0), dst=ipv4(1)) / UDP()),
    "IPv4 longer than its frame": ("runt", ether(0, 1) / IP(len=29, src=ipv4(0), dst=ipv4(1)) / UDP()),
    "IPv6 of version 4": ("runt", ether(0, 1) / IPv6(version=4, src=ipv6(0), dst=ipv6(1)) / UDP()),
    "IPv6 longer than its frame": ("runt", ether(0, 1) / IPv6(plen=9, src=ipv6(0), dst=ipv6(1)) / UDP()),
    "solicitation without target": (
        "runt",
        ether(0, 1) / IPv6(src=ipv6(0), dst=ipv6(1), hlim=255, nh=58) / Raw(b"\x87\0\0\0\0\0\0\0"),
    ),
    "too long": ("oversized", ether(0, 1) / IP(src=ipv4(0), dst=ipv4(1)) / UDP() / Raw(bytes(1473))),
}
"""Frames of station 0 that the LAN of stations 0, 1 and 2 refuses, with the verdict."""
