"""Positive controls: frames that the VM must answer, sent by the same path as every negative probe."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from socket import AF_INET6, inet_aton, inet_pton

from proof.result import Result, Verdict
from proof.wire import frame as fr
from proof.wire.craft import FramePath, arp_request, neighbour_solicit, ping, tcp_reset, tcp_syn
from proof.wire.frame import Frame
from proof.wire.neighbour import answering
from proof.wire.target import Target, mac_bytes
from proof.wire.wire import Tap, Wire, WireError

Match = Callable[[Frame], bool]


@dataclass(frozen=True)
class ControlProbe:
    """A frame that must be answered, and how to recognise its answer.

    ``reset``, if there is one, makes the frame that frees the state that an answer shows at the far end.
    """

    name: str
    tried: str
    frame: bytes
    match: Match
    reset: Callable[[Frame], bytes] | None = None


def send_until_answered(
    wire: Wire, tap: Tap, probe: ControlProbe, *, timeout: float, retry: float = 0.5
) -> tuple[Frame | None, int]:
    """Send ``probe`` until it is answered or ``timeout`` seconds are over; return the answer and the number of tries.

    Args:
        wire, tap: where the frame goes, and where the answer comes from.
        probe: what is sent.
        timeout: seconds in all.
        retry: seconds until the second try; each further one waits longer, up to 1 s.

    Raises:
        WireError: the wire died.
    """
    deadline, tries = time.monotonic() + timeout, 0
    while (now := time.monotonic()) < deadline:
        # A machine that is booting reads nothing from its wire: frames queued there would block this thread.
        if wire.writable():
            wire.send(probe.frame)
            tries += 1
        until = min(now + retry, deadline)
        retry = min(retry * 1.2, 1.0)
        while (left := until - time.monotonic()) > 0:
            for frame in tap.take(left):
                if probe.match(frame):
                    if probe.reset is not None:
                        wire.send(probe.reset(frame))
                    return frame, tries
    return None, tries


def ipv4_path(target: Target) -> FramePath:
    """Return the path from the tester to the VM over IPv4."""
    return FramePath(target.tester_mac, target.vm_mac, target.tester_ipv4, target.vm_ipv4)


def ipv6_path(target: Target) -> FramePath:
    """Return the path from the tester to the VM over IPv6 link-local addresses."""
    return FramePath(target.tester_mac, target.vm_mac, target.tester_ipv6, target.vm_ipv6)


def arp_control(path: FramePath) -> ControlProbe:
    """Return the ARP request for the path's destination."""
    mac, address = mac_bytes(path.dst_mac), inet_aton(path.dst_ip)

    def match(frame: Frame) -> bool:
        return frame.arp_op == fr.ARP_REPLY and frame.ip_src == address and frame.arp_hw == mac == frame.src

    return ControlProbe("arp", f"ARP who-has {path.dst_ip}", arp_request(path), match)


def nd_control(path: FramePath) -> ControlProbe:
    """Return the neighbour solicitation for the path's destination."""
    mac, address = mac_bytes(path.dst_mac), inet_pton(AF_INET6, path.dst_ip)

    def match(frame: Frame) -> bool:
        return frame.icmp_type == fr.NEIGHBOUR_ADVERT and frame.nd_target == address and frame.src == mac

    return ControlProbe("nd", f"neighbour solicitation for {path.dst_ip}", neighbour_solicit(path), match)


def ping_control(path: FramePath, rng: random.Random) -> ControlProbe:
    """Return an echo request of the path's family with a random identifier."""
    ident, seq, mac = rng.getrandbits(16), rng.getrandbits(16), mac_bytes(path.dst_mac)
    reply = 129 if path.is_ipv6 else 0

    def match(frame: Frame) -> bool:
        return (frame.icmp_type, frame.icmp_id, frame.icmp_seq, frame.src) == (reply, ident, seq, mac)

    family = "ipv6" if path.is_ipv6 else "ipv4"
    return ControlProbe(f"ping-{family}", f"echo request to {path.dst_ip}", ping(path, ident, seq), match)


def syn_control(path: FramePath, port: int, rng: random.Random) -> ControlProbe:
    """Return a SYN to a port that must be open."""
    sport, seq, mac = rng.randrange(61000, 65000), rng.getrandbits(32), mac_bytes(path.dst_mac)

    def match(frame: Frame) -> bool:
        return (
            (frame.proto, frame.sport, frame.dport, frame.src) == (fr.TCP, port, sport, mac)
            and bool(frame.flags & fr.SYN)
            and frame.is_answer_to_syn(seq)
        )

    def reset(frame: Frame) -> bytes:
        return tcp_reset(path, sport, port, frame.ack)

    return ControlProbe(
        f"tcp-{port}", f"TCP SYN to {path.dst_ip} port {port}", tcp_syn(path, sport, port, seq), match, reset
    )


def run_controls(
    wire: Wire, probes: list[ControlProbe], *, group: str = "controls", timeout: float = 10
) -> list[Result]:
    """Send each control and return one result each: `Verdict.CONTROL`, or not tested after ``timeout`` seconds."""
    results = []
    for probe in probes:
        began = time.monotonic()
        try:
            with wire.tap() as tap:
                frame, tries = send_until_answered(wire, tap, probe, timeout=timeout)
            said = f"answered by {frame.src.hex(':')}" if frame else f"no answer to {tries} tries in {timeout:.0f} s"
        except WireError as error:
            frame, tries, said = None, 0, f"wire failed: {error}"
        verdict = Verdict.CONTROL if frame else Verdict.NOT_TESTED
        took = time.monotonic() - began
        evidence = f"{said} after {took * 1000:.0f} ms, {tries} tries" if frame else said
        results.append(Result(group, probe.name, probe.tried, verdict, evidence, "is itself the control", took))
    return results


def port_controls(target: Target, rng: random.Random) -> list[ControlProbe]:
    """Return every positive control of the management port."""
    v4, v6 = ipv4_path(target), ipv6_path(target)
    syns = [syn_control(v4, port, rng) for port in sorted(target.tcp_open)]
    return [arp_control(v4), nd_control(v6), ping_control(v4, rng), ping_control(v6, rng), *syns]


def wait_until_up(wire: Wire, target: Target, deadline: float = 180.0, *, seed: int = 0) -> float:
    """Wait until the VM answers ARP and a SYN to its control port; return the seconds that it took.

    `WireError` when it has not after ``deadline`` seconds.
    """
    began, rng = time.monotonic(), random.Random(seed)
    wire.wait_connected(deadline)
    path = ipv4_path(target)
    with answering(wire, target), wire.tap() as tap:
        for probe in (arp_control(path), syn_control(path, target.control_port, rng)):
            left = deadline - (time.monotonic() - began)
            frame, tries = send_until_answered(wire, tap, probe, timeout=max(left, 0), retry=0.25)
            if frame is None:
                raise WireError(f"no answer to {probe.tried} ({tries} tries in {deadline:.0f} s)")
    return time.monotonic() - began
