"""A daemon in this process, clients that behave and clients that do not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from backend.daemon import chain
from backend.daemon.audit import KINDS
from backend.daemon.main import Daemon
from backend.daemon.settings import Settings
from backend.protocol import link_plan
from backend.protocol.codec import Reply, Request, decode_reply, encode
from backend.protocol.instructions import AnyInstruction
from backend.protocol.session import SessionOpen

DEADLINE_S = 10.0
NEW_PASSWORD = "correct horse battery"


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run one asynchronous test; a hang fails it."""
    asyncio.run(asyncio.wait_for(test, 3 * DEADLINE_S))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fail at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Client:
    """The front-end's end of one connection."""

    def __init__(self, rig: Rig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._rig = rig
        self.reader = reader
        self.writer = writer

    async def raw(self, data: bytes) -> Reply:
        """Send bytes as they are; the next reply."""
        self.writer.write(data)
        return await self.reply()

    async def reply(self) -> Reply:
        """The next reply."""
        async with asyncio.timeout(DEADLINE_S):
            return decode_reply(await self.reader.readuntil(b"\n"))

    async def ask(self, do: AnyInstruction, token: str | None = None) -> Any:
        """Have an instruction carried out; its result."""
        seq = self._rig.next_seq()
        reply = await self.raw(encode(Request(v=1, seq=seq, do=do, token=token)))
        assert reply.seq == seq
        return reply.result

    async def login(self, password: str, user: str = "admin", address: str = "192.0.2.7") -> Any:
        return await self.ask(SessionOpen(user=user, password=password, service="https", address=address))

    async def ended(self) -> bytes:
        """What still comes until the backend closes the connection; fails if it does not."""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                return await self.reader.read()
        return b""


class Rig:
    """A running daemon and what surrounds it on a host."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.console: list[str] = []
        self.hostname = "sallyport"
        self.daemon = Daemon(settings, console=self.console.extend, hostname=lambda: self.hostname)
        self._seq = 0
        self._writers: list[asyncio.StreamWriter] = []

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    @property
    def first_password(self) -> str:
        marker = "sallyport: first password for admin: "
        (line,) = [line for line in self.console if line.startswith(marker)]
        return line.removeprefix(marker)

    def context(self, who: str = "frontend") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.settings.link / "backend.crt")
        if who:
            context.load_cert_chain(self.settings.link / f"{who}.crt", self.settings.link / f"{who}.key")
        return context

    async def connect(self, context: ssl.SSLContext | None = None, source: str = "127.0.0.1") -> Client:
        """A connection, by default with the right certificate."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self.daemon.port,
            ssl=context or self.context(),
            server_hostname=link_plan.BACKEND_NAME,
            local_addr=(source, 0),
        )
        self._writers.append(writer)
        return Client(self, reader, writer)

    async def plain(self) -> Client:
        """A TCP connection that has not begun its handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.daemon.port)
        self._writers.append(writer)
        return Client(self, reader, writer)

    async def operator(self) -> tuple[Client, str]:
        """A connection and the token of an operator who is logged in."""
        client = await self.connect()
        return client, (await client.login(self.first_password)).token

    def audit(self, **fields: object) -> list[dict[str, Any]]:
        """The entries of the audit log with these fields."""
        return [entry for entry in read_audit(self.settings.data) if fields.items() <= entry.items()]

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


def read_log(data: Path, kind: str) -> list[dict[str, Any]]:
    """All entries of one log that are still there, oldest first."""
    paths = chain.files(data / "audit", kind)
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def read_audit(data: Path) -> list[dict[str, Any]]:
    """The entries of all logs by their time."""
    return sorted((entry for kind in KINDS for entry in read_log(data, kind.name)), key=lambda entry: entry["time"])


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Rig]:
    """Start a daemon, stop it at the end; afterwards no task of it may be left."""
    rig = Rig(settings)
    async with rig.daemon:
        try:
            yield rig
        finally:
            rig.hang_up()


class Now:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s
