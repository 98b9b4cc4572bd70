"""Words for the forwarder's names: none is missing, none is left over, and nobody's texts differ."""

from __future__ import annotations

import re
from typing import get_args, get_type_hints

from backend.forwarder import counters
from frontend_vm.protocol.port import Port
from frontend_vm.words import WORDS
from rootfs.base.version import PROJECT

CORE = PROJECT / "backend/forwarder/core"
BRIDGE = PROJECT / "overlays/host/etc/sallyport/port.nft.j2"


def test_every_verdict_has_words() -> None:
    of_the_bridge = {name.removeprefix("rx_").removeprefix("tx_") for name in
                     re.findall(r"counter (\w+) \{ \}", BRIDGE.read_text())}  # fmt: skip
    assert "to_host" in of_the_bridge
    assert set(WORDS.verdicts) == {*counters.VERDICTS, *of_the_bridge}
    for label, meaning in WORDS.verdicts.values():
        assert 0 < len(label) <= 15, f"{label}: a column of a small screen holds no more"
        assert meaning.endswith(".")


def test_every_fault_has_the_reason_of_the_forwarder() -> None:
    rows = re.findall(r'X\(\w+, "(\w+)",\s*"([^"]+)"\)', (CORE / "vhost_fault.h").read_text())
    assert len(rows) > 20
    assert WORDS.faults == {name: reason for name, reason in rows if name != "none"}


def test_every_way_has_words() -> None:
    hints = get_type_hints(Port)
    assert set(WORDS.ways) == set(get_args(hints["way"]))
    assert set(WORDS.vms) == set(get_args(hints["vm"]))
