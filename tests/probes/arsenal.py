"""The volleys at the management port: everything that might make the host answer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from scapy.layers.inet import ICMP, IP, UDP, IPOption_LSRR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLQuery2,
    ICMPv6ND_RS,
    ICMPv6NIQueryName,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, LLC, STP, Dot3, Ether
from scapy.packet import Raw

from tests.probes.craft import Path, arp_request, neighbour_solicit, ping, tagged, tcp_syn, udp
from tests.probes.ports import GENERIC, TCP_PORTS, UDP_PAYLOADS, UDP_PORTS
from tests.probes.target import BROADCAST, Target, eui64
from tests.probes.volley import Volley

GROUP = "host"
SPORT = 19001
"""Source port of all these probes; below the range that the controls use."""
GROUP_MACS = {
    "33:33:00:00:00:01": "ff02::1",
    "33:33:00:00:00:02": "ff02::2",
    "33:33:00:00:00:16": "ff02::16",
    "33:33:00:00:00:fb": "ff02::fb",
}
"""IPv6 groups that a host joins by itself (RFC 4291 section 2.7.1), with their MACs (RFC 2464 section 7)."""
IGMP_QUERY = bytes.fromhex("110aeef500000000")
"""A general membership query to be answered within a second (RFC 2236 section 2)."""


class Arsenal:
    """Builds the volleys for one target; ``rng`` makes the random choices."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self.target, self.rng = target, rng
        self.macs = [*target.host_macs.values(), BROADCAST, target.vm_mac]
        # The VM's address on the link is in the list: answering for it here is the weak host model (RFC 1122, 3.3.4.2).
        self.ipv4 = [*target.host_ipv4, target.vm_link_ipv4]
        self.ipv6 = [eui64(mac) for mac in target.host_macs.values()]
        self.v4 = Path(target.tester_mac, target.vm_mac, target.tester_ipv4, target.vm_ipv4)
        self.v6 = Path(target.tester_mac, target.vm_mac, target.tester_ipv6, target.vm_ipv6)

    def volleys(self) -> Iterator[Volley]:
        """Return all volleys in the order of the layers."""
        for name, tried, frames in (
            ("arp-prefix", f"ARP for every other address of {self.target.prefix}, to all and to each MAC", self.arp()),
            ("arp-elsewhere", "ARP for the link's and other host addresses, from several askers", self.arp_elsewhere()),
            ("prefix", f"ping and SYN to every address of {self.target.prefix} at every host MAC", self.prefix()),
            ("nd", "neighbour solicitation for the EUI-64 address of every host MAC", self.nd()),
            ("groups", "all-nodes ping, router solicitation, MLD, IGMP and node information queries", self.groups()),
            ("ping", "ping v4 and v6 of every host address at every host MAC, all MACs and the VM's", self.pings()),
            ("tcp-ipv4", f"SYN to {len(TCP_PORTS)} ports of every host IPv4 address at every MAC", self.syns(False)),
            ("tcp-ipv6", f"SYN to {len(TCP_PORTS)} ports of every host IPv6 address at every MAC", self.syns(True)),
            ("udp-ipv4", f"UDP to {len(UDP_PORTS)} ports of every host IPv4 address at every MAC", self.udps(False)),
            ("udp-ipv6", f"UDP to {len(UDP_PORTS)} ports of every host IPv6 address at every MAC", self.udps(True)),
            ("vlan", "ARP, ND, ping and SYN with 802.1Q and 802.1ad tags, VLAN 0 and random ones", self.vlan()),
            ("ethertypes", "LLDP, STP, LACP, EAPOL, PPPoE, wake-on-LAN, random EtherTypes to host MACs", self.others()),
            (
                "routing",
                "packets for host addresses sent to the VM's MAC, hop limit 1 and source routes",
                self.routed(),
            ),
        ):
            yield Volley(GROUP, name, tried, tuple(frames))

    def _paths(self, addresses: Iterable[str], base: Path) -> Iterator[Path]:
        for address in addresses:
            for mac in self.macs:
                yield base.to(mac=mac, ip=address)

    def arp(self) -> Iterator[bytes]:
        """ARP requests for the whole prefix, by broadcast and straight to each host MAC."""
        spared = {self.target.vm_ipv4, self.target.tester_ipv4}
        for host in IPv4Network(self.target.prefix):
            if str(host) not in spared:
                path = self.v4.to(ip=str(host))
                for mac in (BROADCAST, *self.target.host_macs.values(), self.target.vm_mac):
                    yield arp_request(path, ethernet_dst=mac)

    def arp_elsewhere(self) -> Iterator[bytes]:
        """ARP for addresses outside the prefix, as the tester, as a link neighbour and as nobody (RFC 5227)."""
        addresses = {*self.ipv4, "127.0.0.1", "10.0.2.15", "192.168.0.1", "192.168.1.1", "169.254.254.0", "0.0.0.0"}
        for address in sorted(addresses):
            for asker in (self.target.tester_ipv4, "169.254.254.3", "169.254.1.1", "0.0.0.0"):
                path = Path(self.target.tester_mac, BROADCAST, asker, address)
                for mac in self.macs:
                    yield arp_request(path, ethernet_dst=mac)
        for mac in self.macs:  # inverse and reverse ARP (RFC 2390, RFC 903): "which address has this MAC?"
            for op in (3, 8):
                ask = ARP(op=op, hwsrc=self.target.tester_mac, psrc=self.target.tester_ipv4, hwdst=mac, pdst="0.0.0.0")
                yield bytes(Ether(src=self.target.tester_mac, dst=mac, type=0x8035 if op == 3 else 0x0806) / ask)

    def prefix(self) -> Iterator[bytes]:
        """Packets for addresses that nobody resolved: a host may hold one and still not answer ARP."""
        for host in IPv4Network(self.target.prefix):
            for mac in self.target.host_macs.values():
                path = self.v4.to(mac=mac, ip=str(host))
                yield ping(path, 11, 1)
                yield tcp_syn(path, SPORT, 7000, self.rng.getrandbits(32))

    def nd(self) -> Iterator[bytes]:
        """Neighbour solicitations, to the solicited-node group, to all nodes and to each MAC."""
        for address in self.ipv6:
            yield neighbour_solicit(self.v6.to(ip=address))
            for mac in (*self.macs, "33:33:00:00:00:01"):
                yield neighbour_solicit(self.v6.to(mac=mac, ip=address), multicast=False)

    def groups(self) -> Iterator[bytes]:
        """Questions to groups. The VM may answer for itself; the judge tells whose answer it is."""
        source = self.v6.src_ip
        alert = IPv6ExtHdrHopByHop(options=[RouterAlert()])
        for mac, group in GROUP_MACS.items():
            for dst in (mac, *self.target.host_macs.values()):
                base = Ether(src=self.target.tester_mac, dst=dst) / IPv6(src=source, dst=group, hlim=255)
                yield bytes(base / ICMPv6EchoRequest(id=self.rng.getrandbits(16)))
                yield bytes(base / ICMPv6ND_RS())
                yield bytes(base / ICMPv6NIQueryName(data=b"\x00"))
                base[IPv6].hlim = 1
                yield bytes(base / alert / ICMPv6MLQuery2())
        for mac, group in (("01:00:5e:00:00:01", "224.0.0.1"), ("01:00:5e:00:00:fb", "224.0.0.251")):
            for dst in (mac, *self.target.host_macs.values()):
                path = self.v4.to(mac=dst, ip=group)
                query = IP(src=path.src_ip, dst=group, ttl=1, proto=2) / Raw(IGMP_QUERY)
                yield bytes(Ether(src=path.src_mac, dst=dst) / query)
                yield ping(path, self.rng.getrandbits(16), 1)

    def pings(self) -> Iterator[bytes]:
        """Echo, timestamp and address mask requests to every address at every MAC."""
        everyone = [str(IPv4Network(self.target.prefix).broadcast_address), "255.255.255.255", "127.0.0.1"]
        for path in self._paths([*self.ipv4, *everyone], self.v4):
            yield ping(path, self.rng.getrandbits(16), 1)
            yield bytes(path.layers() / ICMP(type=13))
            yield bytes(path.layers() / ICMP(type=17))
        for path in self._paths([*self.ipv6, "::1"], self.v6):
            yield ping(path, self.rng.getrandbits(16), 1)
        for mac in self.target.host_macs.values():  # the VM's own addresses at the host's MACs
            yield ping(self.v4.to(mac=mac), self.rng.getrandbits(16), 1)
            yield ping(self.v6.to(mac=mac), self.rng.getrandbits(16), 1)

    def _all_paths(self, is_ipv6: bool) -> Iterator[Path]:
        if is_ipv6:
            yield from self._paths(self.ipv6, self.v6)
            return
        yield from self._paths(self.ipv4, self.v4)
        for mac in self.target.host_macs.values():
            yield self.v4.to(mac=mac)

    def syns(self, is_ipv6: bool) -> Iterator[bytes]:
        """SYNs to every named port."""
        for path in self._all_paths(is_ipv6):
            for port in TCP_PORTS:
                yield tcp_syn(path, SPORT, port, self.rng.getrandbits(32))

    def udps(self, is_ipv6: bool) -> Iterator[bytes]:
        """Datagrams with a request that a real service would answer."""
        for path in self._all_paths(is_ipv6):
            for port in UDP_PORTS:
                yield udp(path, SPORT, port, UDP_PAYLOADS.get(port, GENERIC))
        if not is_ipv6:
            for port in (67, 68, 69, 137, 161, 1900, 5353, 5355, 9999, 10001):  # discovery services listen to everyone
                path = self.v4.to(mac=BROADCAST, ip="255.255.255.255")
                yield udp(path, SPORT, port, UDP_PAYLOADS.get(port, GENERIC))

    def vlan(self) -> Iterator[bytes]:
        """Tagged variants: some drivers and stacks strip tags before any rule sees the frame."""
        vids = [0, 1, 2, 42, 100, 4094, 4095, *self.rng.sample(range(3, 4093), 5)]
        plain: list[bytes] = []
        for mac in self.macs:
            for address in self.ipv4:
                path = self.v4.to(mac=mac, ip=address)
                plain += [arp_request(path, ethernet_dst=mac), ping(path, 7, 1), tcp_syn(path, SPORT, 7000, 1)]
            for address in self.ipv6:
                path = self.v6.to(mac=mac, ip=address)
                plain += [neighbour_solicit(path), ping(path, 7, 1), tcp_syn(path, SPORT, 7000, 1)]
        for vid in vids:
            for frame in plain:
                yield tagged(frame, vid)
        for frame in plain:
            yield tagged(frame, vids[-1], 0x88A8)
            yield tagged(tagged(frame, vids[-1]), vids[-2], 0x88A8)
            yield tagged(tagged(frame, 0), 0)

    def others(self) -> Iterator[bytes]:
        """Everything that is not IP: link-layer protocols to their groups and to each host MAC."""
        source = self.target.tester_mac
        stp = LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP()
        for mac in ("01:80:c2:00:00:00", "01:00:0c:cc:cc:cd", *self.macs):
            yield bytes(Dot3(src=source, dst=mac) / stp)
            yield bytes(Dot3(src=source, dst=mac) / LLC(dsap=0, ssap=1, ctrl=0xF3))  # LLC TEST: an echo (IEEE 802.2)
            yield bytes(Dot3(src=source, dst=mac) / LLC(dsap=0, ssap=1, ctrl=0xBF) / Raw(b"\x81\x01\x00"))  # LLC XID
        lldp = bytes.fromhex("0207040274657374 01 0402 0761 0602 0078 0000".replace(" ", ""))
        known = {
            0x88CC: lldp,
            0x8809: b"\x01\x01" + bytes(108),  # LACP
            0x888E: bytes.fromhex("02010000"),  # EAPOL start
            0x8863: bytes.fromhex("1109000000040101 0000".replace(" ", "")),  # PPPoE discovery: PADI
            0x9000: bytes.fromhex("0000 0200") + bytes.fromhex(source.replace(":", "")) + bytes.fromhex("0100"),  # loop
            0x8902: bytes.fromhex("0003 0004 00000001 00".replace(" ", "")),  # CFM loopback message (IEEE 802.1ag)
            0x88F7: b"\x0b\x02" + bytes(62),  # PTP announce
            0x88A2: bytes.fromhex("1000ffffff0100000000") + bytes(32),  # ATA over Ethernet
            0x22F0: b"\xfa" + bytes(60),  # AVDECC
            0x88E5: bytes(40),  # MACsec
            0x8847: bytes.fromhex("00001140") + bytes(40),  # MPLS
            0x0842: b"\xff" * 6
            + bytes.fromhex(next(iter(self.target.host_macs.values()), source).replace(":", "")) * 16,
        }
        groups = ("01:80:c2:00:00:0e", "01:80:c2:00:00:03", "01:80:c2:00:00:02", "01:1b:19:00:00:00")
        for mac in (*groups, *self.macs):
            for kind, body in known.items():
                yield bytes(Ether(src=source, dst=mac, type=kind) / Raw(body))
            for _ in range(12):
                kind, body = self.rng.randrange(0x0600, 0x10000), self.rng.randbytes(self.rng.randrange(46, 200))
                if kind not in (0x0800, 0x0806, 0x86DD):
                    yield bytes(Ether(src=source, dst=mac, type=kind) / Raw(body))

    def routed(self) -> Iterator[bytes]:
        """Packets through the VM. With hop limit 1 a router betrays itself even where the way back is missing."""
        others = ("127.0.0.1", "10.0.2.2", "8.8.8.8")
        for ttl in (64, 2, 1):
            for address in (*self.ipv4, *others):
                path = self.v4.to(ip=address)
                yield ping(path, 9, ttl, ttl)
                yield udp(path, SPORT, 7000, GENERIC, ttl)
                yield udp(path, SPORT, 33434, GENERIC, ttl)
                for port in (22, 80, 443, 7000):
                    yield tcp_syn(path, SPORT, port, self.rng.getrandbits(32), ttl)
            for address in (*self.ipv6, "fd00::1", "2001:db8::1"):
                path = self.v6.to(ip=address)
                yield ping(path, 9, ttl, ttl)
                yield tcp_syn(path, SPORT, 7000, self.rng.getrandbits(32), ttl)
        for address in self.target.host_ipv4:
            options = [IPOption_LSRR(routers=[address])]
            ether = Ether(src=self.target.tester_mac, dst=self.target.vm_mac)
            yield bytes(ether / IP(src=self.v4.src_ip, dst=self.v4.dst_ip, options=options) / ICMP(id=9))
            # From the host's own address, as a reflection of the VM's answer onto the link would need it.
            yield bytes(ether / IP(src=address, dst=self.v4.dst_ip) / UDP(sport=7000, dport=SPORT) / Raw(GENERIC))
            tunnel = IP(src=self.v4.src_ip, dst=self.v4.dst_ip) / IP(src=self.v4.src_ip, dst=address) / ICMP(id=9)
            yield bytes(ether / tunnel)
