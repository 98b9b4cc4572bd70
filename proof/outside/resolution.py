"""Volleys of address resolution: ARP and neighbour discovery, asked, claimed and advertised."""

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

from proof.outside.targets import STRANGER_IPV6, STRANGER_MAC, Aim
from proof.wire.craft import FramePath, arp_request, neighbour_solicit, ping
from proof.wire.target import BROADCAST, eui64

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
RARP = 0x8035  # RFC 903
ADVERTISED = "2001:db8:5a11::"
"""The prefix that a false router offers; one for documentation (RFC 3849)."""


def arp_prefix(aim: Aim) -> Iterator[bytes]:
    """ARP requests for the whole prefix, by broadcast and straight to each host MAC."""
    spared = {aim.target.vm_ipv4, aim.target.tester_ipv4}
    hosts = [str(host) for host in IPv4Network(aim.target.prefix) if str(host) not in spared]
    for host in hosts:
        # To all, each of them even in a quick run: whoever has an address here is found by this.
        yield arp_request(aim.v4.to(ip=host))
    for host in () if aim.quick else hosts:
        for mac in (*aim.host_macs, aim.target.vm_mac):
            yield arp_request(aim.v4.to(ip=host), ethernet_dst=mac)


def arp_elsewhere(aim: Aim) -> Iterator[bytes]:
    """ARP for addresses outside the prefix, as the tester, as a link neighbour and as nobody (RFC 5227)."""
    tester = aim.target.tester_mac
    addresses = {*aim.ipv4, "127.0.0.1", "10.0.2.15", "192.168.0.1", "192.168.1.1", "169.254.254.0", "0.0.0.0"}
    for address in sorted(addresses):
        for asker in (aim.target.tester_ipv4, "169.254.254.3", "169.254.1.1", "0.0.0.0"):
            for mac in aim.macs:
                yield arp_request(FramePath(tester, BROADCAST, asker, address), ethernet_dst=mac)


def arp_reverse(aim: Aim) -> Iterator[bytes]:
    """Reverse, dynamic reverse and inverse ARP (RFC 903, 1931, 2390): "which address has this MAC?", and answers."""
    tester = aim.target.tester_mac
    for asked in (*aim.host_macs, aim.target.vm_mac, tester):
        for mac in aim.macs:
            for op in (3, 4, 5, 6, 7, 8, 9):
                # What is claimed (4, 6, 9) is claimed of an address that no control depends on.
                ask = ARP(op=op, hwsrc=STRANGER_MAC, psrc=aim.stranger, hwdst=asked, pdst="0.0.0.0")
                yield bytes(Ether(src=tester, dst=mac, type=RARP if op < 8 else 0x0806) / ask)


def arp_claims(aim: Aim) -> Iterator[bytes]:
    """Gratuitous ARP (RFC 5227 section 3): "this address is mine", for the host's, the VM's and other addresses.

    Never for the tester's: then the VM would answer to somebody else, and the controls would be lost.
    """
    for address in (*aim.ipv4, aim.target.vm_ipv4, aim.stranger):
        for owner in (STRANGER_MAC, *aim.host_macs):
            for mac in aim.macs:
                for op, asked in ((1, "00:00:00:00:00:00"), (2, owner), (2, aim.target.vm_mac)):
                    tell = ARP(op=op, hwsrc=owner, psrc=address, hwdst=asked, pdst=address)
                    yield bytes(Ether(src=aim.target.tester_mac, dst=mac) / tell)


def solicitations(aim: Aim) -> Iterator[bytes]:
    """Neighbour solicitations, to the solicited-node group, to all nodes and to each MAC; also as nobody (DAD)."""
    for address in aim.ipv6:
        for source in (aim.v6.src_ip, "::"):
            path = FramePath(aim.target.tester_mac, BROADCAST, source, address)
            yield neighbour_solicit(path)
            for mac in (*aim.macs, ALL_NODES_MAC):
                yield neighbour_solicit(path.to(mac=mac), multicast=False)


def advertisements(aim: Aim) -> Iterator[bytes]:
    """Neighbour advertisements that nobody asked for, with and without "override" (RFC 4861 section 7.2.6)."""
    for address in (*aim.ipv6, aim.target.vm_ipv6, STRANGER_IPV6):
        for mac in (*aim.macs, ALL_NODES_MAC):
            for override in (0, 1):
                for router in (0, 1):
                    tell = ICMPv6ND_NA(tgt=address, R=router, S=0, O=override)
                    tell /= ICMPv6NDOptDstLLAddr(lladdr=STRANGER_MAC)
                    base = Ether(src=aim.target.tester_mac, dst=mac) / IPv6(src=STRANGER_IPV6, dst=ALL_NODES, hlim=255)
                    yield bytes(base / tell)


def routers(aim: Aim) -> Iterator[bytes]:
    """Router advertisements, then pings to the addresses that who believed them has; all of it expires in a minute."""
    offer = ICMPv6ND_RA(routerlifetime=30, chlim=64) / ICMPv6NDOptSrcLLAddr(lladdr=STRANGER_MAC)
    offer /= ICMPv6NDOptPrefixInfo(prefix=ADVERTISED, prefixlen=64, L=1, A=1, validlifetime=60, preferredlifetime=60)
    offer /= ICMPv6NDOptMTU(mtu=1500) / ICMPv6NDOptRDNSS(dns=[ADVERTISED + "53"], lifetime=60)
    managed = ICMPv6ND_RA(routerlifetime=0, M=1, O=1)  # "ask DHCPv6"
    for mac in (ALL_NODES_MAC, *aim.macs):
        for body in (offer, managed):
            for dst in (ALL_NODES, *aim.ipv6, aim.target.vm_ipv6):
                yield bytes(
                    Ether(src=aim.target.tester_mac, dst=mac) / IPv6(src=STRANGER_IPV6, dst=dst, hlim=255) / body
                )
    for owner in (*aim.host_macs, aim.target.vm_mac):
        path = aim.v6.to(mac=owner, ip=slaac(owner))
        yield neighbour_solicit(path)
        yield ping(path, aim.rng.getrandbits(16), 1)


def slaac(mac: str) -> str:
    """Return the address that a station with ``mac`` forms under the advertised prefix (RFC 4862 section 5.5.3)."""
    return str(IPv6Address(int(IPv6Address(ADVERTISED)) | int(IPv6Address(eui64(mac))) & (1 << 64) - 1))


def redirects(aim: Aim) -> Iterator[bytes]:
    """ICMP and ICMPv6 redirects (RFC 792, RFC 4861 section 4.5): "for that address use me"."""
    for mac in aim.macs:
        for victim in (*aim.ipv4, aim.target.vm_ipv4):
            for gateway in (aim.stranger, *aim.target.host_ipv4):
                quoted = IP(src=victim, dst=aim.stranger) / ICMP(id=1)
                for code in range(4):
                    tell = ICMP(type=5, code=code, gw=gateway) / quoted
                    yield bytes(Ether(src=aim.target.tester_mac, dst=mac) / IP(src=aim.stranger, dst=victim) / tell)
        for victim in (*aim.ipv6, aim.target.vm_ipv6):
            tell6 = ICMPv6ND_Redirect(tgt=STRANGER_IPV6, dst=ADVERTISED + "1")
            tell6 /= ICMPv6NDOptDstLLAddr(lladdr=STRANGER_MAC)
            yield bytes(
                Ether(src=aim.target.tester_mac, dst=mac) / IPv6(src=STRANGER_IPV6, dst=victim, hlim=255) / tell6
            )
