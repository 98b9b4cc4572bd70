"""Firing from power-on: what counts is who spoke before the VM did, on a wire that is known to have worked."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from proof.outside.early import CONTROL_EVERY, INTERVAL, mixture, probing_from_power_on
from proof.outside.passive import passive
from proof.result import Result, Verdict
from proof.scan.controls import wait_until_up
from proof.wire.frame import Frame, parse
from proof.wire.frame_log import FrameLog
from proof.wire.judge import PortJudge
from proof.wire.target import mac_bytes
from proof.wire.wire import StreamWire, WireError
from tests.unit.proof.simpeer import HOST_MAC, TARGET, Peer, Stack, ether, vm_stack, wired

VM, HOST, TESTER = mac_bytes(TARGET.vm_mac), mac_bytes(HOST_MAC), mac_bytes(TARGET.tester_mac)
BOOT = 0.5
"""Seconds until the simulated VM is up."""


@pytest.fixture(autouse=True)
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.outside.early.LAST_TRIES", 3)
    monkeypatch.setattr("proof.outside.early.LAST_INTERVAL", 0.1)


def booting(extra: Callable[[Frame, bool], list[bytes]] = lambda frame, up: []) -> tuple[Peer, list[float]]:
    """A machine whose VM answers from `BOOT` seconds after its first frame on; ``extra`` is told whether it does."""
    vm, heard = vm_stack(), list[float]()

    def reply(frame: Frame) -> list[bytes]:
        heard.append(time.monotonic())
        up = heard[-1] - heard[0] > BOOT
        answer = vm.answer(frame) if up else None
        return ([] if answer is None else [answer]) + extra(frame, up)

    return Peer([], extra=reply), heard


def power_on(peer: Peer, frame_log: FrameLog | None, deadline: float = 4.0) -> tuple[Result, Result]:
    """Return the result of the early probe, and that of the whole frame log."""
    with wired(peer, frame_log) as wire:
        with probing_from_power_on(wire, TARGET, random.Random(1)) as early, suppress(WireError):
            wait_until_up(wire, TARGET, deadline)
        return early.result(), passive(wire, TARGET)


def test_nobody_answers_before_the_vm() -> None:
    peer, heard = booting()
    result, _ = power_on(peer, FrameLog(PortJudge(TARGET)))
    assert result.verdict is Verdict.SEALED, result
    sent = int(result.evidence.split()[0])
    assert 5 < sent <= (heard[-1] - heard[0]) / INTERVAL  # never more than 50 a second
    assert "before the VM's first, none answered" in result.evidence
    assert f"{sent} of {sent} received before it" in result.control


def test_whoever_speaks_before_the_vm_is_a_hole() -> None:
    host = Stack(HOST, {socket.inet_aton("169.254.254.1")}, {22})

    def while_down(frame: Frame, up: bool) -> list[bytes]:
        reply = None if up else host.answer(frame)
        return [] if reply is None else [reply]

    result, whole = power_on(booting(while_down)[0], FrameLog(PortJudge(TARGET)))
    assert (result.verdict, whole.verdict) == (Verdict.HOLE, Verdict.HOLE)
    assert "(mgmt0) is not the VM's" in result.evidence
    assert HOST_MAC in result.frames[0]


def test_who_speaks_after_the_vm_is_for_the_whole_record_to_tell() -> None:
    frame_log, stray = FrameLog(PortJudge(TARGET)), ether(TESTER, HOST, 0x0800, bytes(46))
    peer, _ = booting(lambda frame, up: [stray] if frame_log.first_accepted is not None else [])
    with wired(peer, frame_log) as wire:
        with probing_from_power_on(wire, TARGET, random.Random(1)) as early:
            wait_until_up(wire, TARGET, 4)
            until = time.monotonic() + 3
            while not frame_log.offences() and time.monotonic() < until:
                time.sleep(0.02)
        assert passive(wire, TARGET).verdict is Verdict.HOLE
        assert early.result().verdict is Verdict.SEALED


def test_a_frame_of_the_firmware_is_a_hole() -> None:
    discover = [ether(b"\xff" * 6, HOST, 0x0800, bytes(300))]
    peer, _ = booting(lambda frame, up: [discover.pop()] if discover else [])
    assert power_on(peer, FrameLog(PortJudge(TARGET)))[0].verdict is Verdict.HOLE


def test_without_the_vm_s_answer_nothing_is_proven() -> None:
    result, _ = power_on(Peer([]), FrameLog(PortJudge(TARGET)), 0.3)
    assert result.verdict is Verdict.NOT_TESTED
    assert "pings of the VM was answered" in result.control
    assert power_on(booting()[0], None)[0].verdict is Verdict.NOT_TESTED


def test_a_vm_that_is_up_at_once_leaves_no_time_to_test() -> None:
    with wired(Peer([vm_stack()]), FrameLog(PortJudge(TARGET))) as wire:
        wait_until_up(wire, TARGET, 4)
        with probing_from_power_on(wire, TARGET, random.Random(1)) as early:
            time.sleep(0.2)
        assert early.result().verdict is Verdict.NOT_TESTED
        assert early.result().evidence.startswith("0 frames sent")


def test_a_machine_that_takes_nothing_is_not_written_to() -> None:
    near, far = socket.socketpair()
    with StreamWire(near, frame_log=FrameLog(PortJudge(TARGET))) as wire:
        while wire.writable():
            wire.send(bytes(1000))
        began, sent = time.monotonic(), wire.sent
        with probing_from_power_on(wire, TARGET, random.Random(1)) as early:
            time.sleep(0.3)
        assert (wire.sent, wire.error) == (sent, None)
        assert time.monotonic() - began < 2
        result = early.result()
        assert result.verdict is Verdict.NOT_TESTED
        assert result.evidence.startswith("0 frames sent in 0.0 s before the VM's first, ")
    far.close()


def test_a_wire_that_dies_is_not_tested() -> None:
    near, far = socket.socketpair()
    with (
        StreamWire(near, frame_log=FrameLog(PortJudge(TARGET))) as wire,
        probing_from_power_on(wire, TARGET, random.Random(1)) as early,
    ):
        far.close()
        time.sleep(0.1)
    assert early.result().verdict is Verdict.NOT_TESTED
    assert "wire failed" in early.result().evidence


def test_the_mixture_reaches_every_mac_of_the_host_and_no_service_of_the_vm() -> None:
    frames = [parse(raw, 0) for raw in mixture(TARGET, random.Random(1))]
    assert {frame.src for frame in frames} == {TESTER}
    assert VM not in {frame.dst for frame in frames}
    assert {(frame.kind, frame.dst == HOST) for frame in frames} >= {
        (kind, True) for kind in (0x0800, 0x0806, 0x0842, 0x86DD, 0x88CC)
    }
    assert {67, 69, 4011, 9, 68} <= {frame.dport for frame in frames}
    # An answer of the VM to one of these could pass for the answer that the wait for it expects.
    vm = socket.inet_aton(TARGET.vm_ipv4)
    assert not [frame for frame in frames if frame.kind == 0x0806 and frame.arp_target == vm]
    assert CONTROL_EVERY * INTERVAL < 1
