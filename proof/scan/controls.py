"""Positive controls of the management port: what must answer does, by the same path as every negative probe."""

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
class Question:
    """A frame, and how to know its answer."""

    name: str
    tried: str
    frame: bytes
    match: Match
    reset: Callable[[Frame], bytes] | None = None


def ask(wire: Wire, tap: Tap, question: Question, *, timeout: float, retry: float = 0.5) -> tuple[Frame | None, int]:
    """Send until answered or ``timeout`` seconds are over; return the answer and how often was asked."""
    deadline, tries = time.monotonic() + timeout, 0
    while (now := time.monotonic()) < deadline:
        # A machine that still boots takes nothing from its wire; frames piled up there would only block us.
        if wire.writable():
            wire.send(question.frame)
            tries += 1
        until = min(now + retry, deadline)
        retry = min(retry * 1.2, 1.0)
        while (left := until - time.monotonic()) > 0:
            for frame in tap.take(left):
                if question.match(frame):
                    if question.reset is not None:
                        wire.send(question.reset(frame))
                    return frame, tries
    return None, tries


def ipv4_path(target: Target) -> FramePath:
    """Return the path from the tester to the VM over IPv4."""
    return FramePath(target.tester_mac, target.vm_mac, target.tester_ipv4, target.vm_ipv4)


def ipv6_path(target: Target) -> FramePath:
    """Return the path from the tester to the VM over IPv6 link-local addresses."""
    return FramePath(target.tester_mac, target.vm_mac, target.tester_ipv6, target.vm_ipv6)


def arp_question(path: FramePath) -> Question:
    """Return the ARP question for the path's destination."""
    mac, address = mac_bytes(path.dst_mac), inet_aton(path.dst_ip)

    def match(frame: Frame) -> bool:
        return frame.arp_op == fr.ARP_REPLY and frame.ip_src == address and frame.arp_hw == mac == frame.src

    return Question("arp", f"ARP who-has {path.dst_ip}", arp_request(path), match)


def nd_question(path: FramePath) -> Question:
    """Return the neighbour solicitation for the path's destination."""
    mac, address = mac_bytes(path.dst_mac), inet_pton(AF_INET6, path.dst_ip)

    def match(frame: Frame) -> bool:
        return frame.icmp_type == fr.NEIGHBOUR_ADVERT and frame.nd_target == address and frame.src == mac

    return Question("nd", f"neighbour solicitation for {path.dst_ip}", neighbour_solicit(path), match)


def ping_question(path: FramePath, rng: random.Random) -> Question:
    """Return an echo request of the path's family with a random identifier."""
    ident, seq, mac = rng.getrandbits(16), rng.getrandbits(16), mac_bytes(path.dst_mac)
    reply = 129 if path.is_ipv6 else 0

    def match(frame: Frame) -> bool:
        return (frame.icmp_type, frame.icmp_id, frame.icmp_seq, frame.src) == (reply, ident, seq, mac)

    family = "ipv6" if path.is_ipv6 else "ipv4"
    return Question(f"ping-{family}", f"echo request to {path.dst_ip}", ping(path, ident, seq), match)


def syn_question(path: FramePath, port: int, rng: random.Random) -> Question:
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

    return Question(
        f"tcp-{port}", f"TCP SYN to {path.dst_ip} port {port}", tcp_syn(path, sport, port, seq), match, reset
    )


def run_questions(
    wire: Wire, questions: list[Question], *, group: str = "controls", timeout: float = 10
) -> list[Result]:
    """Ask each question and return one result each."""
    results = []
    for question in questions:
        began = time.monotonic()
        try:
            with wire.tap() as tap:
                frame, tries = ask(wire, tap, question, timeout=timeout)
            said = f"answered by {frame.src.hex(':')}" if frame else f"no answer to {tries} tries in {timeout:.0f} s"
        except WireError as error:
            frame, tries, said = None, 0, f"wire failed: {error}"
        verdict = Verdict.CONTROL if frame else Verdict.NOT_TESTED
        took = time.monotonic() - began
        evidence = f"{said} after {took * 1000:.0f} ms, {tries} tries" if frame else said
        results.append(Result(group, question.name, question.tried, verdict, evidence, "is itself the control", took))
    return results


def port_questions(target: Target, rng: random.Random) -> list[Question]:
    """Return every positive control of the management port."""
    v4, v6 = ipv4_path(target), ipv6_path(target)
    syns = [syn_question(v4, port, rng) for port in sorted(target.tcp_open)]
    return [arp_question(v4), nd_question(v6), ping_question(v4, rng), ping_question(v6, rng), *syns]


def wait_until_up(wire: Wire, target: Target, deadline: float = 180.0, *, seed: int = 0) -> float:
    """Wait until the VM answers ARP and a SYN to its control port; return the seconds that it took.

    `WireError` when it has not after ``deadline`` seconds.
    """
    began, rng = time.monotonic(), random.Random(seed)
    wire.wait_connected(deadline)
    path = ipv4_path(target)
    with answering(wire, target), wire.tap() as tap:
        for question in (arp_question(path), syn_question(path, target.control_port, rng)):
            left = deadline - (time.monotonic() - began)
            frame, tries = ask(wire, tap, question, timeout=max(left, 0), retry=0.25)
            if frame is None:
                raise WireError(f"no answer to {question.tried} ({tries} tries in {deadline:.0f} s)")
    return time.monotonic() - began
