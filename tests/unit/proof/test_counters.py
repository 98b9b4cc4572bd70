"""Drop counters: of a forwarder that keeps them well, of one that lets frames through, and of one that loses them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from proof.outside import counters
from proof.outside.counters import Allowed, classes, run_counters
from proof.result import Result, Verdict
from proof.wire.frame import Frame
from proof.wire.target import mac_bytes
from tests.unit.proof.simpeer import TARGET, Peer, vm_stack, wired

VM = mac_bytes(TARGET.vm_mac)
TPIDS = (0x8100, 0x88A8)
LINK = b"\xa9\xfe\xfe"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.outside.counters.PING_TIMEOUT", 0.6)
    monkeypatch.setattr("proof.outside.counters.REREADS", 1)


class Forwarder:
    """The policy once more, written without the code that is tested; ``leaks`` says which drops do not happen."""

    def __init__(self, leaks: Callable[[str], bool] = lambda verdict: False, burst: int = 600) -> None:
        self.counts = Counter[str](rx_passed=0, rx_rate=0)
        for verdict in ("oversized", "tags", "spoofed", "destination", "ethertype", "link_address", "group_rate"):
            self.counts["rx_" + verdict] = 0
        self.leaks, self.burst, self.vm = leaks, burst, vm_stack()
        self.loses = 0.0
        self._rng = random.Random(3)

    def verdict(self, frame: Frame) -> str:
        raw = frame.raw
        outer = int.from_bytes(raw[12:14], "big")
        if raw[12:14] == b"\x81\x00" and (raw[14] & 15, raw[15]) == (0, 0):
            raw = raw[:12] + raw[16:]  # a priority tag
            outer = int.from_bytes(raw[12:14], "big")
        if outer in TPIDS:
            return "tags"
        if len(raw) > 1514:
            return "oversized"
        if raw[6:12] == VM or raw[6] & 1:
            return "spoofed"
        if (not raw[0] & 1 and raw[:6] != VM) or raw[:6] == b"\x01\x80\xc2\0\0\x02":
            return "destination"
        if outer not in (0x0800, 0x0806, 0x86DD):
            return "ethertype"
        addresses = {0x0800: (26, 30), 0x0806: (28, 38)}.get(outer, ())
        if any(raw[at : at + 3] == LINK for at in addresses):
            return "link_address"
        if raw[0] & 1:
            self.burst -= 1
            return "passed" if self.burst > 0 else "group_rate"
        return "passed"

    def take(self, frame: Frame) -> list[bytes]:
        verdict = self.verdict(frame)
        if self.loses and verdict != "passed" and self._rng.random() < self.loses:
            return []
        if self.leaks(verdict):
            verdict = "passed"
        self.counts["rx_" + verdict] += 1
        reply = self.vm.answer(frame) if verdict == "passed" else None
        return [] if reply is None else [reply]


def run(forwarder: Forwarder, read: Callable[[], Mapping[str, int]] | None = None) -> dict[str, Result]:
    with wired(Peer([], extra=forwarder.take)) as wire:
        results = run_counters(wire, read or (lambda: dict(forwarder.counts)), TARGET, rng=random.Random(1))
    assert {result.group for result in results} == {"drops"}
    return {result.name: result for result in results}


def verdicts(results: Mapping[str, Result]) -> set[Verdict]:
    return {result.verdict for result in results.values()}


def test_every_drop_is_found_on_its_counter() -> None:
    forwarder = Forwarder()
    results = run(forwarder)
    assert {results.pop(name).verdict for name in ("passing", "passing-priority")} == {Verdict.CONTROL}
    assert verdicts(results) == {Verdict.SEALED}, results
    wanted = {
        "ethertype-88b5",
        "802.3",
        "link-arp-169.254.254.1",
        "tags-1",
        "tags-3",
        "source-vm",
        "to-host",
        "oversized",
    }
    wanted |= {"tags-priority-twice", "tags-priority-vlan", "tags-priority-ad", "to-next-bridge"}
    assert wanted | {"group-rate", "source-group"} <= set(results)
    assert all(
        forwarder.counts["rx_" + name] for name in ("tags", "spoofed", "destination", "oversized", "link_address")
    )


@pytest.mark.parametrize(
    ("leak", "name"),
    [
        ("ethertype", "ethertype-88b5"),
        ("tags", "tags-priority-twice"),
        ("spoofed", "source-vm"),
        ("destination", "to-host"),
        ("link_address", "link-ipv4-169.254.254.1"),
        ("oversized", "oversized"),
    ],
)
def test_what_is_counted_as_passed_is_a_hole(leak: str, name: str) -> None:
    results = run(Forwarder(lambda verdict: verdict == leak))
    assert results[name].verdict is Verdict.HOLE
    assert "counted as passed in 2 of 3 tries" in results[name].evidence
    kinds = {kind.name for kind in classes(TARGET, Allowed()) if kind.counter == "rx_" + leak}
    assert {found for found, result in results.items() if result.verdict is Verdict.HOLE} == kinds


def test_a_leak_of_one_frame_in_ten_is_a_hole() -> None:
    rng = random.Random(9)
    results = run(Forwarder(lambda verdict: verdict == "destination" and rng.random() < 0.1))
    assert results["to-host"].verdict is Verdict.HOLE
    assert results["tags-1"].verdict is Verdict.SEALED


def test_lost_frames_are_not_tested() -> None:
    forwarder = Forwarder()
    forwarder.loses = 0.3
    results = run(forwarder)
    del results["passing"], results["passing-priority"], results["group-rate"]
    assert verdicts(results) == {Verdict.NOT_TESTED}


def test_a_vm_that_does_not_answer_leaves_nothing_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.outside.counters.PING_TIMEOUT", 0.05)
    forwarder = Forwarder()
    forwarder.vm.addresses.clear()
    assert verdicts(run(forwarder)) == {Verdict.NOT_TESTED}


def test_counters_of_somebody_else_prove_nothing() -> None:
    results = run(Forwarder(), lambda: dict.fromkeys(Forwarder().counts, 7))
    assert verdicts(results) == {Verdict.NOT_TESTED}
    assert "what must pass is not answered, or not counted" in results["802.3"].evidence


def test_a_counter_that_others_move_is_not_exact() -> None:
    forwarder = Forwarder()

    def read() -> Mapping[str, int]:
        forwarder.counts["rx_ethertype"] += 3
        return dict(forwarder.counts)

    results = run(forwarder, read)
    assert results["802.3"].verdict is Verdict.NOT_TESTED
    assert "instead of" in results["802.3"].evidence
    assert results["tags-1"].verdict is Verdict.SEALED


def test_broadcasts_without_a_limit_are_a_hole() -> None:
    assert run(Forwarder(lambda verdict: verdict == "group_rate"))["group-rate"].verdict is Verdict.HOLE


def test_counters_that_a_way_does_not_keep_are_left_out() -> None:
    forwarder = Forwarder()
    kept = ("rx_passed", "rx_ethertype", "rx_link_address")
    results = run(forwarder, lambda: {name: forwarder.counts[name] for name in kept})
    assert not {"tags-1", "source-vm", "group-rate"} & set(results)
    assert results["link-source-169.254.254.1"].verdict is Verdict.SEALED
    (*_, nothing) = run(forwarder, lambda: {"rx_passed": forwarder.counts["rx_passed"]}).values()
    assert nothing.verdict is Verdict.NOT_TESTED
    assert "keeps none" in nothing.evidence


def test_counters_that_cannot_be_read_are_not_tested() -> None:
    def read() -> Mapping[str, int]:
        raise RuntimeError("no such program")

    (result,) = run(Forwarder(), read).values()
    assert result.verdict is Verdict.NOT_TESTED
    assert "no such program" in result.evidence


def test_a_policy_that_lets_more_in_has_fewer_classes() -> None:
    plain = {kind.name for kind in classes(TARGET, Allowed())}
    wide = {kind.name for kind in classes(TARGET, Allowed((0x0800, 0x88CC), tags=2, max_frame=9014))}
    assert plain - wide == {"ethertype-88cc", "tags-1", "tags-2", "oversized"} | {
        f"tags-priority-{rest}" for rest in ("twice", "vlan", "ad")
    }


def test_no_two_classes_share_a_name() -> None:
    names = [kind.name for kind in classes(TARGET, Allowed())]
    assert len(names) == len(set(names)) > 12
    assert {kind.counter for kind in classes(TARGET, Allowed())} <= {"rx_" + name for name in counters_of_the_core()}


def counters_of_the_core() -> tuple[str, ...]:
    from backend.forwarder.counters import VERDICTS

    assert counters.PASSED.removeprefix("rx_") in VERDICTS
    return VERDICTS
