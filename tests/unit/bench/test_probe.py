"""What the sweeps and their peers say of the VM's ports is compared with what was planted there."""

from __future__ import annotations

from typing import Any

import pytest

from proof.wire.target import Target
from tests.bench.probe import Mix, Said

TARGET = Target("02:73:61:6c:6c:79", "192.168.42.1", {"mgmt0": "52:54:00:12:34:56"})
MIX = Mix(frozenset({4000, 4001}), frozenset({5000}), frozenset({6000}))
RIGHT = Said(MIX.tcp | TARGET.tcp_open, MIX.echo, MIX.silent)
NMAP = """<?xml version="1.0"?><nmaprun><host><ports>
<extraports state="closed" count="131066"/>
<port protocol="tcp" portid="22"><state state="open" reason="syn-ack"/></port>
<port protocol="tcp" portid="80"><state state="filtered" reason="no-response"/></port>
<port protocol="tcp" portid="81"><state state="closed" reason="reset"/></port>
<port protocol="udp" portid="5000"><state state="open" reason="udp-response"/></port>
<port protocol="udp" portid="6000"><state state="open|filtered" reason="no-response"/></port>
</ports></host></nmaprun>"""
MASSCAN = """[
{"ip": "192.0.2.1", "ports": [{"port": 22, "proto": "tcp", "status": "open", "reason": "syn-ack"}]},
{"ip": "192.0.2.1", "ports": [{"port": 80, "proto": "tcp", "status": "closed", "reason": "rst"}]},
{"ip": "192.0.2.1", "ports": [{"port": 5000, "proto": "udp", "status": "open", "reason": "none"}]}
]"""


def test_who_says_it_all_is_right() -> None:
    assert RIGHT.wrong(MIX, TARGET) == 0
    assert Said(RIGHT.tcp, RIGHT.udp, frozenset()).wrong(MIX, TARGET) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"tcp": RIGHT.tcp - {4000}},
        {"tcp": RIGHT.tcp | {9}},
        {"udp": frozenset()},
        {"udp": RIGHT.udp | {6000}},
        {"unsure": RIGHT.unsure | {9}},
    ],
    ids=["open unseen", "closed as open", "udp unseen", "silent as open", "closed as unsure"],
)
def test_each_wrong_port_counts(change: dict[str, Any]) -> None:
    said = {"tcp": RIGHT.tcp, "udp": RIGHT.udp, "unsure": RIGHT.unsure} | change
    assert Said(**said).wrong(MIX, TARGET) == 1


def test_nmap_is_read() -> None:
    assert Said.of_nmap(NMAP) == Said(frozenset({22, 80}), frozenset({5000}), frozenset({6000}))


@pytest.mark.parametrize(
    ("text", "tcp", "udp"), [(MASSCAN, {22}, {5000}), ("", set(), set()), ("[\n]\n", set(), set())]
)
def test_masscan_is_read(text: str, tcp: set[int], udp: set[int]) -> None:
    assert Said.of_masscan(text) == Said(frozenset(tcp), frozenset(udp), frozenset())
