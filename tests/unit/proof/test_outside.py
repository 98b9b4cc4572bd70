"""The probes at the port against a sealed appliance, and against each way of not being one."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import pytest

from proof.inside.spoof import run_spoof
from proof.outside.catalogue import ProbeCatalogue
from proof.outside.passive import passive
from proof.outside.run import run_outside
from proof.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict, exit_code
from proof.scan.controls import arp_control, ipv4_path, wait_until_up
from proof.scan.frame_batch import send_batch
from proof.scan.pace import Pace, SynControl
from proof.scan.sweep import sweep_tcp
from proof.scan.sweep_result import sweep_result
from proof.wire.frame import Frame
from proof.wire.frame_log import FrameLog
from proof.wire.judge import PortJudge
from proof.wire.neighbour import answer
from proof.wire.target import mac_bytes
from proof.wire.wire import StreamWire, WireError
from tests.unit.proof.simpeer import HOST_MAC, TARGET, Peer, Stack, arp_reply, ether, ipv4, vm_stack, wired

VM, HOST, TESTER = mac_bytes(TARGET.vm_mac), mac_bytes(HOST_MAC), mac_bytes(TARGET.tester_mac)
LINK = socket.inet_aton("169.254.254.1")


def outside(peer: Peer, ports: range = range(700)) -> dict[str, Result]:
    with wired(peer, FrameLog(PortJudge(TARGET))) as wire:
        results = run_outside(wire, TARGET, seed=1, ports=ports, quick=True)
    return {result.name: result for result in results}


def batch(peer: Peer, name: str, *, controls: int = 443) -> Result:
    rng = random.Random(1)
    path, judge = ipv4_path(TARGET), PortJudge(TARGET)
    probe = next(v for v in ProbeCatalogue(TARGET, rng).batches() if v.name == name)
    with wired(peer) as wire:
        control = SynControl(path, controls, rng)
        return send_batch(wire, probe, control=control, bracket=lambda: [arp_control(path)], judge=judge, pace=Pace())


def sweep(peer: Peer, *, silent_ok: bool = False, ports: range = range(2000)) -> Result:
    with wired(peer) as wire, wire.tap() as tap:
        path = ipv4_path(TARGET)
        found = sweep_tcp(wire, tap, path, 443, ports, rng=random.Random(1), deadline=1)
    return sweep_result("port", "sweep", found, TARGET.tcp_open, silent_ok=silent_ok)


def test_a_sealed_appliance_is_sealed() -> None:
    results = outside(Peer([vm_stack()]))
    assert exit_code(results.values()) == EXIT_SEALED, [r for r in results.values() if r.verdict != Verdict.SEALED]
    assert "open: 22, 443; 698 closed" in results["tcp-ipv4-all-ports"].evidence


def test_every_frame_of_a_batch_is_sent() -> None:
    peer = Peer([vm_stack()])
    assert batch(peer, "tcp-ipv4").verdict is Verdict.SEALED
    probe = next(v for v in ProbeCatalogue(TARGET, random.Random(1)).batches() if v.name == "tcp-ipv4")
    assert len(probe.frames) > 1000
    assert [peer.heard[frame] for frame in probe.frames] == [1] * len(probe.frames)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.168.42.9", "arp-prefix"),
        ("169.254.254.1", "arp-elsewhere"),
        ("fe80::5054:ff:fe00:1", "nd"),
        ("169.254.254.1", "ping"),
        ("169.254.254.1", "tcp-ipv4"),
        ("fe80::5054:ff:fe00:1", "tcp-ipv6"),
        ("192.168.42.9", "prefix"),
    ],
)
def test_a_host_that_answers_is_a_hole(address: str, name: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    result = batch(Peer([vm_stack(), Stack(HOST, {socket.inet_pton(family, address)})]), name)
    assert result.verdict is Verdict.HOLE
    assert "(mgmt0) is not the VM's" in result.evidence
    assert any(HOST_MAC in line for line in result.frames)


def test_a_udp_service_of_the_host_is_a_hole() -> None:
    assert batch(Peer([vm_stack(), Stack(HOST, {LINK}, answers_udp={161})]), "udp-ipv4").verdict is Verdict.HOLE


def test_a_vm_that_answers_for_its_link_address_is_a_hole() -> None:
    weak = vm_stack()
    weak.addresses.add(socket.inet_aton(TARGET.vm_link_ipv4))
    for name in ("arp-elsewhere", "ping", "tcp-ipv4"):
        result = batch(Peer([weak]), name)
        assert result.verdict is Verdict.HOLE
        assert "169.254.254.2" in result.evidence


def test_a_vm_that_routes_is_a_hole_and_one_that_refuses_is_not() -> None:
    def errs(kind: int, code: int) -> Callable[[Frame], list[bytes]]:
        def reply(frame: Frame) -> list[bytes]:
            if frame.kind != 0x0800 or frame.ip_dst != LINK or frame.dst != VM:
                return []
            body = bytes([kind, code]) + bytes(6) + frame.raw[14:42]
            return [ether(TESTER, VM, 0x0800, ipv4(socket.inet_aton(TARGET.vm_ipv4), frame.ip_src, 1, body))]

        return reply

    routed = batch(Peer([vm_stack()], extra=errs(11, 0)), "routing")
    assert routed.verdict is Verdict.HOLE
    assert "took a packet for 169.254.254.1" in routed.evidence
    assert batch(Peer([vm_stack()], extra=errs(3, 13)), "routing").verdict is Verdict.SEALED


@pytest.mark.parametrize(
    "stray",
    [
        ether(b"\xff" * 6, HOST, 0x88CC, bytes(46)),
        ether(TESTER, TESTER, 0x0800, bytes(46)),
        ether(TESTER, VM, 0x0800, ipv4(LINK, bytes(4), 17, bytes(8))),
        b"runt",
    ],
)
def test_one_stray_frame_since_power_on_is_a_hole(stray: bytes) -> None:
    once = [stray]
    with wired(
        Peer([vm_stack()], extra=lambda frame: [once.pop()] if once else []), FrameLog(PortJudge(TARGET))
    ) as wire:
        wait_until_up(wire, TARGET, 5)
        assert passive(wire, TARGET).verdict is Verdict.HOLE


def test_a_record_that_began_late_or_holds_nothing_proves_nothing() -> None:
    with wired(Peer([vm_stack()]), FrameLog(PortJudge(TARGET))) as wire:
        assert passive(wire, TARGET).verdict is Verdict.NOT_TESTED
        wait_until_up(wire, TARGET, 5)
        assert passive(wire, TARGET).verdict is Verdict.SEALED
        wire.powered_on_at = None
        assert passive(wire, TARGET).verdict is Verdict.NOT_TESTED


def test_an_extra_open_port_is_a_hole() -> None:
    vm = vm_stack()
    vm.open.add(1777)
    result = sweep(Peer([vm]))
    assert result.verdict is Verdict.HOLE
    assert result.evidence.startswith("unexpected open: 1777")


def test_a_closed_port_that_should_be_open_is_not_tested() -> None:
    vm = vm_stack()
    vm.open.discard(22)
    assert sweep(Peer([vm])).verdict is Verdict.NOT_TESTED


def test_silent_ports_are_filtered_only_where_that_is_allowed() -> None:
    vm = vm_stack()
    vm.drop_closed = True
    assert sweep(Peer([vm]), ports=range(500)).verdict is Verdict.NOT_TESTED
    assert sweep(Peer([vm]), ports=range(500), silent_ok=True).verdict is Verdict.SEALED


def test_loss_never_reads_as_closed_or_filtered() -> None:
    vm = vm_stack()
    vm.drop_closed = True
    result = sweep(Peer([vm], loss=0.2), silent_ok=True, ports=range(1000, 1500))
    assert result.verdict is Verdict.NOT_TESTED
    assert "0 closed, 0 silent, 500 untested" in result.evidence
    host = Stack(HOST, {socket.inet_aton("192.168.42.9")})
    assert batch(Peer([vm_stack(), host], loss=0.2), "nd").verdict is Verdict.NOT_TESTED


def test_a_batch_without_its_control_is_not_tested() -> None:
    assert batch(Peer([vm_stack()]), "nd", controls=444).verdict is Verdict.NOT_TESTED


def test_a_dead_wire_is_not_tested() -> None:
    near, far = socket.socketpair()
    with StreamWire(near, frame_log=FrameLog(PortJudge(TARGET))) as wire:
        wire.mark_power_on()
        far.close()
        results = run_outside(wire, TARGET, seed=1, quick=True)
    assert {result.verdict for result in results} == {Verdict.NOT_TESTED}
    assert exit_code(results) == EXIT_NOT_TESTED


def test_waiting_for_a_machine_that_never_comes_up_ends() -> None:
    with wired(Peer([])) as wire, pytest.raises(WireError, match="no answer to ARP"):
        wait_until_up(wire, TARGET, 0.5)


def test_the_tester_answers_for_itself_alone() -> None:
    from proof.wire.craft import FramePath, arp_request, neighbour_solicit
    from proof.wire.frame import parse

    path = FramePath(TARGET.vm_mac, "ff:ff:ff:ff:ff:ff", TARGET.vm_ipv4, TARGET.tester_ipv4)
    assert answer(parse(arp_request(path), 0), TARGET) is not None
    assert answer(parse(arp_request(path.to(ip="192.168.42.3")), 0), TARGET) is None
    ask6 = FramePath(TARGET.vm_mac, TARGET.tester_mac, TARGET.vm_ipv6, TARGET.tester_ipv6)
    assert answer(parse(neighbour_solicit(ask6), 0), TARGET) is not None
    assert answer(parse(neighbour_solicit(ask6.to(ip="fe80::9")), 0), TARGET) is None


def spoof(lets_out: Callable[[bytes], bool]) -> Result:
    """Join two wires by a port that forwards the frames that it is told to let out."""
    inside, port = socket.socketpair()
    with wired(Peer([])) as _, StreamWire(port) as out:

        def forward(frame: Frame) -> list[bytes]:
            if lets_out(frame.src):
                inside.sendall(len(frame.raw).to_bytes(4, "big") + frame.raw)
            return []

        with wired(Peer([], extra=forward)) as access:
            (result,) = run_spoof(access, out, TARGET, seed=1)
    inside.close()
    return result


def test_frames_under_false_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.inside.spoof.DEADLINE", 0.3)
    assert spoof(lambda src: src == VM).verdict is Verdict.SEALED
    assert spoof(lambda src: True).verdict is Verdict.HOLE
    assert spoof(lambda src: src in (VM, HOST)).verdict is Verdict.HOLE
    assert spoof(lambda src: False).verdict is Verdict.NOT_TESTED


def test_a_hole_outweighs_missing_controls() -> None:
    gratuitous = arp_reply(Frame(b"", 0, src=TESTER, arp_target=LINK, ip_src=bytes(4)), HOST)
    result = batch(Peer([vm_stack()], extra=lambda frame: [gratuitous]), "nd", controls=444)
    assert result.verdict is Verdict.HOLE
    assert exit_code([result]) == EXIT_HOLE
