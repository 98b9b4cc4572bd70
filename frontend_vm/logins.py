"""Logins on their way to the backend: who goes next, and who waits for a moment instead of being sent away.

The backend looks at one password at a time, and an address that guesses is looked at every few seconds only. People who
share such an address (NAT, a jump host) cannot be told from the one who guesses; so whoever comes within reach of the
next look waits here for it, and it is given by lot. Else it would go to whoever asks most often, each time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from frontend_vm.protocol.peers import Peer
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.session import Session, SessionOpen
from frontend_vm.rooms import Room

MAX_UNDER_WAY = 2
"""Logins that the backend has. Strangers can cause these, and it takes its time for each, so they may neither fill the
link nor stand in front of an operator's requests; and one of an address at a time."""
MAX_WAITING = 64
HOLD_S = 9.0
"""Seconds that a login waits at most: a little more than an address that guesses has to, and less than browsers do."""
MAX_CLOSED = 256

_Turn = asyncio.Future[None]


class Logins:
    """All logins of the front-end.

    Args:
        ask: has the backend look at one; raises `Refused`.
        close: is given a session that was opened for somebody who is gone.
        choose: draws the lot.
    """

    def __init__(
        self,
        ask: Callable[[SessionOpen], Awaitable[Session]],
        close: Callable[[Session], None] = lambda _: None,
        choose: Callable[[list[_Turn]], _Turn] = random.choice,
    ) -> None:
        self._ask = ask
        self._close_session = close
        self._choose = choose
        self._waiting: Room[_Turn] = Room(MAX_WAITING)
        self._under_way: dict[_Turn, Peer] = {}
        self._closed: dict[str, float] = {}
        """By address: when the backend will look at another of its logins, in seconds of the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, do: SessionOpen, peer: Peer) -> Session:
        """Open a session.

        Raises:
            Refused: by the backend, or ``limited`` where the wait is too long or there are too many of that party.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD_S
        while True:
            turn: _Turn = loop.create_future()
            try:
                await self._wait(turn, peer, deadline)
            except BaseException:
                self._waiting.leave(turn)
                self._end(turn)
                raise
            # Whoever hangs up does not take it back: the backend has it, so its place is free when that has answered.
            look = loop.create_task(self._look(turn, do, peer))
            try:
                return await asyncio.shield(look)
            except asyncio.CancelledError:
                look.add_done_callback(self._in_vain)
                raise
            except Refused as refusal:
                if refusal.error.code != "limited" or loop.time() + refusal.error.retry_after_s > deadline:
                    raise

    async def _look(self, turn: _Turn, do: SessionOpen, peer: Peer) -> Session:
        try:
            return await self._ask(do)
        except Refused as refusal:
            self._close(peer.address, asyncio.get_running_loop().time() + refusal.error.retry_after_s)
            raise
        finally:
            self._end(turn)

    def _in_vain(self, look: asyncio.Task[Session]) -> None:
        if not look.cancelled() and look.exception() is None:
            self._close_session(look.result())

    def _end(self, turn: _Turn) -> None:
        self._under_way.pop(turn, None)
        self._start()

    async def _wait(self, turn: _Turn, peer: Peer, deadline: float) -> None:
        if (loser := self._waiting.enter(turn, peer)) and not loser.done():
            loser.set_exception(Refused("limited", "Too many logins at once.", retry_after_s=1.0))
        self._start()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            wait = max(1.0, self._closed.get(peer.address, 0.0) - asyncio.get_running_loop().time())
            raise Refused("limited", "Too many failed logins.", retry_after_s=wait) from None

    def _start(self) -> None:
        """Send whoever may go; the others when their address is looked at again."""
        loop = asyncio.get_running_loop()
        while len(self._under_way) < MAX_UNDER_WAY:
            now = loop.time()
            busy = {peer.address for peer in self._under_way.values()}
            waiting = [(turn, self._waiting.peer(turn)) for turn in self._waiting]
            ready = [
                (turn, peer)
                for turn, peer in waiting
                if peer.address not in busy and self._closed.get(peer.address, 0.0) <= now
            ]
            if not ready:
                later = [self._closed[peer.address] for _, peer in waiting if self._closed.get(peer.address, 0.0) > now]
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_at(min(later), self._start) if later else None
                return
            # Of equals the one who came first, and of his address anyone.
            _, chosen = min(ready, key=lambda one: self._company(one[1]))
            turn = self._choose([turn for turn, peer in ready if peer.address == chosen.address])
            self._waiting.leave(turn)
            self._under_way[turn] = chosen
            if not turn.done():
                turn.set_result(None)

    def _company(self, peer: Peer) -> tuple[int, int]:
        others = self._under_way.values()
        return sum(one.prefix == peer.prefix for one in others), sum(one.site == peer.site for one in others)

    def _close(self, address: str, until: float) -> None:
        now = asyncio.get_running_loop().time()
        self._closed.pop(address, None)
        self._closed = {other: end for other, end in self._closed.items() if end > now}
        if len(self._closed) >= MAX_CLOSED:
            del self._closed[next(iter(self._closed))]
        self._closed[address] = until
