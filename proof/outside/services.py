"""Volleys at services: TCP and UDP ports of the host's addresses, and what discovery protocols ask of everybody."""

from __future__ import annotations

from collections.abc import Iterator

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_InfoRequest,
    DHCP6_Reconf,
    DHCP6_Reply,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptServerId,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from proof.outside.targets import SPORT, STRANGER_IPV6, STRANGER_MAC, Aim
from proof.scan.ports import DISCOVERY, GENERIC, QUICK_TCP, QUICK_UDP, TCP_PORTS, UDP_PAYLOADS, UDP_PORTS
from proof.wire.craft import FramePath, group_mac, tcp_syn, udp
from proof.wire.target import BROADCAST, mac_bytes


def _paths(aim: Aim, is_ipv6: bool) -> Iterator[FramePath]:
    if is_ipv6:
        yield from aim.paths(aim.ipv6, aim.v6)
        return
    yield from aim.paths(aim.ipv4, aim.v4)
    for mac in aim.host_macs:
        yield aim.v4.to(mac=mac)


def syns(aim: Aim, is_ipv6: bool) -> Iterator[bytes]:
    """SYNs to every named port."""
    for path in _paths(aim, is_ipv6):
        for port in aim.some(TCP_PORTS, 8, always=QUICK_TCP):
            yield tcp_syn(path, SPORT, port, aim.rng.getrandbits(32))


def datagrams(aim: Aim, is_ipv6: bool) -> Iterator[bytes]:
    """Datagrams with a request that a real service would answer."""
    for path in _paths(aim, is_ipv6):
        for port in aim.some(UDP_PORTS, 6, always=QUICK_UDP):
            yield udp(path, SPORT, port, UDP_PAYLOADS.get(port, GENERIC))


def discovery(aim: Aim) -> Iterator[bytes]:
    """Requests to all and to the groups of mDNS, LLMNR, SSDP, WS-Discovery, NetBIOS, SNMP, TFTP, SLP, CoAP and others.

    Each from an ephemeral port and from the service's own, as some answer only to that (RFC 6762 section 6.7).
    """
    for port, groups in DISCOVERY.items():
        payload = UDP_PAYLOADS.get(port, GENERIC)
        for group in groups:
            base = aim.v6 if ":" in group else aim.v4
            macs = (BROADCAST if group.endswith(".255") else group_mac(group), *aim.host_macs)
            for mac in macs:
                for sport in (SPORT, port):
                    yield udp(base.to(mac=mac, ip=group), sport, port, payload)


def leases(aim: Aim) -> Iterator[bytes]:
    """A DHCP server that nobody asked (RFC 2131, RFC 8415), and a client that asks: no client or server is there."""
    tester = aim.target.tester_mac
    for owner in aim.some((*aim.host_macs, aim.target.vm_mac), 1):
        for kind in ("offer", "ack", "nak", "force_renew", "discover", "request", "inform"):
            is_server = kind in ("offer", "ack", "nak", "force_renew")
            ports = (67, 68) if is_server else (68, 67)
            options = [
                ("message-type", kind),
                ("server_id", aim.stranger),
                ("lease_time", 60),
                ("router", aim.stranger),
            ]
            boot = BOOTP(
                op=2 if is_server else 1, xid=aim.rng.getrandbits(32), yiaddr=aim.stranger, chaddr=mac_bytes(owner)
            )
            for mac, address in ((BROADCAST, "255.255.255.255"), (owner, "255.255.255.255"), (owner, aim.stranger)):
                ip = IP(src=aim.stranger if is_server else "0.0.0.0", dst=address)
                datagram = ip / UDP(sport=ports[0], dport=ports[1]) / boot / DHCP(options=[*options, "end"])
                yield bytes(Ether(src=tester, dst=mac) / datagram)
    identity = DUID_LL(lladdr=STRANGER_MAC)
    for kind6 in (DHCP6_Solicit, DHCP6_InfoRequest, DHCP6_Advertise, DHCP6_Reply, DHCP6_Reconf):
        to_server = kind6 in (DHCP6_Solicit, DHCP6_InfoRequest)
        sport, dport = (546, 547) if to_server else (547, 546)
        for address in aim.some(("ff02::1:2", "ff05::1:3", "ff02::1", *aim.ipv6), 2):
            for mac in (group_mac(address) if address.startswith("ff") else BROADCAST, *aim.host_macs):
                body = kind6(trid=aim.rng.getrandbits(24)) / DHCP6OptClientId(duid=identity)
                body /= DHCP6OptServerId(duid=identity)
                packet = IPv6(src=STRANGER_IPV6, dst=address) / UDP(sport=sport, dport=dport) / body
                yield bytes(Ether(src=tester, dst=mac) / packet)
