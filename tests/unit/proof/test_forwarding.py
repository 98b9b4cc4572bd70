"""Between the VM's two NICs: what its own statistics say decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from proof.inside import forwarding
from proof.inside.forwarding import run_forwarding
from proof.remote_answer import framed
from proof.result import Result, Verdict
from proof.wire.target import LinkTarget
from tests.unit.proof.simpeer import TARGET, Peer, vm_stack, wired

NAMES = {"port-ipv4", "port-ipv6", "link-ipv4"}


class Vm:
    """Counts what it is sent; ``after`` says what becomes of the counters."""

    def __init__(self, after: Callable[[dict[str, object]], None]) -> None:
        self.counters: dict[str, object] = {
            "refused4": 5, "forwarded4": 0, "refused6": 7, "forwarded6": 0, "on": [],
        }  # fmt: skip
        self.reads, self._after = 0, after

    def run(self, command: str, timeout: float) -> tuple[int, str]:
        self.reads += 1
        if self.reads % 2 == 0:
            self._after(self.counters)
        return 0, framed(self.counters) + "\n"


def attack(vm: Vm, host_code: int = 0) -> dict[str, Result]:
    sent: list[str] = []

    def run_host(command: str) -> tuple[int, str]:
        sent.append(command)
        return (host_code, "cannot") if host_code else (0, framed(len(command)))

    with wired(Peer([vm_stack()])) as wire:
        results = run_forwarding(
            wire, vm.run, run_host, replace(TARGET), LinkTarget(),
            link_macs=("02:00:00:00:00:01", "02:00:00:00:00:02"), seed=random.Random(1).getrandbits(8),
        )  # fmt: skip
    assert sent
    assert max(map(len, sent)) < 3900
    return {r.name: r for r in results}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "DEADLINE", 0.3)


def grow(counters: dict[str, object], *names: str) -> None:
    for name in names:
        counters[name] = int(str(counters[name])) + forwarding.FRAMES


def test_a_vm_that_keeps_everything_is_sealed() -> None:
    results = attack(Vm(lambda counters: grow(counters, "refused4", "refused6")))
    assert {name: r.verdict for name, r in results.items()} == dict.fromkeys(NAMES, Verdict.SEALED)


def test_one_forwarded_packet_is_a_hole() -> None:
    results = attack(Vm(lambda counters: grow(counters, "refused4", "refused6", "forwarded4")))
    assert results["port-ipv4"].verdict is results["link-ipv4"].verdict is Verdict.HOLE
    assert results["port-ipv6"].verdict is Verdict.SEALED


def test_a_switch_that_is_on_is_a_hole_even_if_nothing_came_through() -> None:
    def after(counters: dict[str, object]) -> None:
        grow(counters, "refused4", "refused6")
        counters["on"] = ["/proc/sys/net/ipv4/conf/all/forwarding"]

    assert {r.verdict for r in attack(Vm(after)).values()} == {Verdict.HOLE}


def test_packets_that_did_not_arrive_prove_nothing() -> None:
    assert {r.verdict for r in attack(Vm(lambda counters: None)).values()} == {Verdict.NOT_TESTED}


def test_a_host_that_cannot_send_proves_nothing() -> None:
    results = attack(Vm(lambda counters: grow(counters, "refused4", "refused6")), host_code=1)
    assert results["link-ipv4"].verdict is Verdict.NOT_TESTED
    assert "cannot" in results["link-ipv4"].evidence
