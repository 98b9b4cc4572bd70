"""The pure parts of `invoke bench.forwarder`: readings, medians, ratios, targets."""

from __future__ import annotations

import io
import json
import math
import os
import runpy

import pytest
from rich.console import Console

from backend.guests import vm
from tests.bench import forwarder, forwarder_figures, forwarder_peers, forwarder_vm
from tests.bench.forwarder_figures import CPU, LATENCY, LOST, RATE, TCP, Results, Target
from tests.bench.forwarder_traffic import Passage, busy_seconds, softnet_drops

STAT = """cpu  1 1 1 1 1 1 1 1 0 0
cpu0 {} 0 0 {} 5 0 0 {} 0 0
cpu1 50 0 0 {} 7 0 0 0 0 0
intr 12345
"""


def results(**rates: list[float]) -> Results:
    found = Results()
    for name, values in rates.items():
        for value in values:
            found.add(RATE, 64, "one", name.replace("_nft", "+nft"), value)
    return found


def test_busy_is_what_was_not_idle_waiting_or_stolen() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    before, after = STAT.format(0, 100, 0, 100), STAT.format(999, 100 + tick, tick // 2, 100 + 2 * tick)
    # Two seconds of two processors: 1 s idle and 0.5 s stolen on the one, 2 s idle on the other.
    assert math.isclose(busy_seconds(before, after, 2.0), 0.5)


def test_backlog_drops_are_the_second_column_of_every_processor() -> None:
    assert softnet_drops("0000ffff 0000000a 00000000\n00000001 00000010 00000000\n") == 26


def test_passage_tells_rate_cost_and_other_load() -> None:
    passage = Passage(frames=500_000, seconds=2.0, busy=3.0, tasks=1.0, sent=0, lost=0, backlog_drops=0)
    assert (passage.rate, passage.cpu_tasks, passage.cpu_machine, passage.others) == (250_000, 2.0, 6.0, 1.0)


def test_no_frame_costs_nothing_instead_of_dividing_by_zero() -> None:
    passage = Passage(frames=0, seconds=2.0, busy=3.0, tasks=1.0, sent=9, lost=9, backlog_drops=0)
    assert (passage.rate, passage.cpu_tasks, passage.cpu_machine) == (0, 0, 0)


def test_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    # The machine was slow in the second round, for both.
    found = results(ring=[200, 60, 300], bridge=[100, 20, 200])
    assert found.ratio(RATE, 64, "one", "ring", "bridge") == 2.0
    assert found.median(RATE, 64, "one", "ring") == 200
    assert found.spread(RATE, 64, "one", "ring") == pytest.approx(1.2)


def test_what_was_not_measured_has_no_figure() -> None:
    found = results(ring=[200], bridge=[0])
    assert found.ratio(RATE, 64, "one", "ring", "bridge") is None
    assert found.ratio(RATE, 64, "one", "kernel", "ring") is None
    assert found.median(RATE, 64, "one", "kernel") is None
    assert {target.met for target in forwarder_figures.targets(Results(), {}, {})} == {None}


def test_cost_is_without_the_senders() -> None:
    found = Results()
    for name, values in {"none": [2.0, 4.0], "bridge": [3.0, 6.0], "kernel": [2.5, 5.0]}.items():
        for value in values:
            found.add(CPU, 64, "one", name, value)
    assert found.without_sender(64, "one", "bridge") == [1.0, 2.0]
    assert found.cost_ratio(64, "one", "kernel", "bridge") == 0.5
    assert found.cost_ratio(64, "one", "kernel", "none") is None


def test_a_target_is_met_from_its_side() -> None:
    assert Target("rate", 1.3, "x", 1.3).met
    assert not Target("rate", 1.3, "x", 1.29).met
    assert Target("cost", 0.6, "x", 0.6, most=True).met
    assert not Target("cost", 0.6, "x", 0.61, most=True).met


def test_every_target_of_the_forwarder_is_told_with_its_figure() -> None:
    found = results(none=[500], bridge=[300], bridge_nft=[250], kernel=[450], ring=[350])
    found.add(RATE, 64, "one", "bridge+brnf", 250)
    found.add(LATENCY, 64, "p50", "ring", 20.0)
    found.add(LOST, 64, "one", "kernel", 0)
    found.add(LOST, 64, "one", "kernel", 3)
    found.add(TCP, 0, "one", "ring", 9.0)
    found.add(TCP, 0, "one", "bridge", 10.0)
    vm = {"vhost-user": [3.0, 1.0, 6.0], "tap+bridge": [1.0, 0.5, 2.0], "tap+bridge+vhost-net": [2.0, 1.0, 3.0]}
    rows = {t.name: t for t in forwarder_figures.targets(found, {"lan": 11e6}, vm)}
    wanted = {
        "kernel : bridge, 64 bytes, one": (1.5, True),
        "kernel : bridge+brnf, 64 bytes, one": (1.8, True),
        "ring : bridge+nft, 64 bytes, one": (1.4, True),
        "ring, p50 at 4,000 frames/s": (20.0, False),
        "kernel, lost at 70 % of its rate": (3, False),
        "ring : bridge, TCP with offloads": (0.9, False),
        "guest LAN in memory, 1,000 addresses": (11e6, True),
        "vhost-user : tap+bridge, TCP from port to VM": (3.0, True),
        "vhost-user : tap+bridge+vhost-net, TCP from port to VM": (1.5, True),
    }
    assert {name: (rows[name].value, rows[name].met) for name in wanted} == wanted


def test_document_and_tables_hold_every_round() -> None:
    found = results(none=[500, 510], bridge=[300, 310], ring=[350, 330], scapy=[2])
    targets = forwarder_figures.targets(found, {}, {})
    document = json.loads(json.dumps(forwarder_figures.document(found, targets, {}, {})))
    row = next(row for row in document["figures"] if row["peer"] == "ring")
    assert (row["rounds"], row["median"], row["unit"]) == ([350, 330], 340, "frames/s")
    assert row["to_bridge"] == pytest.approx((350 / 300 + 330 / 310) / 2, abs=1e-4)
    assert row["to_bridge_nft"] is None
    said = io.StringIO()
    forwarder_figures.show(found, targets, {"lan": 11e6}, {}, Console(file=said, width=200))
    for text in ("bridge+nft", "11,000,000", "not measured", "bridge_and_sniff: 2 frames/s", "whole machine"):
        assert text in " ".join(said.getvalue().split())


def test_the_whole_machines_time_is_told_only_if_nobody_else_used_it() -> None:
    found = results(none=[500], bridge=[300])
    said = io.StringIO()
    forwarder_figures.show(found, [], {}, {}, Console(file=said, width=200), quiet=False)
    text = " ".join(said.getvalue().split())
    assert "sender, datapath, ksoftirqd" in text
    assert "whole machine" not in text


def test_medians_of_json_objects_leave_words_out() -> None:
    assert forwarder_figures.medians([{"lan": 1, "cpu": "x"}, {"lan": 9}, {"lan": 5}]) == {"lan": 5.0}


def test_ten_rules_are_ten_and_speak_of_the_beds_interfaces() -> None:
    rules = [line for line in forwarder_peers.TEN_RULES.splitlines() if "counter" in line]
    assert len(rules) == 10
    assert rules[-1].strip().endswith("accept")


@pytest.mark.parametrize("name", ["ring", "kernel"])
def test_our_datapaths_are_measured_with_the_rules_of_the_image(name: str) -> None:
    rules = forwarder_peers.appliance_rules("ring" if name == "ring" else "kernel")
    for device in ("mgmt0", "access0"):
        assert f'hook ingress device "{device}" priority filter; policy drop;' in rules


@pytest.mark.parametrize(("flag", "wanted"), [(True, "tap,id=access,fd=7,vhost=on"), (False, "tap,id=access,fd=7")])
def test_the_benchmarks_supervisor_asks_for_vhost_net_if_the_flag_stands(
    monkeypatch: pytest.MonkeyPatch, flag: bool, wanted: str
) -> None:
    started: list[str] = []
    monkeypatch.setattr(vm, "_access", vm._access)
    monkeypatch.setattr(os.path, "exists", lambda path: flag and path == forwarder_vm.FLAG)
    monkeypatch.setattr(runpy, "run_module", lambda name, run_name: started.append(name))
    script = forwarder_vm.OVERLAY / "usr/lib/sallyport/bench-supervisor"
    exec(compile(script.read_text(), str(script), "exec"), {})
    assert started == ["backend.guests.supervisor"]
    assert vm._access(vm.TapDescriptors(7, 8), 192) == ["-netdev", wanted]


@pytest.mark.skipif(os.geteuid() != 0, reason="priorities above the usual are for root")
def test_urgency_ends_with_the_measurement() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with forwarder.urgent():
        assert os.getpriority(os.PRIO_PROCESS, 0) == -20
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
