"""UDP ports, IP protocols and next headers: what answers, what is refused, and what says nothing."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proof.outside.sweeps import QUICK_PORTS, Sweeps, sample
from proof.result import Result, Verdict
from proof.scan.controls import ipv4_path, ipv6_path
from proof.scan.numbered import FRAGMENT, PIM, ROUTING, SPORTS, Protocols, TcpPorts, UdpPorts
from proof.scan.pace import CHUNK, CRAWL_WINDOW, Pace, RefusalControl, SynControl, Tally, clocked
from proof.scan.pace import SPORTS as CONTROL_SPORTS
from proof.scan.sweep import MAX_KEPT_ANSWERS, ranges, run_sweep, sweep_tcp
from proof.wire.craft import FramePath
from proof.wire.frame import IPV4, UDP, Frame, parse
from proof.wire.target import mac_bytes
from proof.wire.wire import StreamWire, WireError
from tests.unit.proof.simpeer import HOST_MAC, TARGET, Peer, Stack, ether, ipv4, ipv6, vm_stack, wired

V4, V6 = ipv4_path(TARGET), ipv6_path(TARGET)
PATHS = pytest.mark.parametrize("path", [V4, V6], ids=["ipv4", "ipv6"])
VM, TESTER = mac_bytes(TARGET.vm_mac), mac_bytes(TARGET.tester_mac)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.sweep.CLOSED_TIMEOUT", 0.05)


def sweeps(peer: Peer, path: FramePath, ports: range = range(400)) -> tuple[Result, Result]:
    """Return what the sweep of UDP ports and that of protocols found."""
    with wired(peer) as wire:
        results = Sweeps(wire, TARGET, path, random.Random(1), lambda what, done, of: None).run(ports)
    assert results[0].verdict is Verdict.SEALED or results[0].name.startswith("tcp")
    return results[1], results[2]


def vm(**deviations: object) -> Stack:
    stack = vm_stack()
    for name, value in deviations.items():
        setattr(stack, name, value)
    return stack


@PATHS
def test_refused_ports_and_protocols_are_sealed(path: FramePath) -> None:
    udp, protocols = sweeps(Peer([vm()]), path)
    assert (udp.verdict, protocols.verdict) == (Verdict.SEALED, Verdict.SEALED), (udp, protocols)
    assert udp.evidence.startswith("open: none; 400 closed, 0 silent, 0 untested")
    assert f"a datagram to 400 of 65,536 UDP ports of {path.dst_ip}" == udp.tried
    handled = (
        "0, 6, 17, 43-44, 58, 60, 136; 247 refused, 1 silent (59)" if path.is_ipv6 else "1, 6, 17, 136; 251 refused"
    )
    assert protocols.evidence.startswith(f"handled: {handled}")


@PATHS
def test_a_udp_service_is_a_hole_whether_it_speaks_or_not(path: FramePath) -> None:
    udp, _ = sweeps(Peer([vm(answers_udp={161})]), path)
    assert udp.verdict is Verdict.HOLE
    assert udp.evidence.startswith("unexpected open: 161.")
    assert len(udp.frames) == 1
    udp, _ = sweeps(Peer([vm(filtered={162})]), path)
    assert udp.verdict is Verdict.HOLE
    assert udp.evidence.startswith("accepted without an answer: 162.")


def test_an_answer_from_another_port_is_a_hole() -> None:
    def tftp(frame: Frame) -> list[bytes]:
        if frame.proto != UDP or frame.dport != 69 or frame.kind != IPV4:
            return []
        data = struct.pack("!HHHH", 40001, frame.sport or 0, 12, 0) + b"\0\5\0\1"
        return [ether(TESTER, VM, IPV4, ipv4(frame.ip_dst, frame.ip_src, UDP, data))]

    udp, _ = sweeps(Peer([vm()], extra=tftp), V4)
    assert udp.verdict is Verdict.HOLE
    assert "unexpected open: 40001" in udp.evidence


def test_refusals_that_are_rationed_accuse_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.pace.MIN_CONTROL_TIMEOUT", 0.05)
    udp, protocols = sweeps(Peer([vm(refuses=3)]), V4, range(100))
    assert udp.verdict is Verdict.NOT_TESTED
    assert protocols.verdict is Verdict.NOT_TESTED
    assert " 0 silent, " in udp.evidence


@PATHS
def test_where_nothing_is_refused_silence_proves_nothing_and_an_answer_still_does(path: FramePath) -> None:
    udp, protocols = sweeps(Peer([vm(refuses=0)]), path)
    assert (udp.verdict, protocols.verdict) == (Verdict.NOT_TESTED, Verdict.NOT_TESTED)
    assert "none of 8 random UDP ports reported that it is closed" in udp.control
    assert "0 closed, 0 silent, 400 untested" in udp.evidence
    assert sweeps(Peer([vm(refuses=0, answers_udp={161})]), path)[0].verdict is Verdict.HOLE


@PATHS
def test_a_foreign_protocol_is_a_hole_whether_it_speaks_or_not(path: FramePath) -> None:
    _, protocols = sweeps(Peer([vm(speaks={132})]), path)
    assert protocols.verdict is Verdict.HOLE
    assert protocols.evidence.startswith("unexpected handled: 132.")
    _, protocols = sweeps(Peer([vm(swallows={50, PIM})]), path)
    assert protocols.verdict is Verdict.HOLE
    assert protocols.evidence.startswith("accepted without an answer: 50.")  # and PIM is declared


@pytest.mark.parametrize(("path", "number"), [(V4, 1), (V6, FRAGMENT), (V6, 60)])
def test_a_protocol_that_must_be_handled_and_is_not_takes_the_proof_away(path: FramePath, number: int) -> None:
    class Deaf(Stack):
        def _answer_ip(self, frame: Frame) -> tuple[int, bytes]:
            if frame.raw[20 if path.is_ipv6 else 23] == number:
                return self._refuse(frame)
            return super()._answer_ip(frame)

    whole = vm_stack()
    _, protocols = sweeps(Peer([Deaf(whole.mac, whole.addresses, whole.open, refuses=1)]), path)
    assert protocols.verdict is Verdict.NOT_TESTED
    assert protocols.evidence.startswith(f"expected to be handled, but not: {number}.")


def test_extension_headers_are_read_through_to_what_they_carry() -> None:
    probe = Protocols(V6, random.Random(1), tcp_port=443, udp_port=40000)
    for number in (0, ROUTING, 60):
        echo = parse(probe.frame(number, 0), 0)
        assert (echo.raw[20], echo.proto, echo.icmp_type, echo.icmp_seq) == (number, 58, 128, number)
    assert probe.said(parse(probe.frame(60, 0), 0)) is None  # our own frame says nothing


def test_a_refusal_counts_only_for_what_was_sent_and_from_whom_it_was_sent_to() -> None:
    rng = random.Random(1)
    probe, protocols = UdpPorts(V4, rng), Protocols(V4, rng, tcp_port=443, udp_port=40000)

    def refusal(sport: int, *, mac: bytes = VM, quoted: str = TARGET.vm_ipv4, kind: int = 3, code: int = 3) -> Frame:
        own, its = socket.inet_aton(TARGET.tester_ipv4), socket.inet_aton(TARGET.vm_ipv4)
        inner = ipv4(own, socket.inet_aton(quoted), UDP, struct.pack("!HHHH", sport, 5000, 8, 0))
        body = struct.pack("!BBHI", kind, code, 0, 0) + inner
        return parse(ether(TESTER, mac, IPV4, ipv4(its, own, 1, body)), 0)

    sport = parse(probe.frame(5000, 3), 0).sport or 0
    assert probe.said(refusal(sport)) == (5000, False)
    assert probe.said(refusal(sport, mac=mac_bytes(HOST_MAC))) is None
    assert probe.said(refusal(sport, quoted="192.168.42.9")) is None
    assert probe.said(refusal(sport, code=13)) is None
    assert probe.said(refusal(sport, kind=11)) is None
    assert probe.said(refusal(19001)) is None
    assert protocols.said(refusal(sport)) == (UDP, True)
    assert protocols.said(refusal(sport, code=2)) == (UDP, False)
    assert protocols.said(refusal(sport, quoted="192.168.42.9")) is None


def test_a_segment_counts_only_as_the_answer_to_one_of_the_syns() -> None:
    probe = TcpPorts(V4, random.Random(1))
    syn = parse(probe.frame(22, 0), 0)

    def segment(flags: int, ack: int, mac: bytes = VM) -> Frame:
        own, its = socket.inet_aton(TARGET.tester_ipv4), socket.inet_aton(TARGET.vm_ipv4)
        body = struct.pack("!HHIIBBHHH", 22, syn.sport, 7, ack & 0xFFFFFFFF, 0x50, flags, 0, 0, 0)
        return parse(ether(TESTER, mac, IPV4, ipv4(its, own, 6, body)), 0)

    assert probe.said(segment(0x12, syn.seq + 1)) == (22, True)
    assert probe.said(segment(0x14, syn.seq + 1)) == (22, False)
    assert probe.said(segment(0x12, syn.seq)) is None
    assert probe.said(segment(0x04, syn.seq + 1)) is None  # an RST that acknowledges nothing
    assert probe.said(segment(0x10, syn.seq + 1)) is None  # a challenge, neither here nor there
    assert probe.said(segment(0x12, syn.seq + 1, mac=mac_bytes(HOST_MAC))) is None


def test_a_next_header_is_refused_only_where_ours_stands() -> None:
    probe = Protocols(V6, random.Random(1), tcp_port=443, udp_port=40000)

    def problem(number: int, pointer: int, code: int = 1) -> Frame:
        own, its = (socket.inet_pton(socket.AF_INET6, address) for address in (TARGET.tester_ipv6, TARGET.vm_ipv6))
        body = struct.pack("!BBHI", 4, code, 0, pointer) + ipv6(own, its, number, bytes(16))
        return parse(ether(TESTER, VM, 0x86DD, ipv6(its, own, 58, body)), 0)

    assert probe.said(problem(200, 6)) == (200, False)
    assert probe.said(problem(60, 40)) == (60, True)  # what the header carries is refused: the header was read
    assert probe.said(problem(60, 42, 2)) == (60, True)


@PATHS
def test_every_attempt_is_another_frame_and_no_control(path: FramePath) -> None:
    rng = random.Random(1)
    for probe in (TcpPorts(path, rng), UdpPorts(path, rng), Protocols(path, rng, tcp_port=443, udp_port=40000)):
        assert len({probe.frame(6, attempt) for attempt in range(6)}) == 6
    assert not set(SPORTS) & set(CONTROL_SPORTS)


def test_a_quick_run_asks_what_is_named_and_says_how_little_it_asked() -> None:
    always = {22, 443, 7000, 70000}
    ports = sample(range(65536), always, random.Random(1))
    assert QUICK_PORTS <= len(ports) <= QUICK_PORTS + 3
    assert always & set(ports) == {22, 443, 7000}
    assert ports != sample(range(65536), always, random.Random(2))
    assert sample(range(10), always, random.Random(1)) == list(range(10))


def test_a_hostile_peer_fills_no_memory() -> None:
    with wired(Peer([vm(open=set(range(1000)))])) as wire, wire.tap() as tap:
        found = sweep_tcp(wire, tap, V4, 443, range(500), rng=random.Random(1))
    assert len(found.open) == 500
    assert len(found.frames) == MAX_KEPT_ANSWERS


@contextmanager
def deaf_after(count: int) -> Iterator[StreamWire]:
    """A wire whose far end stops answering after so many frames."""
    stack, heard = vm_stack(), iter(range(10**9))
    heard_all: Callable[[Frame], list[bytes]] = lambda frame: (  # noqa: E731
        [reply] if next(heard) < count and (reply := stack.answer(frame)) is not None else []
    )
    with wired(Peer([], extra=heard_all)) as wire:
        yield wire


def test_a_far_end_that_falls_silent_leaves_the_rest_untested() -> None:
    with deaf_after(300) as wire, wire.tap() as tap:
        found = sweep_tcp(wire, tap, V4, 443, range(1000, 5000), rng=random.Random(1), deadline=20)
    assert not found.silent
    assert len(found.untested) == 4000 - len(found.closed)
    assert found.seconds < 10


def test_a_wire_that_dies_ends_the_sweep() -> None:
    near, far = socket.socketpair()
    threading.Timer(0.2, far.close).start()
    with StreamWire(near) as wire, wire.tap() as tap, pytest.raises(WireError):
        sweep_tcp(wire, tap, V4, 443, range(100), rng=random.Random(1))


def test_the_window_finds_a_fast_peer_and_spares_a_lossy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.pace.MIN_CONTROL_TIMEOUT", 0.5)

    def window(loss: float) -> tuple[Pace, Tally]:
        pace, rng = Pace(), random.Random(1)
        frames = [TcpPorts(V4, rng).frame(port, 0) for port in range(200 * CHUNK)]
        with wired(Peer([vm()], loss=loss)) as wire, wire.tap() as tap:
            tally = clocked(wire, tap, frames, SynControl(V4, 443, rng), pace, lambda frame: None)
        return pace, tally

    fast, tally = window(0)
    assert tally == Tally(201, 201)
    assert fast.window > 8
    lossy, tally = window(0.1)
    assert 0.02 < tally.loss < 0.3
    assert not tally.clean
    assert lossy.window < fast.window


def test_a_batch_that_the_deadline_cut_short_is_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.pace.MIN_CONTROL_TIMEOUT", 2)
    rng = random.Random(1)
    frames, control = [TcpPorts(V4, rng).frame(1, 0)] * 200_000, SynControl(V4, 443, rng)
    with wired(Peer([vm()])) as wire, wire.tap() as tap:
        until = time.monotonic() + 0.5
        tally = clocked(wire, tap, frames, control, Pace(limit=4), lambda frame: None, deadline=until)
    assert tally.sent == tally.answered > 0
    assert not tally.whole
    assert not tally.clean


def losing(is_lost: Callable[[Frame], bool]) -> Peer:
    """A peer that never hears the frames that a test picks."""
    stack = vm_stack()

    def reply(frame: Frame) -> list[bytes]:
        answer = None if is_lost(frame) else stack.answer(frame)
        return [] if answer is None else [answer]

    return Peer([], extra=reply)


def test_what_loss_may_explain_is_not_called_silent() -> None:
    # Every control is answered. That port 7 was lost three times in a row is still the likelier story.
    asked = Counter[int | None]()

    def is_lost(frame: Frame) -> bool:
        asked[frame.dport] += 1
        return frame.dport == 7 and asked[7] <= 3

    rng = random.Random(1)
    with wired(losing(is_lost)) as wire, wire.tap() as tap:
        control = RefusalControl(V4, 40000, rng)
        found = run_sweep(wire, tap, UdpPorts(V4, rng), range(300), control=control, rng=rng, min_misses=1)
    assert (found.silent, found.untested, len(found.closed)) == (set(), set(), 300)
    assert Tally(1000, 1000).loss < 0.001 < Tally(30, 30).loss


def test_a_wire_that_loses_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.pace.MIN_CONTROL_TIMEOUT", 0.02)
    asked, rng = Counter[int | None](), random.Random(1)

    def is_lost(frame: Frame) -> bool:
        asked[frame.dport] += frame.flags == 2
        return (frame.dport or 0) >= 2000 or (frame.dport == 443 and frame.flags == 2 and asked[443] % 4 == 0)

    crawling = Pace(window=CRAWL_WINDOW, limit=CRAWL_WINDOW)  # how soon it would come to that depends on the machine
    with wired(losing(is_lost)) as wire, wire.tap() as tap:
        control = SynControl(V4, 443, rng)
        found = run_sweep(wire, tap, TcpPorts(V4, rng), range(3000), control=control, rng=rng, pace=crawling)
    assert found.untested >= set(range(2000, 3000))
    assert not found.silent
    assert {asked[port] for port in range(2000, 3000)} == {1}  # of `ATTEMPTS`


def test_a_lost_control_is_missed_by_the_answers_of_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.pace.MIN_CONTROL_TIMEOUT", 1.5)
    cuts, asked, rng = list[float](), Counter[int | None](), random.Random(1)
    monkeypatch.setattr("proof.scan.pace.Pace.lost", lambda pace: cuts.append(time.monotonic()))

    def is_lost(frame: Frame) -> bool:
        asked[frame.dport] += frame.flags == 2
        return frame.dport == 443 and frame.flags == 2 and asked[443] == 20

    frames = [TcpPorts(V4, rng).frame(1, 0)] * 1500
    with wired(losing(is_lost)) as wire, wire.tap() as tap:
        began = time.monotonic()
        tally = clocked(wire, tap, frames, SynControl(V4, 443, rng), Pace(), lambda frame: None)
    assert (tally.sent - tally.answered, len(cuts)) == (1, 1)
    assert cuts[0] - began < 1


def test_ranges() -> None:
    assert ranges({5, 1, 2, 3}) == "1-3, 5"
    assert ranges(()) == "none"
    assert ranges(range(0, 40, 2)).endswith("and 8 more")
