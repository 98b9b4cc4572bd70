"""Whose login attempts are looked at while others guess, and how many are looked at in all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from backend.daemon.throttle import MAX_FAILING, MAX_KNOWN, MAX_SHARES, Rates, Throttle
from backend.protocol.peers import Peer
from tests.unit.backend.rig import Now

RATES = Rates()
POOLS = (RATES.known, RATES.new, RATES.common)


def hosts(pattern: str, start: int = 1) -> Iterator[str]:
    """Addresses, one after the other and then again from the first: `{}` counts to 250."""
    while True:
        for number in range(start, 251):
            yield pattern.format(number)


def attack(throttle: Throttle, now: Now, addresses: Iterator[str], *, seconds: int, rate: int = 1) -> int:
    """Guess; gives how many guesses were looked at."""
    looked_at = 0
    for _ in range(seconds * rate):
        now.s += 1 / rate
        peer = Peer.parse(next(addresses))
        if throttle.admit(peer) == 0.0:
            looked_at += 1
            throttle.failed(peer)
    return looked_at


@pytest.mark.parametrize(
    ("address", "prefix", "site"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("2001:DB8:1:2:3:0:0:4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fd00:1:2:3::1", "fd00:1:2:3::/64", "fd00:1:2::/48"),
        ("fe80::a:b", "fe80::a:b", "fe80::/64"),
    ],
)
def test_a_peer_is_an_address_a_party_and_a_site(address: str, prefix: str, site: str) -> None:
    peer = Peer.parse(address)
    assert (peer.prefix, peer.site) == (prefix, site)


@pytest.mark.parametrize("text", ["", "1.2.3", "192.0.2.07", "fe80::1%access", "1:2", "::g", "192.0.2.7/24"])
def test_what_is_no_address_is_no_peer(text: str) -> None:
    with pytest.raises(ValueError, match=r".|^$"):
        Peer.parse(text)


@pytest.mark.parametrize(
    ("attacker", "operator", "known"),
    [
        (hosts("192.0.2.66"), "192.0.2.7", False),
        (hosts("2001:db8:1:6::{}"), "2001:db8:1:7::1", False),
        (hosts("2001:db8:1:6::{}"), "2001:db8:1:6:ffff::1", True),
        (hosts("2001:db8:1:6::66"), "2001:db8:1:6::7", False),
        (hosts("fe80::66"), "fe80::7", False),
        (hosts("192.0.2.{}"), "198.51.100.7", False),
        (hosts("192.0.2.{}", start=8), "192.0.2.7", True),
        (hosts("2001:db8:1:{}::1"), "2001:db8:2::7", False),
        (iter(lambda: f"2001:db8:{random.getrandbits(16):x}::1", ""), "192.0.2.7", True),
    ],
    ids=[
        "a neighbour", "another /64", "a known address of the same /64",
        "a neighbour of the same /64", "a neighbour on the wire",
        "all addresses of another /24", "a known address among all of its /24", "all /64 of another /48",
        "a known address while the world guesses",
    ],
)  # fmt: skip
def test_the_right_password_is_looked_at_while_others_guess(
    attacker: Iterator[str], operator: str, *, known: bool
) -> None:
    """As often as the operator wants to log in: once a minute here."""
    now = Now()
    throttle, me = Throttle(RATES, now), Peer.parse(operator)
    if known:
        assert throttle.admit(me) == 0.0
        throttle.succeeded(me)
    for rate in 1, 3:
        assert attack(throttle, now, attacker, seconds=600, rate=rate) > 0, "the control"
        for _ in range(5):
            attack(throttle, now, attacker, seconds=60, rate=rate)
            assert throttle.admit(me) == 0.0
            throttle.succeeded(me)


def test_a_party_that_guesses_is_slow_and_whoever_mistyped_is_not() -> None:
    now = Now()
    throttle = Throttle(RATES, now)
    assert attack(throttle, now, hosts("192.0.2.66"), seconds=3600) <= 3600 / 8 + 5
    me = Peer.parse("192.0.2.7")
    for _ in range(2):
        assert throttle.admit(me) == 0.0
        throttle.failed(me)
    assert throttle.admit(me) == 0.0


def any_lie(rng: random.Random) -> str:
    return ":".join(f"{rng.getrandbits(16):x}" for _ in range(8))


def known_by_now(_: random.Random) -> str:
    return "192.0.2.7"


@pytest.mark.parametrize("lie", [any_lie, known_by_now])
@pytest.mark.parametrize("right", [False, True])
def test_a_vm_that_lies_about_peers_has_no_more_passwords_looked_at(
    lie: Callable[[random.Random], str], *, right: bool
) -> None:
    """Nor does it make the host keep more, nor does its successor find anybody slowed down."""
    now, rng = Now(), random.Random(5)
    throttle = Throttle(RATES, now)
    most = sum(burst + 3600 * rate for rate, burst in POOLS)
    looked_at = 0
    for _ in range(3600 * 4):
        now.s += 1 / 4
        peer = Peer.parse(lie(rng))
        if throttle.admit(peer) == 0.0:
            looked_at += 1
            (throttle.succeeded if right else throttle.failed)(peer)
    assert 10 < looked_at <= most
    assert len(throttle._known) <= MAX_KNOWN
    assert len(throttle._failing) <= MAX_FAILING
    assert len(throttle._shares) <= MAX_SHARES
    throttle.forget()
    now.s += 10
    assert throttle.admit(Peer.parse("192.0.2.7")) == 0.0


def test_a_full_table_costs_the_busiest_site_its_oldest() -> None:
    now = Now()
    throttle = Throttle(RATES, now)
    victim = Peer.parse("192.0.2.7")
    for _ in range(12):
        throttle.failed(victim)
    for number in range(3 * MAX_FAILING):
        throttle.failed(Peer.parse(f"2001:db8:1:{number:x}::1"))
    assert len(throttle._failing) == MAX_FAILING
    assert throttle.admit(victim) == 8.0, "the flood washed away what somebody else had failed"
    now.s += 3600
    assert throttle.admit(victim) == 0.0
    assert not throttle._failing
