"""A bounded number of slots for peers, shared out fairly: when all are taken, the peer that holds most loses one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from frontend_vm.protocol.peers import Peer

T = TypeVar("T")


class FairSlots(Generic[T]):
    """The holders of `size` slots.

    When a newcomer finds all of them taken, one holder is evicted. It is of the party with the most slots within the
    site with the most slots (`peers`), the newcomer counted, and of that party the one that came last: an attacker's
    newest connection has done the least. If the newcomer is of that party itself, the evicted one is drawn at random:
    people behind one address (NAT) cannot be told apart, and any fixed rule would serve the one who floods. If nobody
    holds more than another, it is the oldest, which had the most time.

    Args:
        size: number of slots.
        choose: draws one at random.
    """

    def __init__(self, size: int, choose: Callable[[Sequence[T]], T] = random.choice) -> None:
        self.size = size
        self._choose = choose
        self._holders: dict[T, Peer] = {}  # in order of arrival

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, one: T) -> bool:
        return one in self._holders

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._holders))

    def peer(self, one: T) -> Peer:
        """The peer of a holder."""
        return self._holders[one]

    def enter(self, one: T, peer: Peer) -> T | None:
        """Take a slot. Returns the holder that was evicted for it; None if a slot was free."""
        evicted = None
        if len(self._holders) >= self.size:
            evicted = self._choose_evicted(peer)
            self.leave(evicted)
        self._holders[one] = peer
        return evicted

    def leave(self, one: T) -> None:
        """Give a slot back; without effect for one that holds none."""
        self._holders.pop(one, None)

    def _choose_evicted(self, newcomer: Peer) -> T:
        # Counter keeps the order of arrival, and most_common() returns the first of equals.
        peers = [*self._holders.values(), newcomer]
        site = Counter(peer.site for peer in peers).most_common(1)[0][0]
        prefix = Counter(peer.prefix for peer in peers if peer.site == site).most_common(1)[0][0]
        party = [one for one, peer in self._holders.items() if peer.prefix == prefix]
        return self._choose(party) if newcomer.prefix == prefix else party[-1]
