"""The volleys at the management port: everything that might make the host answer, layer by layer.

What is thrown is in `link_layer`, `resolution`, `groups`, `ip_layer`, `services` and `malformed`; this is the list of
it. Each volley has dice of its own, drawn from the run's, and is built when it is looked at: one that is left out
changes no other, and no two are in memory at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from proof.outside import groups, ip_layer, link_layer, malformed, resolution, services
from proof.outside.targets import Aim
from proof.scan.frame_batch import Lazy, Volley
from proof.scan.ports import TCP_PORTS, UDP_PORTS
from proof.wire.target import Target

GROUP = "host"
QUICK = 256
"""Frames of a volley in a quick run, at most."""
LONGEST = 65535
"""Bytes of a frame that QEMU's port takes."""
Build = Callable[[Aim], Iterable[bytes]]


@dataclass(frozen=True)
class Shot:
    """One volley: its name, what it tries (with ``{prefix}`` and the like), and its frames."""

    name: str
    tried: str
    build: Build


SHOTS = (
    Shot(
        "ethertypes",
        "every EtherType 0x0600 to 0xffff to all and to the port's own MAC, likely and random ones to each",
        link_layer.ethertypes,
    ),
    Shot("llc", "LLC TEST, XID, SABME and data for all 256 DSAPs at every MAC", link_layer.logical_links),
    Shot("snap", "ARP, ND, IP and other protocols in 802.2 SNAP, also with 802.1Q tags", link_layer.snaps),
    Shot("vlan", "ARP, ND, ping and SYN behind priority tags, VLAN tags, and up to four of them", link_layer.tags),
    Shot("tunnels", "IP for the host in MPLS, PPPoE, NSH, TRILL and PBB", link_layer.tunnels),
    Shot(
        "link-protocols",
        "LLDP, STP/RSTP/MSTP, EAPOL, PPPoE, LACP, marker, OAM, PTP, CFM, pause, CDP at groups and MACs",
        link_layer.protocols,
    ),
    Shot("wake-on-lan", "magic packets for every host MAC, as EtherType 0x0842 and UDP", link_layer.wake_on_lan),
    Shot("source-macs", "frames under the VM's, the host's, nobody's and groups' MACs", link_layer.source_macs),
    Shot("arp-prefix", "ARP for every other address of {prefix}, to all and to each MAC", resolution.arp_prefix),
    Shot("arp-elsewhere", "ARP for the link's and other host addresses, from several askers", resolution.arp_elsewhere),
    Shot("arp-reverse", "reverse, dynamic and inverse ARP for every MAC", resolution.arp_reverse),
    Shot("arp-claims", "gratuitous ARP for the host's, the VM's and a stranger's address", resolution.arp_claims),
    Shot("nd", "neighbour solicitation for the EUI-64 address of every host MAC", resolution.solicitations),
    Shot("nd-claims", "unsolicited neighbour advertisements, with and without override", resolution.advertisements),
    Shot("routers", "router advertisements, and pings to whoever believed them", resolution.routers),
    Shot("redirects", "ICMP and ICMPv6 redirects to the host and the VM", resolution.redirects),
    Shot("groups", "router solicitation, MLD, IGMP and node information queries", groups.queries),
    Shot("group-pings", "ping to every well-known multicast group at its MAC and every host MAC", groups.pings),
    Shot("prefix", "ping and SYN to every address of {prefix} at every host MAC", ip_layer.prefix),
    Shot("ping", "ping v4 and v6 of every host address at every host MAC, all MACs and the VM's", ip_layer.pings),
    Shot("protocols", "all 256 IP protocols and next headers to every host address at every MAC", ip_layer.protocols),
    Shot("options", "every IPv4 option, loose and strict source routes", ip_layer.options),
    Shot("extensions", "IPv6 options, nested headers, jumbograms, routing headers", ip_layer.extensions),
    Shot("fragments", "fragments tiny, overlapping, never ending, empty, reversed, too long", ip_layer.fragments),
    Shot("sources", "the link's own addresses, martians, groups and the VM's as source", ip_layer.sources),
    Shot("routing", "packets for others sent to the VM's MAC, hop limit 1, tunnels", ip_layer.routed),
    Shot("cut", "frames cut after every byte, and 0 to 59 bytes of nothing", malformed.cut),
    Shot("lengths", "length, version and offset fields that are wrong", malformed.wrong_lengths),
    Shot("checksums", "wrong checksums of IPv4, TCP, UDP, ICMP and ICMPv6", malformed.wrong_checksums),
    Shot("jumbo", "frames of 1515 to {longest} bytes", malformed.oversized),
    Shot("discovery", "what discovery services are asked, to all and to their groups", services.discovery),
    Shot("leases", "DHCP of both families, as a server that nobody asked and as a client", services.leases),
    Shot(
        "tcp-ipv4", "SYN to {tcp} ports of every host IPv4 address at every MAC", lambda aim: services.syns(aim, False)
    ),
    Shot(
        "tcp-ipv6", "SYN to {tcp} ports of every host IPv6 address at every MAC", lambda aim: services.syns(aim, True)
    ),
    Shot(
        "udp-ipv4",
        "UDP to {udp} ports of every host IPv4 address at every MAC",
        lambda aim: services.datagrams(aim, False),
    ),
    Shot(
        "udp-ipv6",
        "UDP to {udp} ports of every host IPv6 address at every MAC",
        lambda aim: services.datagrams(aim, True),
    ),
)
"""In the order of the layers."""


class Arsenal:
    """Builds the volleys for one target.

    Args:
        target: whom they are aimed at.
        rng: makes the random choices.
        longest: bytes of the longest frame that the wire can send, Ethernet header included, FCS not.
    """

    def __init__(self, target: Target, rng: random.Random, *, longest: int = LONGEST) -> None:
        self._target, self._rng, self._longest = target, rng, longest

    def volleys(self, quick: bool = False) -> Iterator[Volley]:
        """Return all volleys; ``quick`` has a random sample of each that is long."""
        fields = {"prefix": self._target.prefix, "tcp": len(TCP_PORTS), "udp": len(UDP_PORTS), "longest": self._longest}
        for shot in SHOTS:
            aim = Aim(self._target, random.Random(self._rng.getrandbits(64)), quick, self._longest)
            tried = shot.tried.format(**fields) + (f"; at most {QUICK} frames of it" if quick else "")
            yield Volley(GROUP, shot.name, tried, Lazy(partial(_frames, shot.build, aim)))


def _frames(build: Build, aim: Aim) -> Sequence[bytes]:
    """Return a volley's frames, in their order; of a long one in a quick run only some."""
    made = build(aim)
    frames = made if isinstance(made, Sequence) else tuple(made)
    if not aim.quick or len(frames) <= QUICK:
        return frames
    return tuple(frames[index] for index in sorted(aim.rng.sample(range(len(frames)), QUICK)))
