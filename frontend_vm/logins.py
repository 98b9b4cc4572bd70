"""The queue of logins on their way to the backend.

The backend checks one password at a time, and those of an address that guesses only every few seconds. People who share
such an address (NAT, a jump host) cannot be told from the one who guesses. So a login that can be checked soon waits
here, and of all that wait for the same address one is drawn at random; without that, whoever asks most often would
always be next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from frontend_vm.fair_slots import FairSlots
from frontend_vm.protocol.peers import Peer
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.session import Session, SessionOpen

MAX_IN_PROGRESS = 2
"""Logins that the backend works on at a time, of one address only one. Anybody can cause them and each takes long, so
they must not fill the link or delay an operator's requests."""
MAX_WAITING = 64
MAX_WAIT_S = 9.0
"""Longest wait of a login in seconds: a little more than an address that guesses has to wait, less than browsers do."""
MAX_BLOCKED = 256

_Turn = asyncio.Future[None]


class Logins:
    """All logins of the front-end.

    Args:
        ask: has the backend check one; raises `Refused`.
        close: closes a session that was opened after its peer had gone.
        choose: draws one at random.
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
        self._waiting: FairSlots[_Turn] = FairSlots(MAX_WAITING)
        self._in_progress: dict[_Turn, Peer] = {}
        self._blocked_until: dict[str, float] = {}
        """By address: when the backend will check another of its logins, in seconds of the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, do: SessionOpen, peer: Peer) -> Session:
        """Open a session.

        Raises:
            Refused: by the backend, or ``limited`` if the wait is too long or too many logins of that party wait.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_WAIT_S
        while True:
            turn: _Turn = loop.create_future()
            try:
                await self._wait(turn, peer, deadline)
            except BaseException:
                self._waiting.leave(turn)
                self._end(turn)
                raise
            # Not cancelled when the peer hangs up: the backend has the request, and the slot is free when it has
            # answered.
            attempt = loop.create_task(self._attempt(turn, do, peer))
            try:
                return await asyncio.shield(attempt)
            except asyncio.CancelledError:
                attempt.add_done_callback(self._close_unclaimed)
                raise
            except Refused as refusal:
                if refusal.error.code != "limited" or loop.time() + refusal.error.retry_after_s > deadline:
                    raise

    async def _attempt(self, turn: _Turn, do: SessionOpen, peer: Peer) -> Session:
        try:
            return await self._ask(do)
        except Refused as refusal:
            self._block(peer.address, asyncio.get_running_loop().time() + refusal.error.retry_after_s)
            raise
        finally:
            self._end(turn)

    def _close_unclaimed(self, attempt: asyncio.Task[Session]) -> None:
        if not attempt.cancelled() and attempt.exception() is None:
            self._close_session(attempt.result())

    def _end(self, turn: _Turn) -> None:
        self._in_progress.pop(turn, None)
        self._dispatch()

    async def _wait(self, turn: _Turn, peer: Peer, deadline: float) -> None:
        if (evicted := self._waiting.enter(turn, peer)) and not evicted.done():
            evicted.set_exception(Refused("limited", "Too many logins at once.", retry_after_s=1.0))
        self._dispatch()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            wait = max(1.0, self._blocked_until.get(peer.address, 0.0) - asyncio.get_running_loop().time())
            raise Refused("limited", "Too many failed logins.", retry_after_s=wait) from None

    def _dispatch(self) -> None:
        """Send the logins that may be checked now, and set a timer for the next address that may be."""
        loop = asyncio.get_running_loop()
        while len(self._in_progress) < MAX_IN_PROGRESS:
            now = loop.time()
            busy = {peer.address for peer in self._in_progress.values()}
            waiting = [(turn, self._waiting.peer(turn)) for turn in self._waiting]
            ready = [
                (turn, peer)
                for turn, peer in waiting
                if peer.address not in busy and self._blocked_until.get(peer.address, 0.0) <= now
            ]
            if not ready:
                blocked = [self._blocked_until.get(peer.address, 0.0) for _, peer in waiting]
                later = [end for end in blocked if end > now]
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_at(min(later), self._dispatch) if later else None
                return
            # The address whose party and site have fewest in progress, the first of equals; of its logins any.
            _, chosen = min(ready, key=lambda one: self._load(one[1]))
            turn = self._choose([turn for turn, peer in ready if peer.address == chosen.address])
            self._waiting.leave(turn)
            self._in_progress[turn] = chosen
            if not turn.done():
                turn.set_result(None)

    def _load(self, peer: Peer) -> tuple[int, int]:
        others = self._in_progress.values()
        return sum(one.prefix == peer.prefix for one in others), sum(one.site == peer.site for one in others)

    def _block(self, address: str, until: float) -> None:
        now = asyncio.get_running_loop().time()
        self._blocked_until.pop(address, None)
        self._blocked_until = {other: end for other, end in self._blocked_until.items() if end > now}
        if len(self._blocked_until) >= MAX_BLOCKED:
            del self._blocked_until[next(iter(self._blocked_until))]
        self._blocked_until[address] = until
