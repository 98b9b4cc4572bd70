"""The catalogue of probes that send a batch of frames to the management port, in the order of the layers.

The frames are made in `link_layer`, `resolution`, `groups`, `ip_layer`, `services` and `malformed`. Each batch has its
own random source, seeded from the run's, and is built when it is accessed: leaving one out changes no other, and no two
are in memory at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from proof.outside import groups, ip_layer, link_layer, malformed, resolution, services
from proof.outside.targets import Targets
from proof.scan.frame_batch import FrameBatch, LazyFrames
from proof.scan.ports import TCP_PORTS, UDP_PORTS
from proof.wire.target import Target

GROUP = "host"
QUICK = 256
"""Frames of one batch in a quick run, at most."""
MAX_PORT_FRAME = 65535
"""Bytes of a frame that QEMU's port takes."""
Build = Callable[[Targets], Iterable[bytes]]


@dataclass(frozen=True)
class ProbeSpec:
    """One probe: its name in the report, the sentence that says what it tries, and what builds its frames.

    The sentence may have the fields ``{prefix}``, ``{tcp}`` and ``{udp}`` (counts of ports), and ``{longest}`` (bytes).
    """

    name: str
    tried: str
    build: Build


PROBES = (
    ProbeSpec(
        "ethertypes",
        "every EtherType 0x0600 to 0xffff to all and to the port's own MAC, likely and random ones to each",
        link_layer.ethertypes,
    ),
    ProbeSpec("llc", "LLC TEST, XID, SABME and data for all 256 DSAPs at every MAC", link_layer.logical_links),
    ProbeSpec("snap", "ARP, ND, IP and other protocols in 802.2 SNAP, also with 802.1Q tags", link_layer.snaps),
    ProbeSpec("vlan", "ARP, ND, ping and SYN behind priority tags, VLAN tags, and up to four of them", link_layer.tags),
    ProbeSpec("tunnels", "IP for the host in MPLS, PPPoE, NSH, TRILL and PBB", link_layer.tunnels),
    ProbeSpec(
        "link-protocols",
        "LLDP, STP/RSTP/MSTP, EAPOL, PPPoE, LACP, marker, OAM, PTP, CFM, pause, CDP at groups and MACs",
        link_layer.protocols,
    ),
    ProbeSpec("wake-on-lan", "magic packets for every host MAC, as EtherType 0x0842 and UDP", link_layer.wake_on_lan),
    ProbeSpec("source-macs", "frames under the VM's, the host's, nobody's and groups' MACs", link_layer.source_macs),
    ProbeSpec("arp-prefix", "ARP for every other address of {prefix}, to all and to each MAC", resolution.arp_prefix),
    ProbeSpec(
        "arp-elsewhere", "ARP for the link's and other host addresses, from several askers", resolution.arp_elsewhere
    ),
    ProbeSpec("arp-reverse", "reverse, dynamic and inverse ARP for every MAC", resolution.arp_reverse),
    ProbeSpec("arp-claims", "gratuitous ARP for the host's, the VM's and a stranger's address", resolution.arp_claims),
    ProbeSpec("nd", "neighbour solicitation for the EUI-64 address of every host MAC", resolution.solicitations),
    ProbeSpec(
        "nd-claims", "unsolicited neighbour advertisements, with and without override", resolution.advertisements
    ),
    ProbeSpec("routers", "router advertisements, and pings to whoever believed them", resolution.routers),
    ProbeSpec("redirects", "ICMP and ICMPv6 redirects to the host and the VM", resolution.redirects),
    ProbeSpec("groups", "router solicitation, MLD, IGMP and node information queries", groups.queries),
    ProbeSpec("group-pings", "ping to every well-known multicast group at its MAC and every host MAC", groups.pings),
    ProbeSpec("prefix", "ping and SYN to every address of {prefix} at every host MAC", ip_layer.prefix),
    ProbeSpec("ping", "ping v4 and v6 of every host address at every host MAC, all MACs and the VM's", ip_layer.pings),
    ProbeSpec(
        "protocols", "all 256 IP protocols and next headers to every host address at every MAC", ip_layer.protocols
    ),
    ProbeSpec("options", "every IPv4 option, loose and strict source routes", ip_layer.options),
    ProbeSpec("extensions", "IPv6 options, nested headers, jumbograms, routing headers", ip_layer.extensions),
    ProbeSpec("fragments", "fragments tiny, overlapping, never ending, empty, reversed, too long", ip_layer.fragments),
    ProbeSpec("sources", "the link's own addresses, martians, groups and the VM's as source", ip_layer.sources),
    ProbeSpec("routing", "packets for others sent to the VM's MAC, hop limit 1, tunnels", ip_layer.routed),
    ProbeSpec("cut", "frames cut after every byte, and 0 to 59 bytes of nothing", malformed.cut),
    ProbeSpec("lengths", "length, version and offset fields that are wrong", malformed.wrong_lengths),
    ProbeSpec("checksums", "wrong checksums of IPv4, TCP, UDP, ICMP and ICMPv6", malformed.wrong_checksums),
    ProbeSpec("jumbo", "frames of 1515 to {longest} bytes", malformed.oversized),
    ProbeSpec("discovery", "what discovery services are asked, to all and to their groups", services.discovery),
    ProbeSpec("leases", "DHCP of both families, as a server that nobody asked and as a client", services.leases),
    ProbeSpec(
        "tcp-ipv4",
        "SYN to {tcp} ports of every host IPv4 address at every MAC",
        lambda targets: services.syns(targets, False),
    ),
    ProbeSpec(
        "tcp-ipv6",
        "SYN to {tcp} ports of every host IPv6 address at every MAC",
        lambda targets: services.syns(targets, True),
    ),
    ProbeSpec(
        "udp-ipv4",
        "UDP to {udp} ports of every host IPv4 address at every MAC",
        lambda targets: services.datagrams(targets, False),
    ),
    ProbeSpec(
        "udp-ipv6",
        "UDP to {udp} ports of every host IPv6 address at every MAC",
        lambda targets: services.datagrams(targets, True),
    ),
)
"""All probes, in the order of the layers. docs/contribute/add-a-probe.md says how to add one."""


class ProbeCatalogue:
    """Builds the batches of frames for one target.

    Args:
        target: whose host they are sent to.
        rng: makes the random choices.
        longest: bytes of the longest frame that the wire can send, Ethernet header included, FCS not.
    """

    def __init__(self, target: Target, rng: random.Random, *, max_frame: int = MAX_PORT_FRAME) -> None:
        self._target, self._rng, self._longest = target, rng, max_frame

    def batches(self, quick: bool = False) -> Iterator[FrameBatch]:
        """Yield all batches; with ``quick`` at most `QUICK` random frames of each."""
        fields = {"prefix": self._target.prefix, "tcp": len(TCP_PORTS), "udp": len(UDP_PORTS), "longest": self._longest}
        for probe in PROBES:
            targets = Targets(self._target, random.Random(self._rng.getrandbits(64)), quick, self._longest)
            tried = probe.tried.format(**fields) + (f"; at most {QUICK} frames of it" if quick else "")
            yield FrameBatch(GROUP, probe.name, tried, LazyFrames(partial(_frames, probe.build, targets)))


def _frames(build: Build, targets: Targets) -> Sequence[bytes]:
    """Return the frames of a batch in their order; in a quick run at most `QUICK` of them."""
    made = build(targets)
    frames = made if isinstance(made, Sequence) else tuple(made)
    if not targets.quick or len(frames) <= QUICK:
        return frames
    return tuple(frames[index] for index in sorted(targets.rng.sample(range(len(frames)), QUICK)))
