"""Probes of address resolution: requests, false claims and advertisements of ARP and neighbour discovery."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from proof.outside.targets import UNUSED_IPV6, UNUSED_MAC, Targets
from proof.wire.craft import FramePath, arp_request, neighbour_solicit, ping
from proof.wire.target import BROADCAST, eui64

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
RARP = 0x8035  # RFC 903
ADVERTISED = "2001:db8:5a11::"
"""The prefix in false router advertisements; it is reserved for documentation (RFC 3849)."""


def arp_prefix(targets: Targets) -> Iterator[bytes]:
    """Yield ARP requests for the whole prefix, by broadcast and straight to each host MAC."""
    spared = {targets.target.vm_ipv4, targets.target.tester_ipv4}
    hosts = [str(host) for host in IPv4Network(targets.target.prefix) if str(host) not in spared]
    for host in hosts:
        # By broadcast for every address, in a quick run too: this finds any address that the host has.
        yield arp_request(targets.v4.to(ip=host))
    for host in () if targets.quick else hosts:
        for mac in (*targets.host_macs, targets.target.vm_mac):
            yield arp_request(targets.v4.to(ip=host), ethernet_dst=mac)


def arp_elsewhere(targets: Targets) -> Iterator[bytes]:
    """Yield ARP for addresses outside the prefix, from the tester, a link neighbour and no address (RFC 5227)."""
    tester = targets.target.tester_mac
    addresses = {*targets.ipv4, "127.0.0.1", "10.0.2.15", "192.168.0.1", "192.168.1.1", "169.254.254.0", "0.0.0.0"}
    for address in sorted(addresses):
        for asker in (targets.target.tester_ipv4, "169.254.254.3", "169.254.1.1", "0.0.0.0"):
            for mac in targets.macs:
                yield arp_request(FramePath(tester, BROADCAST, asker, address), ethernet_dst=mac)


def arp_reverse(targets: Targets) -> Iterator[bytes]:
    """Yield requests and replies of reverse, dynamic reverse and inverse ARP (RFC 903, 1931, 2390)."""
    tester = targets.target.tester_mac
    for asked in (*targets.host_macs, targets.target.vm_mac, tester):
        for mac in targets.macs:
            for op in (3, 4, 5, 6, 7, 8, 9):
                # What is claimed (4, 6, 9) is claimed of an address that no control depends on.
                ask = ARP(op=op, hwsrc=UNUSED_MAC, psrc=targets.unused_ipv4, hwdst=asked, pdst="0.0.0.0")
                yield bytes(Ether(src=tester, dst=mac, type=RARP if op < 8 else 0x0806) / ask)


def arp_claims(targets: Targets) -> Iterator[bytes]:
    """Yield gratuitous ARP (RFC 5227 section 3), which claims the host's, the VM's and an unused address.

    Never the tester's: then the VM would send its answers to another MAC, and the controls would be lost.
    """
    for address in (*targets.ipv4, targets.target.vm_ipv4, targets.unused_ipv4):
        for owner in (UNUSED_MAC, *targets.host_macs):
            for mac in targets.macs:
                for op, asked in ((1, "00:00:00:00:00:00"), (2, owner), (2, targets.target.vm_mac)):
                    tell = ARP(op=op, hwsrc=owner, psrc=address, hwdst=asked, pdst=address)
                    yield bytes(Ether(src=targets.target.tester_mac, dst=mac) / tell)


def solicitations(targets: Targets) -> Iterator[bytes]:
    """Yield neighbour solicitations to the solicited-node group, all nodes and each MAC; also from no address (DAD)."""
    for address in targets.ipv6:
        for source in (targets.v6.src_ip, "::"):
            path = FramePath(targets.target.tester_mac, BROADCAST, source, address)
            yield neighbour_solicit(path)
            for mac in (*targets.macs, ALL_NODES_MAC):
                yield neighbour_solicit(path.to(mac=mac), multicast=False)


def advertisements(targets: Targets) -> Iterator[bytes]:
    """Yield unsolicited neighbour advertisements, with and without "override" (RFC 4861 section 7.2.6)."""
    for address in (*targets.ipv6, targets.target.vm_ipv6, UNUSED_IPV6):
        for mac in (*targets.macs, ALL_NODES_MAC):
            for override in (0, 1):
                for router in (0, 1):
                    tell = ICMPv6ND_NA(tgt=address, R=router, S=0, O=override)
                    tell /= ICMPv6NDOptDstLLAddr(lladdr=UNUSED_MAC)
                    base = Ether(src=targets.target.tester_mac, dst=mac) / IPv6(
                        src=UNUSED_IPV6, dst=ALL_NODES, hlim=255
                    )
                    yield bytes(base / tell)


def routers(targets: Targets) -> Iterator[bytes]:
    """Yield router advertisements, then pings to the addresses formed from them, which expire within a minute."""
    offer = ICMPv6ND_RA(routerlifetime=30, chlim=64) / ICMPv6NDOptSrcLLAddr(lladdr=UNUSED_MAC)
    offer /= ICMPv6NDOptPrefixInfo(prefix=ADVERTISED, prefixlen=64, L=1, A=1, validlifetime=60, preferredlifetime=60)
    offer /= ICMPv6NDOptMTU(mtu=1500) / ICMPv6NDOptRDNSS(dns=[ADVERTISED + "53"], lifetime=60)
    managed = ICMPv6ND_RA(routerlifetime=0, M=1, O=1)  # "ask DHCPv6"
    for mac in (ALL_NODES_MAC, *targets.macs):
        for body in (offer, managed):
            for dst in (ALL_NODES, *targets.ipv6, targets.target.vm_ipv6):
                yield bytes(
                    Ether(src=targets.target.tester_mac, dst=mac) / IPv6(src=UNUSED_IPV6, dst=dst, hlim=255) / body
                )
    for owner in (*targets.host_macs, targets.target.vm_mac):
        path = targets.v6.to(mac=owner, ip=slaac(owner))
        yield neighbour_solicit(path)
        yield ping(path, targets.rng.getrandbits(16), 1)


def slaac(mac: str) -> str:
    """Return the address that a station with ``mac`` forms under the advertised prefix (RFC 4862 section 5.5.3)."""
    return str(IPv6Address(int(IPv6Address(ADVERTISED)) | int(IPv6Address(eui64(mac))) & (1 << 64) - 1))


def redirects(targets: Targets) -> Iterator[bytes]:
    """Yield ICMP and ICMPv6 redirects (RFC 792, RFC 4861 section 4.5) that name another gateway for an address."""
    for mac in targets.macs:
        for victim in (*targets.ipv4, targets.target.vm_ipv4):
            for gateway in (targets.unused_ipv4, *targets.target.host_ipv4):
                quoted = IP(src=victim, dst=targets.unused_ipv4) / ICMP(id=1)
                for code in range(4):
                    tell = ICMP(type=5, code=code, gw=gateway) / quoted
                    yield bytes(
                        Ether(src=targets.target.tester_mac, dst=mac) / IP(src=targets.unused_ipv4, dst=victim) / tell
                    )
        for victim in (*targets.ipv6, targets.target.vm_ipv6):
            tell6 = ICMPv6ND_Redirect(tgt=UNUSED_IPV6, dst=ADVERTISED + "1")
            tell6 /= ICMPv6NDOptDstLLAddr(lladdr=UNUSED_MAC)
            yield bytes(
                Ether(src=targets.target.tester_mac, dst=mac) / IPv6(src=UNUSED_IPV6, dst=victim, hlim=255) / tell6
            )
