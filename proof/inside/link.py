"""Probes from a root shell in the VM over the link: on the host, only the backend's port may answer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

from scapy.layers.inet import ICMP, IP, UDP, IPOption_LSRR
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from proof.progress import Progress
from proof.result import Result, Verdict
from proof.scan.controls import ControlProbe, arp_control, run_controls, send_until_answered, syn_control
from proof.scan.frame_batch import FrameBatch, send_batch
from proof.scan.pace import Pace, SynControl
from proof.scan.ports import GENERIC, TCP_PORTS, UDP_PAYLOADS
from proof.scan.sweep import sweep_tcp
from proof.scan.sweep_result import sweep_result
from proof.wire import frame as fr
from proof.wire.craft import FramePath, arp_request, neighbour_solicit, ping, tagged, tcp_syn, udp
from proof.wire.frame import Frame
from proof.wire.judge import LinkJudge
from proof.wire.target import BROADCAST, LinkTarget, eui64
from proof.wire.wire import Wire, WireError

GROUP = "link"
SPORT = 19002
SPOOF_SPORT = 19003
ARP_TIMEOUT = 10.0
MAX_SILENT_ERROR = 1e-3
"""Greatest probability that an open port is taken for a filtered one; a smaller one costs time for 65,535 ports."""


class LinkProbeCatalogue:
    """Builds the batches of frames over the link; ``path`` leads from the VM's link address to the host's."""

    def __init__(self, target: LinkTarget, path: FramePath, rng: random.Random) -> None:
        self.target, self.path, self.rng = target, path, rng
        self.macs = [path.dst_mac, BROADCAST, *target.host_macs.values()]
        self.v6 = FramePath(path.src_mac, path.dst_mac, eui64(path.src_mac), eui64(path.dst_mac))

    def batches(self, udp_ports: range) -> Iterator[tuple[FrameBatch, bool]]:
        """Yield the batches, each with whether a refusal (RST, ICMP unreachable) is allowed as an answer."""
        host = self.path.dst_ip
        for name, tried, frames, closed_ok in (
            ("udp-all-ports", f"UDP to {len(udp_ports)} ports of {host}", self.udps(udp_ports), True),
            ("icmp", f"echo, timestamp and mask requests to {host} and to all hosts", self.icmp(), False),
            ("arp", "ARP for addresses that are not the host's on the link, and from false senders", self.arp(), False),
            ("ipv6", "ND, ping, router solicitation and SYN over IPv6, unicast and all nodes", self.ipv6(), False),
            ("elsewhere", "ping, SYN and UDP to other addresses of the host through the link", self.elsewhere(), False),
            ("spoofed", "SYN to the backend's port from false addresses and MACs", self.spoofed(), False),
            (
                "ethertypes",
                "VLAN tags and EtherTypes that are neither IP nor ARP, foreign IP protocols",
                self.others(),
                True,
            ),
        ):
            yield FrameBatch(GROUP, name, tried, tuple(frames)), closed_ok

    def udps(self, ports: range) -> Iterator[bytes]:
        """Return a datagram to each port, and requests to the ports of known services."""
        for port in self.rng.sample(ports, len(ports)):
            yield udp(self.path, SPORT, port, GENERIC)
        for port, payload in UDP_PAYLOADS.items():
            yield udp(self.path, SPORT, port, payload)

    def icmp(self) -> Iterator[bytes]:
        """Return ICMP requests to the host's address, broadcast and all-hosts, at each MAC."""
        for mac in self.macs:
            for address in (self.path.dst_ip, "255.255.255.255", "224.0.0.1"):
                path = self.path.to(mac=mac, ip=address)
                yield ping(path, self.rng.getrandbits(16), 1)
                yield bytes(path.layers() / ICMP(type=13))
                yield bytes(path.layers() / ICMP(type=17))

    def arp(self) -> Iterator[bytes]:
        """Return ARP requests for other addresses, and for the host's from senders outside the link's network."""
        for address in (*self.target.other_ipv4, "0.0.0.0", "255.255.255.255", "192.168.42.1", "10.0.0.1"):
            for mac in self.macs:
                yield arp_request(self.path.to(ip=address), ethernet_dst=mac)
        for asker in ("10.9.8.7", "192.168.42.77", "127.0.0.1"):
            yield arp_request(FramePath(self.path.src_mac, BROADCAST, asker, self.path.dst_ip))

    def ipv6(self) -> Iterator[bytes]:
        """Return IPv6 frames of all kinds: the link has only IPv4."""
        for mac in (self.path.dst_mac, *self.target.host_macs.values()):
            path = self.v6.to(ip=eui64(mac))
            yield neighbour_solicit(path)
            yield neighbour_solicit(path, multicast=False)
            yield ping(path, self.rng.getrandbits(16), 1)
            for port in TCP_PORTS:
                yield tcp_syn(path, SPORT, port, self.rng.getrandbits(32))
            for port, payload in UDP_PAYLOADS.items():
                yield udp(path, SPORT, port, payload)
        for dst, group in (("33:33:00:00:00:01", "ff02::1"), ("33:33:00:00:00:02", "ff02::2")):
            base = Ether(src=self.path.src_mac, dst=dst) / IPv6(src=self.v6.src_ip, dst=group, hlim=255)
            yield bytes(base / ICMPv6EchoRequest(id=self.rng.getrandbits(16)))
            yield bytes(base / ICMPv6ND_RS())

    def elsewhere(self) -> Iterator[bytes]:
        """Return frames to other addresses that the host may have, and source routes to them."""
        for address in (*self.target.other_ipv4, "169.254.254.0", "0.0.0.0"):
            for mac in self.macs:
                path = self.path.to(mac=mac, ip=address)
                yield ping(path, self.rng.getrandbits(16), 1)
                yield ping(path, self.rng.getrandbits(16), 1, 1)
                yield udp(path, SPORT, 33434, GENERIC)
                for port in TCP_PORTS:
                    yield tcp_syn(path, SPORT, port, self.rng.getrandbits(32))
            ether = Ether(src=self.path.src_mac, dst=self.path.dst_mac)
            route = IP(src=self.path.src_ip, dst=self.path.dst_ip, options=[IPOption_LSRR(routers=[address])])
            yield bytes(ether / route / ICMP(id=9))

    def spoofed(self) -> Iterator[bytes]:
        """Yield SYNs with false sources. An answer is recognised by its destination port (`_SpoofJudge`)."""
        host, own = self.path.dst_ip, self.path.src_ip
        for address in (host, "127.0.0.1", "10.0.0.1", "192.168.42.2", "169.254.254.3", "255.255.255.255", "0.0.0.0"):
            path = FramePath(self.path.src_mac, self.path.dst_mac, address, host)
            for port in sorted(self.target.tcp_open):
                yield tcp_syn(path, SPOOF_SPORT, port, self.rng.getrandbits(32))
            yield udp(path, SPOOF_SPORT, 53, GENERIC)
        # Not the host's own MAC on the link: a bridge would learn it here and keep the controls from the host.
        for mac in ("02:00:00:00:00:07", "02:00:00:00:00:08", *self.target.host_macs.values()):
            for port in sorted(self.target.tcp_open):
                # From a source port of its own each, as a half-open connection would hide the next answer.
                sport = SPOOF_SPORT + 1 + self.rng.randrange(900)
                yield tcp_syn(FramePath(mac, self.path.dst_mac, own, host), sport, port, self.rng.getrandbits(32))

    def others(self) -> Iterator[bytes]:
        """Yield tagged frames, other EtherTypes and other IP protocols."""
        plain = (ping(self.path, 7, 1), arp_request(self.path), tcp_syn(self.path, SPORT, 22, 1))
        for vid in (0, 1, 42, 4094):
            for frame in plain[0 if vid else 2 :]:  # VLAN 0 is no VLAN: only what must not answer at all
                yield tagged(frame, vid)
                yield tagged(frame, vid, 0x88A8)
        for mac in (*self.macs, "01:80:c2:00:00:00", "01:80:c2:00:00:0e"):
            for kind in (
                0x88CC,
                0x8809,
                0x888E,
                0x8863,
                0x9000,
                0x8902,
                0x88A2,
                *self.rng.sample(range(0x600, 0x800), 8),
            ):
                yield bytes(Ether(src=self.path.src_mac, dst=mac, type=kind) / Raw(self.rng.randbytes(46)))
        ether = Ether(src=self.path.src_mac, dst=self.path.dst_mac)
        for proto in (
            2,
            4,
            33,
            41,
            47,
            50,
            51,
            89,
            103,
            112,
            132,
            255,
        ):  # IGMP, tunnels, DCCP, ESP, OSPF, VRRP, SCTP...
            yield bytes(ether / IP(src=self.path.src_ip, dst=self.path.dst_ip, proto=proto) / Raw(bytes(24)))
        yield bytes(ether / IP(src=self.path.src_ip, dst=self.path.dst_ip) / UDP(sport=7000, dport=7000) / Raw(GENERIC))


class _SpoofJudge:
    """The link's judge, for which every TCP answer to a port of `LinkProbeCatalogue.spoofed` is an offence too."""

    def __init__(self, judge: LinkJudge) -> None:
        self._judge = judge

    def __call__(self, frame: Frame) -> str | None:
        if frame.dport is not None and SPOOF_SPORT <= frame.dport < 20000 and frame.proto == fr.TCP:
            return f"TCP answer to a false sender (flags 0x{frame.flags:02x})"
        return self._judge(frame)


def _host_mac(wire: Wire, target: LinkTarget, vm_mac: str) -> tuple[str | None, Result]:
    """Return the host's MAC, learnt by ARP, or None; and the result, which is the first control."""
    began = time.monotonic()
    path = FramePath(vm_mac, BROADCAST, target.vm_ipv4, target.host_ipv4)
    probe = arp_control(path)

    def match(frame: Frame) -> bool:
        return frame.arp_op == fr.ARP_REPLY and frame.ip_src == bytes(map(int, target.host_ipv4.split(".")))

    try:
        with wire.tap() as tap:
            asked = ControlProbe(probe.name, probe.tried, probe.frame, match)
            frame, tries = send_until_answered(wire, tap, asked, timeout=ARP_TIMEOUT)
        said = f"no answer to {tries} tries" if frame is None else f"answered by {frame.arp_hw.hex(':')}"
    except WireError as error:
        frame, said = None, f"wire failed: {error}"
    verdict = Verdict.CONTROL if frame else Verdict.NOT_TESTED
    result = Result(
        "link-controls", "arp", probe.tried, verdict, said, "is itself the control", time.monotonic() - began
    )
    return (frame.arp_hw.hex(":") if frame else None), result


def run_inside(
    wire: Wire,
    target: LinkTarget,
    *,
    vm_mac: str,
    seed: int,
    progress: Progress | None = None,
    tcp_ports: range = range(65536),
    udp_ports: range = range(65536),
) -> list[Result]:
    """Run all probes over the link; ``wire`` is on the VM's NIC ``link``, whose MAC is ``vm_mac`` (`SshWire.mac`).

    Never raises for what the far end does. Without the host's ARP answer nothing can be tested and the list says so.
    """
    rng = random.Random(seed)
    say = progress or (lambda what, done, of: None)
    host_mac, learned = _host_mac(wire, target, vm_mac)
    results = [learned]
    if host_mac is None:
        tried = f"everything that may answer at {target.host_ipv4}"
        return [
            *results,
            Result(GROUP, "all", tried, Verdict.NOT_TESTED, "the host's MAC is unknown", "no ARP answer", 0),
        ]
    path = FramePath(vm_mac, host_mac, target.vm_ipv4, target.host_ipv4)
    syns = [syn_control(path, port, rng) for port in sorted(target.tcp_open)]
    results += run_controls(wire, syns, group="link-controls")
    results.append(_sweep(wire, target, path, rng, say, tcp_ports))
    control, pace = SynControl(path, target.control_port, rng), Pace()
    strict = LinkJudge(target, vm_mac, host_mac)
    tolerant = LinkJudge(target, vm_mac, host_mac, tolerate_closed=True)

    def bracket() -> Sequence[ControlProbe]:
        return (arp_control(path),)

    for batch, closed_ok in LinkProbeCatalogue(target, path, rng).batches(udp_ports):
        say(batch.name, 0, len(batch.frames))
        judge = _SpoofJudge(strict) if batch.name == "spoofed" else tolerant if closed_ok else strict
        results.append(send_batch(wire, batch, control=control, bracket=bracket, judge=judge, pace=pace))
        say(batch.name, len(batch.frames), len(batch.frames))
    return results


def _sweep(wire: Wire, target: LinkTarget, path: FramePath, rng: random.Random, say: Progress, ports: range) -> Result:
    name, began = "tcp-all-ports", time.monotonic()
    try:
        with wire.tap() as tap:
            sweep = sweep_tcp(
                wire,
                tap,
                path,
                target.control_port,
                ports,
                rng=rng,
                min_misses=1 if target.silent_ok else 2,
                max_error=MAX_SILENT_ERROR if target.silent_ok else None,
                progress=lambda done, of: say(name, done, of),
            )
    except WireError as error:
        tried, took = f"SYN to every TCP port of {path.dst_ip}", time.monotonic() - began
        return Result(GROUP, name, tried, Verdict.NOT_TESTED, f"wire failed: {error}", "none", took)
    return sweep_result(GROUP, name, sweep, target.tcp_open, silent_ok=target.silent_ok)
