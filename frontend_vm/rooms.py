"""Places for strangers: a bounded number, shared out so that whoever takes many loses one, not whoever came alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from frontend_vm.protocol.peers import Peer

T = TypeVar("T")


class Room(Generic[T]):
    """Who holds one of `most` places.

    When a newcomer finds it full, somebody must go: one of the busiest party of the busiest site (`peers`), the
    newcomer counted. It is that party's newest, as an attacker's newest has the least to lose. Is the newcomer itself
    of that party, it is any of them by lot: people behind one address (NAT) cannot be told apart, and each rule would
    be of use to the one who floods. Where nobody holds more than another, it is the oldest, who had the most time.

    Args:
        most: the places.
        choose: draws the lot.
    """

    def __init__(self, most: int, choose: Callable[[Sequence[T]], T] = random.choice) -> None:
        self.most = most
        self._choose = choose
        self._inside: dict[T, Peer] = {}  # in order of arrival

    def __len__(self) -> int:
        return len(self._inside)

    def __contains__(self, one: T) -> bool:
        return one in self._inside

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._inside))

    def peer(self, one: T) -> Peer:
        """Where somebody comes from who has a place."""
        return self._inside[one]

    def enter(self, one: T, peer: Peer) -> T | None:
        """Take a place. Returns who has lost its place by that; None if there was one left."""
        loser = None
        if len(self._inside) >= self.most:
            loser = self._loser(peer)
            self.leave(loser)
        self._inside[one] = peer
        return loser

    def leave(self, one: T) -> None:
        """Give a place back; who has none keeps none."""
        self._inside.pop(one, None)

    def _loser(self, newcomer: Peer) -> T:
        # Counter keeps the order of arrival, and most_common() the first of equals.
        peers = [*self._inside.values(), newcomer]
        site = Counter(peer.site for peer in peers).most_common(1)[0][0]
        prefix = Counter(peer.prefix for peer in peers if peer.site == site).most_common(1)[0][0]
        party = [one for one, peer in self._inside.items() if peer.prefix == prefix]
        return self._choose(party) if newcomer.prefix == prefix else party[-1]
