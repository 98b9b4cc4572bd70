"""One port in plain text."""

from __future__ import annotations

from typing import Any

import pytest

from backend.forwarder.counters import VERDICTS
from frontend_vm.port_report import WIDTH, report, rows
from frontend_vm.protocol.port import Counter, Fault, Port


def port(counts: dict[str, int], **changes: Any) -> Port:
    every = {f"{direction}_{verdict}": 0 for direction in ("rx", "tx") for verdict in VERDICTS} | counts
    values: dict[str, Any] = {
        "name": "mgmt0", "mac": "52:54:00:5a:11:01", "carrier": True, "rx_frames": 1500, "rx_bytes": 98_765,
        "tx_frames": 1, "tx_bytes": 60, "way": "ring", "vm": "vhost-user", "vm_up": True,
        "verdicts": [Counter(name, frames, frames * 100) for name, frames in every.items()], "faults": [],
    }  # fmt: skip
    return Port(**(values | changes))


def table(text: str) -> dict[str, list[str]]:
    """The table's lines by their first column."""
    lines = text.split("\n\n")[1].splitlines()
    return {line[:14].rstrip(): line[14:].split() for line in lines if line.strip()}


def test_a_verdict_has_one_row_with_both_directions() -> None:
    found = table(report(port({"rx_passed": 1490, "tx_passed": 1, "tx_spoofed": 12}), full=False))
    assert found["on the wire"] == ["1,500", "98,765", "1", "60"]
    assert found["passed"] == ["1,490", "149,000", "1", "100"]
    assert found["spoofed"] == ["0", "0", "12", "1,200"]


def test_the_short_form_leaves_zeros_out_and_says_so_and_the_full_one_does_not() -> None:
    short, full = (report(port({"tx_spoofed": 12}), full=full) for full in (False, True))
    assert "runt" not in short
    assert f"{len(VERDICTS) - 2} more are zero; 'forwarder status' lists them all." in short
    assert "more are zero" not in full
    assert list(table(full))[2:] == list(VERDICTS)
    assert table(full)["runt"] == ["0"] * 4


def test_what_is_not_zero_is_explained_and_in_full_everything() -> None:
    short, full = (report(port({"rx_passed": 9, "tx_spoofed": 12}), full=full) for full in (False, True))
    told = short.split("What they mean:\n")[1]
    assert "  spoofed       Going out: the sender is not the VM's address." in told
    assert "passed" not in told
    assert all(f"\n  {verdict:<14}" in full.split("What they mean:")[1] for verdict in VERDICTS)
    assert "What they mean" not in report(port({"rx_passed": 9}), full=False)


def test_the_data_path_is_told_with_its_state() -> None:
    text = report(port({}, carrier=False, vm_up=False), full=False)
    assert text.startswith("mgmt0  52:54:00:5a:11:01  no link\n")
    assert "Data path     mgmt0 -- ring -- vhost-user -- VM (down)\n" in text
    full = report(port({}, way="kernel", vm="tap"), full=True)
    assert "mgmt0 -- kernel -- tap -- VM (up)\n" in full
    assert "tc-BPF program" in full


def test_faults_are_told_in_words_and_only_if_there_are_any() -> None:
    assert "stopped" not in report(port({}), full=True)
    text = report(port({}, faults=[Fault("chain_index", 1234), Fault("from_the_future", 1)]), full=False)
    assert "The VM's NIC was stopped:\n  1,234 x a descriptor index outside the table (chain_index)\n" in text
    assert "  1 x for another reason (from_the_future)\n" in text


def test_what_a_way_does_not_count_is_a_dash_and_what_has_no_direction_says_so() -> None:
    verdicts = [Counter("rx_passed", 5, 500), Counter("tx_passed", 6, 600), Counter("tx_spoofed", 7, 700),
                Counter("to_host", 8, 800)]  # fmt: skip
    found = table(report(port({}, way="bridge", vm="tap", verdicts=verdicts), full=True))
    assert found["spoofed"] == ["-", "-", "7", "700"]
    assert found["to_host"] == ["8", "800", "(both", "ways)"]
    assert [row.frames for row in rows(verdicts)] == [11, 7, 8]


@pytest.mark.parametrize("full", [False, True])
def test_lines_fit_a_terminal(full: bool) -> None:
    counts = {f"{direction}_{verdict}": 10**9 for direction in ("rx", "tx") for verdict in VERDICTS}
    text = report(port(counts, faults=[Fault("chain_indirect", 10**6), Fault("legacy", 1)]), full=full)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert text.endswith(".\n")


def test_columns_stay_in_line_however_large_a_count() -> None:
    text = report(port({"rx_passed": 2**64 - 1, "tx_spoofed": 3}), full=True)
    lines = text.split("\n\n")[1].splitlines()
    assert len({len(line) for line in lines}) == 1
    assert f"{2**64 - 1:,}" in text


def test_a_name_that_means_a_terminal_ill_is_defused() -> None:
    evil = "\x1b]0;owned\x07\u202e" + "x" * 1000
    text = report(port({}, name=evil, mac=evil, verdicts=[Counter(evil, 1, 1)], faults=[Fault(evil, 1)]), full=True)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert max(len(line) for line in text.splitlines()) < 140
