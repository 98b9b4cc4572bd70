"""Probes of services: TCP and UDP ports of the host's addresses, and requests of discovery protocols to all."""

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

from proof.outside.targets import SPORT, UNUSED_IPV6, UNUSED_MAC, Targets
from proof.scan.ports import DISCOVERY, GENERIC, QUICK_TCP, QUICK_UDP, TCP_PORTS, UDP_PAYLOADS, UDP_PORTS
from proof.wire.craft import FramePath, group_mac, tcp_syn, udp
from proof.wire.target import BROADCAST, mac_bytes


def _paths(targets: Targets, is_ipv6: bool) -> Iterator[FramePath]:
    if is_ipv6:
        yield from targets.paths(targets.ipv6, targets.v6)
        return
    yield from targets.paths(targets.ipv4, targets.v4)
    for mac in targets.host_macs:
        yield targets.v4.to(mac=mac)


def syns(targets: Targets, is_ipv6: bool) -> Iterator[bytes]:
    """Yield SYNs to every named port."""
    for path in _paths(targets, is_ipv6):
        for port in targets.some(TCP_PORTS, 8, always=QUICK_TCP):
            yield tcp_syn(path, SPORT, port, targets.rng.getrandbits(32))


def datagrams(targets: Targets, is_ipv6: bool) -> Iterator[bytes]:
    """Yield datagrams with a request that a real service would answer."""
    for path in _paths(targets, is_ipv6):
        for port in targets.some(UDP_PORTS, 6, always=QUICK_UDP):
            yield udp(path, SPORT, port, UDP_PAYLOADS.get(port, GENERIC))


def discovery(targets: Targets) -> Iterator[bytes]:
    """Yield requests to all and to the groups of discovery services (`proof.scan.ports.DISCOVERY`).

    Each from an ephemeral port and from the service's own, as some answer only to that (RFC 6762 section 6.7).
    """
    for port, groups in DISCOVERY.items():
        payload = UDP_PAYLOADS.get(port, GENERIC)
        for group in groups:
            base = targets.v6 if ":" in group else targets.v4
            macs = (BROADCAST if group.endswith(".255") else group_mac(group), *targets.host_macs)
            for mac in macs:
                for sport in (SPORT, port):
                    yield udp(base.to(mac=mac, ip=group), sport, port, payload)


def leases(targets: Targets) -> Iterator[bytes]:
    """Yield DHCP messages of an unsolicited server, and of a client (RFC 2131, RFC 8415)."""
    tester = targets.target.tester_mac
    for owner in targets.some((*targets.host_macs, targets.target.vm_mac), 1):
        for kind in ("offer", "ack", "nak", "force_renew", "discover", "request", "inform"):
            is_server = kind in ("offer", "ack", "nak", "force_renew")
            ports = (67, 68) if is_server else (68, 67)
            options = [
                ("message-type", kind),
                ("server_id", targets.unused_ipv4),
                ("lease_time", 60),
                ("router", targets.unused_ipv4),
            ]
            boot = BOOTP(
                op=2 if is_server else 1,
                xid=targets.rng.getrandbits(32),
                yiaddr=targets.unused_ipv4,
                chaddr=mac_bytes(owner),
            )
            for mac, address in (
                (BROADCAST, "255.255.255.255"),
                (owner, "255.255.255.255"),
                (owner, targets.unused_ipv4),
            ):
                ip = IP(src=targets.unused_ipv4 if is_server else "0.0.0.0", dst=address)
                datagram = ip / UDP(sport=ports[0], dport=ports[1]) / boot / DHCP(options=[*options, "end"])
                yield bytes(Ether(src=tester, dst=mac) / datagram)
    identity = DUID_LL(lladdr=UNUSED_MAC)
    for kind6 in (DHCP6_Solicit, DHCP6_InfoRequest, DHCP6_Advertise, DHCP6_Reply, DHCP6_Reconf):
        to_server = kind6 in (DHCP6_Solicit, DHCP6_InfoRequest)
        sport, dport = (546, 547) if to_server else (547, 546)
        for address in targets.some(("ff02::1:2", "ff05::1:3", "ff02::1", *targets.ipv6), 2):
            for mac in (group_mac(address) if address.startswith("ff") else BROADCAST, *targets.host_macs):
                body = kind6(trid=targets.rng.getrandbits(24)) / DHCP6OptClientId(duid=identity)
                body /= DHCP6OptServerId(duid=identity)
                packet = IPv6(src=UNUSED_IPV6, dst=address) / UDP(sport=sport, dport=dport) / body
                yield bytes(Ether(src=tester, dst=mac) / packet)
