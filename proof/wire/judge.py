"""Decides from a frame alone whether the appliance may send it: returns the reason why not, or ``None``."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from proof.wire import frame as fr
from proof.wire.frame import Frame
from proof.wire.target import LinkTarget, Target, mac_bytes

Judge = Callable[[Frame], str | None]

_REFUSALS = {
    *((fr.ICMP, 3, code) for code in (0, 9, 10, 13)),
    *((fr.ICMP6, 1, code) for code in (0, 1)),
}
"""Errors by which a stack declines to route: no route, or prohibited (RFC 1812 section 5.2.7, RFC 4443 section 3.1).

Linux sends the "no route" of IPv6 even with forwarding off (net/ipv6/route.c, ip6_pkt_discard).
"""


_PARAMETER_PROBLEM, _ERRONEOUS, _UNKNOWN_OPTION = 4, 0, 2  # RFC 4443 section 3.4


def _complains_of_hop_by_hop(frame: Frame) -> bool:
    """Tell whether this ICMPv6 error may concern a packet for somebody else.

    Hop-by-hop options are read by whoever gets the packet, before it looks for whom it is (RFC 8200 section 4.3; Linux:
    net/ipv6/ip6_input.c); and of a packet to a group its members may say which option they do not know (RFC 4443
    section 2.4 e.3). An error of anything behind those options says that the packet was taken.
    """
    if (frame.proto, frame.icmp_type) != (fr.ICMP6, _PARAMETER_PROBLEM):
        return False
    if frame.quoted_dst[0] == 0xFF:
        return frame.icmp_code == _UNKNOWN_OPTION
    if frame.icmp_code not in (_ERRONEOUS, _UNKNOWN_OPTION) or frame.quoted_proto != 0:
        return False
    at = 14 + 4 * len(frame.tags) + 40 + 8 + 40  # Ethernet, IPv6, ICMPv6, the quoted IPv6 header
    if frame.raw[at - 82 : at - 81] != bytes([fr.ICMP6]) or len(frame.raw) < at + 2:
        return False
    # The lengths of the IPv6 header itself are what an error of a jumbogram points at (RFC 2675 section 3).
    return frame.pointer < 40 + 8 * (frame.raw[at + 1] + 1)


def _ip(raw: bytes) -> str:
    if len(raw) == 4:
        return str(IPv4Address(raw))
    return str(IPv6Address(raw)) if len(raw) == 16 else "no address"


class PortJudge:
    """Judges what leaves the management port: each frame must have the VM's MAC and only the VM's addresses."""

    def __init__(self, target: Target) -> None:
        self._mac = mac_bytes(target.vm_mac)
        self._ipv4 = socket.inet_aton(target.vm_ipv4)
        self._ipv6 = socket.inet_pton(socket.AF_INET6, target.vm_ipv6)
        # The unspecified addresses are what a stack uses while it has none: ARP probes, DHCP, DAD, MLD.
        self._speaks_for = {self._ipv4, self._ipv6, bytes(4), bytes(16)}
        self._names = {mac_bytes(mac): name for name, mac in target.host_macs.items()}
        self._names[mac_bytes(target.tester_mac)] = "the tester itself, reflected"

    def __call__(self, frame: Frame) -> str | None:
        """Return why ``frame`` must not exist, or ``None``."""
        if len(frame.src) != 6:
            return "frame too short to carry a source MAC"
        if frame.src != self._mac:
            return f"source MAC {frame.src.hex(':')} ({self._names.get(frame.src, 'unknown')}) is not the VM's"
        if frame.broken:
            return "malformed frame with the VM's MAC"
        if frame.kind == fr.ARP and frame.arp_hw != self._mac:
            return f"ARP of the VM gives the hardware address {frame.arp_hw.hex(':')}"
        if frame.kind in (fr.ARP, fr.IPV4, fr.IPV6) and frame.ip_src not in self._speaks_for:
            return f"the VM sends in the name of {_ip(frame.ip_src)}"
        if frame.kind == fr.ARP and frame.arp_op == fr.ARP_REPLY and frame.ip_src != self._ipv4:
            return f"the VM answers ARP for {_ip(frame.ip_src)}"
        return self._judge_claim(frame) or self._judge_icmp(frame)

    def _judge_claim(self, frame: Frame) -> str | None:
        """A request without a sender address announces its target (RFC 5227 section 2.1, RFC 4862 section 5.4)."""
        if any(frame.ip_src):
            return None
        if frame.kind == fr.ARP and frame.arp_target not in (self._ipv4, bytes(4)):
            return f"the VM is about to take the address {_ip(frame.arp_target)}"
        is_solicitation = frame.proto == fr.ICMP6 and frame.icmp_type == fr.NEIGHBOUR_SOLICIT
        if is_solicitation and frame.nd_target != self._ipv6:
            return f"the VM is about to take the address {_ip(frame.nd_target)}"
        return None

    def _judge_icmp(self, frame: Frame) -> str | None:
        if frame.proto == fr.ICMP6 and frame.icmp_type == fr.NEIGHBOUR_ADVERT and frame.nd_target != self._ipv6:
            return f"the VM advertises itself as neighbour {_ip(frame.nd_target)}"
        if frame.proto == fr.ICMP6 and frame.icmp_type == fr.ROUTER_ADVERT:
            return "the VM advertises itself as a router"
        if frame.nd_mac and frame.nd_mac != self._mac:
            return f"neighbour discovery of the VM gives the hardware address {frame.nd_mac.hex(':')}"
        refusal = (frame.proto, frame.icmp_type, frame.icmp_code) in _REFUSALS
        if frame.quoted_dst and frame.quoted_dst not in self._speaks_for and not refusal:
            if _complains_of_hop_by_hop(frame):
                return None
            # An expired hop limit, a redirect or a port that is closed: the packet for someone else was processed.
            return f"the VM took a packet for {_ip(frame.quoted_dst)} (ICMP type {frame.icmp_type})"
        return None


class LinkJudge:
    """Judges what reaches the VM over the link: ARP of the one address, and TCP of the backend's port.

    ``tolerate_closed`` lets the two polite ways of saying "closed" pass (TCP RST, ICMP port unreachable) for sweeps,
    which judge those themselves.
    """

    def __init__(self, target: LinkTarget, vm_mac: str, host_mac: str, *, tolerate_closed: bool = False) -> None:
        self._vm_mac, self._host_mac = mac_bytes(vm_mac), mac_bytes(host_mac)
        self._host, self._vm = socket.inet_aton(target.host_ipv4), socket.inet_aton(target.vm_ipv4)
        self._ports = target.tcp_open
        self._tolerate_closed = tolerate_closed

    def __call__(self, frame: Frame) -> str | None:
        """Return why ``frame`` must not exist, or ``None``."""
        if frame.src == self._vm_mac:
            return None  # our own, looped back by a promiscuous socket
        if frame.src != self._host_mac:
            return f"source MAC {frame.src.hex(':') or 'missing'} is not the host's"
        if frame.broken:
            return "malformed frame from the host"
        if frame.kind == fr.ARP:
            return self._judge_arp(frame)
        if frame.kind != fr.IPV4:
            return f"EtherType 0x{frame.kind or 0:04x} from the host"
        if frame.ip_src != self._host or frame.ip_dst != self._vm or frame.dst != self._vm_mac:
            return f"packet from {_ip(frame.ip_src)} to {_ip(frame.ip_dst)} at {frame.dst.hex(':')}"
        return self._judge_answer(frame)

    def _judge_arp(self, frame: Frame) -> str | None:
        if frame.ip_src != self._host or frame.arp_hw != self._host_mac:
            return f"ARP for {_ip(frame.ip_src)} at {frame.arp_hw.hex(':')}"
        if frame.arp_target != self._vm:
            return f"ARP to {_ip(frame.arp_target)}"
        return None

    def _judge_answer(self, frame: Frame) -> str | None:
        if frame.proto == fr.TCP:
            closed = self._tolerate_closed and frame.flags & fr.RST
            return None if frame.sport in self._ports or closed else f"TCP answer of port {frame.sport}"
        if frame.proto == fr.ICMP:
            closed = self._tolerate_closed and frame.icmp_type == 3
            return None if closed else f"ICMP type {frame.icmp_type} from the host"
        return f"IP protocol {frame.proto} from the host" + (f", port {frame.sport}" if frame.sport else "")
