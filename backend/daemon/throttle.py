"""Decides which login attempts are checked now: wrong passwords slow down the party they come from, and nobody else.

Checking a password costs a hash that is slow on purpose. An unlimited number of checks would let an attacker take the
whole processor; a delay that applies to everybody would let his guesses keep the operator out. Hence two independent
limits:

* Each address and each party (`Peer.prefix`) has a `SlowDown`. That of the party does not apply to an address that has
  logged in before; one that has not failed itself passes it a few times a minute, so that a neighbour in the same /64
  does not keep an operator out.
* All checks take a token from one of three pools with rates of their own: for addresses that have logged in before, for
  addresses that have not failed lately, and for all. A site, and a party that has failed, get only a few checks a
  minute from the second, however many addresses they have. So an attacker, even one with a whole site, uses up the
  third pool; the first two remain for the others.

The VM names the address of an attempt, and may lie once it is compromised. The sum of the three pools limits the checks
whatever it says. It sees the operators' passwords and can drop their logins anyway, so its lies gain it nothing but
delays, until it is restarted: then `forget` drops what it said, and the pools refill within seconds.

Limits of this: two people behind one address (NAT) cannot be told apart, nor an operator at a new address from
thousands of attacking sites, or from an attacker who holds most addresses of the same site.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

from backend.protocol.peers import Peer
from backend.protocol.rate_limit import Bucket, Clock

MAX_KNOWN = 64
"""Addresses that have logged in and are remembered; beyond, the one whose login is longest ago is forgotten."""
MAX_FAILING = 512
"""Addresses and parties that failed and are remembered; beyond, the site with most of them loses its oldest."""
MAX_SHARES = 128
"""Sites and parties whose share of the second pool is remembered."""
FORGET_S = 900.0
"""Seconds without a failure after which earlier ones are forgotten."""
SHARE_RATE, SHARE_BURST = 1 / 30, 8.0
"""Checks that a site, or a party that has failed, may take from the pool of new addresses, per second and at once."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Password checks per second and at once, for each of the three pools."""

    known: tuple[float, float] = (0.125, 16.0)
    new: tuple[float, float] = (0.125, 10.0)
    common: tuple[float, float] = (0.25, 14.0)


PASSWORD_RATES = Rates()


@dataclass
class _Failing:
    site: str
    slow: SlowDown
    last: float


class SlowDown:
    """Delay after failed logins of one party: from the third failure on, each doubles the wait for the next attempt."""

    MAX_FREE_FAILURES = 3
    MAX_WAIT_S = 8.0
    """Longest wait. It is short because people who share an address with an attacker wait as long; guesses from many
    addresses are bounded by the pools of `Throttle`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_at = float("-inf")

    def wait(self) -> float:
        """Seconds until the next attempt may be checked; 0.0: now."""
        return max(0.0, self._open_at - self._clock())

    def failed(self) -> None:
        """An attempt failed."""
        self._failures += 1
        if self._failures >= self.MAX_FREE_FAILURES:
            # A bounded exponent: the number of failures is not bounded, and the power would grow without limit.
            delay = min(self.MAX_WAIT_S, 2.0 ** min(self._failures - self.MAX_FREE_FAILURES, 16))
            self._open_at = self._clock() + delay

    def succeeded(self) -> None:
        """An attempt succeeded: forget the failures."""
        self._failures = 0
        self._open_at = float("-inf")


class Throttle:
    """Decides for each attempt whether its password is checked now."""

    def __init__(self, rates: Rates, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._known_pool = Bucket(*rates.known, clock)
        self._new_pool = Bucket(*rates.new, clock)
        self._common_pool = Bucket(*rates.common, clock)
        self._known: OrderedDict[str, SlowDown] = OrderedDict()  # by address, the oldest login first
        self._failing: OrderedDict[str, _Failing] = OrderedDict()  # by address or prefix, the oldest failure first
        self._shares: OrderedDict[str, Bucket] = OrderedDict()  # by prefix or site, the longest unused first

    def admit(self, peer: Peer) -> float:
        """Returns 0.0 if an attempt is to be checked now, else the seconds until another try may succeed."""
        self._expire()
        known, failing, party = (
            self._known.get(peer.address), self._failing.get(peer.address), self._failing.get(peer.prefix)
        )  # fmt: skip
        own = known or (failing.slow if failing else None)
        if own is not None and (wait := own.wait()) > 0.0:
            return wait
        pools = [self._common_pool]
        if known is None and party is not None and party.slow.wait() > 0.0:
            pools = []
        if known is not None:
            pools.insert(0, self._known_pool)
        elif own is None and self._share(peer.prefix if party else peer.site).take() == 0.0:
            pools.insert(0, self._new_pool)
        waits = [party.slow.wait()] if party and not pools else []
        for pool in pools:
            waits.append(pool.take())
            if waits[-1] == 0.0:
                break
        return min(waits)

    def failed(self, peer: Peer) -> float:
        """Record that a checked password was wrong. Returns the seconds until the next check for this address."""
        if peer.address in self._known:
            own = self._known[peer.address]
        else:
            if peer.prefix != peer.address:
                self._fail(peer.prefix, peer.site).failed()
            own = self._fail(peer.address, peer.site)
        own.failed()
        return own.wait()

    def succeeded(self, peer: Peer) -> None:
        """Record that a checked password was right. Other addresses of the party, which may be guessing, stay slow."""
        self._known.pop(peer.address, None)
        self._known[peer.address] = SlowDown(self._clock)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._failing.pop(peer.address, None)

    def forget(self) -> None:
        """Forget failures, as the VM that named their addresses has been restarted. The pools keep their levels.

        Addresses that have logged in stay known: else operators would compete with attackers after every restart of the
        VM. If the VM lied about them, that gains no more checks than the pools allow.
        """
        self._known = OrderedDict((address, SlowDown(self._clock)) for address in self._known)
        self._failing.clear()
        self._shares.clear()

    def _fail(self, name: str, site: str) -> SlowDown:
        failing = self._failing.pop(name, None)
        if failing is None:
            failing = _Failing(site, SlowDown(self._clock), 0.0)
            self._make_room()
        failing.last = self._clock()
        self._failing[name] = failing
        return failing.slow

    def _share(self, name: str) -> Bucket:
        bucket = self._shares.pop(name, None) or Bucket(SHARE_RATE, SHARE_BURST, self._clock)
        self._shares[name] = bucket
        if len(self._shares) > MAX_SHARES:
            self._shares.popitem(last=False)
        return bucket

    def _expire(self) -> None:
        oldest = self._clock() - FORGET_S
        while self._failing and next(iter(self._failing.values())).last < oldest:
            self._failing.popitem(last=False)

    def _make_room(self) -> None:
        if len(self._failing) >= MAX_FAILING:
            ((busiest, _),) = Counter(one.site for one in self._failing.values()).most_common(1)
            del self._failing[next(name for name, one in self._failing.items() if one.site == busiest)]
