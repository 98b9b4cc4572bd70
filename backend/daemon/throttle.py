"""Which login attempts are looked at: wrong passwords slow down the party they come from, and nobody else.

To look at a password costs a hash that is slow on purpose, so somebody who may have as many looked at as he likes has
the appliance's processor; and somebody whose guesses delay everybody's next attempt keeps the operator out. Hence two
bounds, which do not know of each other:

* Each address and each party (`Peer.prefix`) has a `SlowDown`. The party's is not for an address that has logged in
  before, and one that did not fail itself passes it a few times a minute, so that a neighbour in the same /64 does not
  keep an operator out.
* All looks together come out of three pools with rates of their own: one for addresses that have logged in before, one
  for addresses that have not failed of late, one for everybody. A party that fails, and a site, take only a few looks
  a minute from the second, however many addresses they have. So whoever floods, and a site full of them, end in the
  third pool; the first two stay for the others.

The VM says where an attempt comes from, and may lie once it is taken over. The sum of the three pools bounds the looks
whatever it says; it sees the operators' passwords go by and can drop their logins anyway, so all that its lies delay is
itself, until it is started anew: then `forget` makes what it said void, and the pools fill within seconds.

What this cannot do: tell two apart who share an address (NAT); or somebody unknown from thousands of unknown sites, or
from somebody who holds most addresses of the same site.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

from backend.common.limits import Bucket, Clock, SlowDown
from backend.protocol.peers import Peer

MAX_KNOWN = 64
"""Addresses that have logged in; the one whose login is longest ago makes room."""
MAX_FAILING = 512
"""Addresses and parties that failed; beyond, the busiest site loses its oldest."""
MAX_SHARES = 128
FORGET_S = 900.0
"""Who did not fail for so long is as good as new."""
SHARE_RATE, SHARE_BURST = 1 / 30, 8.0
"""Looks that a site, or a party that fails, may take from the pool of new addresses, per second and at once."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Passwords that are looked at: per second and at once, of each of the three pools."""

    known: tuple[float, float] = (0.125, 16.0)
    new: tuple[float, float] = (0.125, 10.0)
    common: tuple[float, float] = (0.25, 14.0)


PASSWORD_RATES = Rates()


@dataclass
class _Failing:
    site: str
    slow: SlowDown
    last: float


class Throttle:
    """Decides for each attempt whether it is looked at now."""

    def __init__(self, rates: Rates, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._known_pool = Bucket(*rates.known, clock)
        self._new_pool = Bucket(*rates.new, clock)
        self._common_pool = Bucket(*rates.common, clock)
        self._known: OrderedDict[str, SlowDown] = OrderedDict()  # by address, the oldest login first
        self._failing: OrderedDict[str, _Failing] = OrderedDict()  # by address or prefix, the oldest failure first
        self._shares: OrderedDict[str, Bucket] = OrderedDict()  # by prefix or site, the longest unused first

    def admit(self, peer: Peer) -> float:
        """Returns 0.0 if an attempt is looked at now, else the seconds until it is worth another try."""
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
        """The attempt that was looked at was wrong. Returns the seconds until the address' next one is looked at."""
        if peer.address in self._known:
            own = self._known[peer.address]
        else:
            if peer.prefix != peer.address:
                self._fail(peer.prefix, peer.site).failed()
            own = self._fail(peer.address, peer.site)
        own.failed()
        return own.wait()

    def succeeded(self, peer: Peer) -> None:
        """The attempt that was looked at was right. Others of the party, who may be guessing, stay slow."""
        self._known.pop(peer.address, None)
        self._known[peer.address] = SlowDown(self._clock)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._failing.pop(peer.address, None)

    def forget(self) -> None:
        """Forget who failed: who named them is gone. The pools stay as they are.

        Who has logged in stays known: else every restart of the VM would have operators wait among strangers. What a VM
        named that lied takes no more than the pools give.
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
