"""The addresses that a batch of frames is sent to, and the random source of that batch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network
from typing import TypeVar

from proof.wire.craft import FramePath, arp_request, neighbour_solicit, ping, tcp_syn
from proof.wire.target import BROADCAST, Target, eui64

SPORT = 19001
"""Source port of these frames; below the range of the controls (`proof.scan.pace.SPORTS`)."""
UNUSED_IPV6 = "fe80::5a:11ff:fe79:1"
"""An address that nobody has: a false claim about it disturbs no control."""
UNUSED_MAC = "02:5a:11:79:00:01"

T = TypeVar("T")


@dataclass(frozen=True)
class Targets:
    """What the frames of one batch are built from.

    Args:
        target: the appliance.
        rng: random source of this batch.
        quick: build only a few of many similar frames.
        max_frame: bytes that a frame may have, Ethernet header included, FCS not.
    """

    target: Target
    rng: random.Random
    quick: bool = False
    max_frame: int = 65535

    @cached_property
    def host_macs(self) -> tuple[str, ...]:
        """The host's own MACs."""
        return tuple(self.target.host_macs.values())

    @cached_property
    def macs(self) -> tuple[str, ...]:
        """Destination MACs: each of the host's, broadcast, the VM's."""
        return (*self.host_macs, BROADCAST, self.target.vm_mac)

    @cached_property
    def ipv4(self) -> tuple[str, ...]:
        """The host's IPv4 addresses, and the VM's one on the link.

        To answer for that one here is the weak host model (RFC 1122, 3.3.4.2).
        """
        return (*self.target.host_ipv4, self.target.vm_link_ipv4)

    @cached_property
    def ipv6(self) -> tuple[str, ...]:
        """The addresses that a stack forms by itself from the host's MACs."""
        return tuple(eui64(mac) for mac in self.host_macs)

    @cached_property
    def v4(self) -> FramePath:
        """From the tester to the VM over IPv4."""
        return FramePath(self.target.tester_mac, self.target.vm_mac, self.target.tester_ipv4, self.target.vm_ipv4)

    @cached_property
    def v6(self) -> FramePath:
        """From the tester to the VM over IPv6."""
        return FramePath(self.target.tester_mac, self.target.vm_mac, self.target.tester_ipv6, self.target.vm_ipv6)

    @cached_property
    def unused_ipv4s(self) -> tuple[str, ...]:
        """IPv4 addresses of the prefix that are neither the VM's nor the tester's."""
        spared = {self.target.vm_ipv4, self.target.tester_ipv4}
        return tuple(str(host) for host in IPv4Network(self.target.prefix).hosts() if str(host) not in spared)

    @property
    def unused_ipv4(self) -> str:
        """One of `unused_ipv4s`, always the same: from the middle, as a router often has the first or last address."""
        return self.unused_ipv4s[len(self.unused_ipv4s) // 2] if self.unused_ipv4s else "192.0.2.1"

    def paths(self, addresses: Iterable[str], base: FramePath) -> Iterator[FramePath]:
        """Yield the path to each address at each of `macs`."""
        for address in addresses:
            for mac in self.macs:
                yield base.to(mac=mac, ip=address)

    def all_paths(self) -> Iterator[FramePath]:
        """Yield the paths to every host address of both families, at each of `macs`."""
        yield from self.paths(self.ipv4, self.v4)
        yield from self.paths(self.ipv6, self.v6)

    def some(self, of: Sequence[T], count: int, always: Iterable[T] = ()) -> list[T]:
        """Return all items; in a quick run ``always`` and ``count`` others, at random."""
        if not self.quick:
            return list(of)
        first = list(always)
        rest = [item for item in of if item not in first]
        return first + self.rng.sample(rest, min(count, len(rest)))

    def basic_requests(self) -> list[bytes]:
        """Return ARP or ND, ping and SYN to every host address at each of `macs`: what any stack there would answer.

        Several batches wrap these frames: in tags, SNAP, MPLS, PPPoE.
        """
        frames: list[bytes] = []
        for path in self.all_paths():
            resolve = neighbour_solicit(path) if path.is_ipv6 else arp_request(path, ethernet_dst=path.dst_mac)
            frames += [resolve, ping(path, 7, 1), tcp_syn(path, SPORT, 7000, self.rng.getrandbits(32))]
        return frames
