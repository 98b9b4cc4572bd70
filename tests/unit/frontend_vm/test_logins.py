"""Which login goes to the backend next while somebody guesses."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from pathlib import Path

import pytest

from frontend_vm import logins
from frontend_vm.logins import Logins
from frontend_vm.protocol.peers import Peer
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.session import Session, SessionOpen
from tests.unit.frontend_vm.fake_backend import PASSWORD
from tests.unit.frontend_vm.rig import running, until

ATTACKER, OPERATOR = Peer.parse("192.0.2.66"), Peer.parse("192.0.2.7")
TOKEN = "A" * 43


class Host:
    """A backend that checks one login of an address every so many seconds, as after many failures."""

    def __init__(self, slow_s: float, look_s: float = 0.0) -> None:
        self.slow_s = slow_s
        self.look_s = look_s
        self.checks: list[str] = []
        self.asked = 0
        self.at_once = 0
        self._open_at: dict[str, float] = {}

    async def ask(self, do: SessionOpen) -> Session:
        self.asked += 1
        wait = self._open_at.get(do.address, 0.0) - time.monotonic()
        if wait > 0:
            raise Refused("limited", "", retry_after_s=wait)
        self.checks.append(do.address)
        self.at_once += 1
        assert self.at_once <= logins.MAX_IN_PROGRESS
        try:
            await asyncio.sleep(self.look_s)
        finally:
            self.at_once -= 1
        if do.password != PASSWORD:
            self._open_at[do.address] = time.monotonic() + self.slow_s
            raise Refused("denied", "", retry_after_s=self.slow_s)
        return Session(TOKEN, 600)


class Guesser:
    """Tries so often, from one address after the other, and waits for no answer."""

    def __init__(self, queue: Logins, peers: list[Peer], every_s: float) -> None:
        self.answers: list[str] = []
        self._queue = queue
        self._peers = itertools.cycle(peers)
        self._every_s = every_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Guesser:
        self._tasks.add(asyncio.create_task(self._flood()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _flood(self) -> None:
        while True:
            self._tasks.add(asyncio.create_task(self._guess()))
            await asyncio.sleep(self._every_s)

    async def _guess(self) -> None:
        try:
            await attempt(self._queue, next(self._peers), "guess")
        except Refused as refusal:
            self.answers.append(refusal.error.code)


async def attempt(queue: Logins, peer: Peer, password: str) -> Session:
    return await queue.open(SessionOpen("admin", password, "ssh", peer.address), peer)


@pytest.mark.parametrize("pattern", ["192.0.2.66", "2001:db8:1:6::{}", "198.51.100.{}", "2001:db8:1:{}::1"])
def test_an_operator_waits_neither_behind_a_flood_of_guesses_nor_is_pushed_out_by_it(pattern: str) -> None:
    async def scenario() -> None:
        host = Host(slow_s=0.05, look_s=0.02)
        queue = Logins(host.ask)
        peers = [Peer.parse(pattern.format(number)) for number in range(1, 200)]
        async with Guesser(queue, peers, 0.002) as guesser:
            await until(lambda: "limited" in guesser.answers and "denied" in guesser.answers)
            for _ in range(10):
                before = len(host.checks)
                assert (await attempt(queue, OPERATOR, PASSWORD)).token == TOKEN
                assert len(host.checks) - before <= 3 * logins.MAX_IN_PROGRESS, "of some 64 that wait"

    asyncio.run(scenario())


def test_who_hangs_up_has_a_place_until_the_backend_has_answered_and_leaves_no_session() -> None:
    """Else each of a stranger's connections, closed at once, would be one more request for the backend."""

    async def scenario() -> None:
        closed: list[str] = []
        host = Host(slow_s=0.0, look_s=0.05)  # asserts that it never has more than it may
        queue = Logins(host.ask, lambda session: closed.append(session.token))
        for number in range(20):
            gone = asyncio.create_task(attempt(queue, Peer.parse(f"192.0.2.{number + 1}"), PASSWORD))
            await asyncio.sleep(0.005)
            gone.cancel()
        await until(lambda: len(closed) == len(host.checks) > 2)
        assert host.at_once == 0
        assert (await attempt(queue, OPERATOR, PASSWORD)).token == TOKEN

    asyncio.run(scenario())


def test_who_shares_an_address_with_a_guesser_gets_in_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look every eight seconds, forty times as fast; the guesser's next attempt is always there first."""
    monkeypatch.setattr(logins, "MAX_WAIT_S", 9 / 40)

    async def scenario() -> None:
        host = Host(slow_s=8 / 40)
        queue = Logins(host.ask)

        async def guess_after_each_check() -> None:
            seen = -1
            while True:
                if len(host.checks) != seen:
                    seen = len(host.checks)
                    guesses.add(asyncio.create_task(attempt(queue, ATTACKER, "guess")))
                await asyncio.sleep(0)

        guesses: set[asyncio.Task[Session]] = set()
        flood = asyncio.create_task(guess_after_each_check())
        try:
            for _ in range(40):
                checks = len(host.checks)
                await until(lambda checks=checks: len(host.checks) > checks)  # type: ignore[misc]
                await asyncio.sleep(0.02)
                with suppress(Refused):
                    await attempt(queue, ATTACKER, PASSWORD)
                    return
            pytest.fail("none of 40 tries was looked at")
        finally:
            for task in (flood, *guesses):
                task.cancel()
            await asyncio.gather(flood, *guesses, return_exceptions=True)

    asyncio.run(scenario())


def test_who_mistyped_waits_for_the_next_look_instead_of_being_sent_away() -> None:
    async def scenario() -> None:
        host = Host(slow_s=0.3)
        queue = Logins(host.ask)
        with pytest.raises(Refused):
            await attempt(queue, OPERATOR, "wrong")
        began = time.monotonic()
        assert (await attempt(queue, OPERATOR, PASSWORD)).token == TOKEN
        assert 0.2 < time.monotonic() - began < 2.0
        assert host.asked == 2, "the backend was asked in vain"

    asyncio.run(scenario())


@pytest.mark.parametrize("code", ["limited", "denied"])
def test_a_wait_that_is_too_long_is_told(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(logins, "MAX_WAIT_S", 0.2)

    async def scenario() -> None:
        asked = []

        async def ask(do: SessionOpen) -> Session:
            asked.append(do)
            raise Refused("limited" if code == "limited" else "denied", "", retry_after_s=60.0)

        queue = Logins(ask)
        for expected in (code, "limited"):
            with pytest.raises(Refused) as refused:
                await attempt(queue, OPERATOR, "wrong")
            assert refused.value.error.code == expected
            assert 50 < refused.value.error.retry_after_s <= 60
        assert len(asked) == 1

    asyncio.run(scenario())


def test_logins_of_strangers_cannot_fill_the_link(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.silent = True
            most = 1 + logins.MAX_WAITING  # one of an address is under way
            tasks = [
                asyncio.create_task(rig.frontend.link.login("admin", "guess", "https", ATTACKER))
                for _ in range(most + 6)
            ]
            await until(lambda: sum(task.done() for task in tasks) == 6)
            for task in tasks:
                if task.done():
                    error = task.exception()
                    assert isinstance(error, Refused)
                    assert error.error.code == "limited"
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())
