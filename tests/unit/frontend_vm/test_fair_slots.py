"""Who loses a place when there is none left."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from frontend_vm.fair_slots import FairSlots
from frontend_vm.protocol.peers import Peer


@pytest.mark.parametrize(
    ("inside", "newcomer", "loser"),
    [
        ("192.0.2.7 192.0.2.66 192.0.2.66 192.0.2.66", "192.0.2.8", 3),
        ("192.0.2.66 192.0.2.66 192.0.2.66 192.0.2.7", "198.51.100.7", 2),
        ("192.0.2.66 192.0.2.7 192.0.2.66 192.0.2.66", "192.0.2.66", 0),
        ("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4", "192.0.2.5", 0),
        ("198.51.100.7 192.0.2.1 192.0.2.2 192.0.2.3", "192.0.2.4", 1),
        ("2001:db8:2::7 2001:db8:1:1::1 2001:db8:1:2::1 2001:db8:1:3::1", "2001:db8:1:4::1", 1),
        ("2001:db8:1:1::1 2001:db8:1:2::1 2001:db8:1:2::2 192.0.2.7", "2001:db8:1:3::1", 2),
        ("fe80::7 fe80::66 fe80::66 192.0.2.7", "fe80::8", 2),
    ],
    ids=[
        "the newest of the busiest party", "wherever it stands", "any of the busiest party, by lot, for one of its own",
        "of equals the oldest", "of the busiest site, however many parties it has", "of the busiest /48",
        "of the busiest /64 in it", "link-local addresses are parties",
    ],
)  # fmt: skip
def test_the_busiest_makes_room(inside: str, newcomer: str, loser: int) -> None:
    def first(party: Sequence[str]) -> str:
        return party[0]

    slots: FairSlots[str] = FairSlots(4, first)
    for number, address in enumerate(inside.split()):
        assert slots.enter(f"{number} {address}", Peer.parse(address)) is None
    gone = slots.enter("new", Peer.parse(newcomer))
    assert gone == f"{loser} {inside.split()[loser]}"
    assert len(slots) == 4
    assert "new" in slots
    assert gone not in slots


def test_behind_one_address_whoever_needs_a_moment_mostly_keeps_his_place() -> None:
    """4 s to type, three connections a second of somebody behind the same address, 16 places."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    nat, kept = Peer.parse("192.0.2.7"), 0
    for turn in range(500):
        slots: FairSlots[str] = FairSlots(16, random.Random(seed + turn).choice)
        for number in range(16):
            slots.enter(f"flood {number}", nat)
        slots.enter("operator", nat)
        for number in range(16, 28):
            slots.enter(f"flood {number}", nat)
        kept += "operator" in slots
    assert 0.35 < kept / 500 < 0.6, "(15/16) ** 12 = 0.46"
