"""Client of the link: one mutually authenticated connection to the backend; requests are pipelined, replies in
order."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from frontend_vm.logins import Logins
from frontend_vm.protocol.base import Done, Error, Result
from frontend_vm.protocol.codec import MAX_LINE, Reply, Request, decode_reply, decode_request, encode
from frontend_vm.protocol.fields import Password, Service
from frontend_vm.protocol.instructions import AnyInstruction
from frontend_vm.protocol.link_plan import BACKEND_NAME
from frontend_vm.protocol.peers import Peer
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.session import Session, SessionClose, SessionOpen
from frontend_vm.protocol.vm import HEARTBEAT_INTERVAL, Heartbeat
from frontend_vm.settings import load_identity

log = logging.getLogger("link")

CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 10.0
BACKOFF_FIRST = 0.2
BACKOFF_LAST = 2.0
"""Seconds between two attempts to connect: doubled with each, from the first to the last."""
MAX_PENDING = 32
"""Requests that wait for their replies; bounds the memory of both ends."""
MAX_SEQ = 2**63 - 1

R = TypeVar("R", bound=Result)


def client_context(directory: Path) -> ssl.SSLContext:
    """TLS 1.3 with ``link.key``/``link.crt`` as client certificate; ``backend.crt`` is the only trusted one.

    Raises:
        OSError: a file is missing or broken.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name by default
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    trusted = directory / "backend.crt"
    try:
        context.load_verify_locations(trusted)
    except OSError as error:  # ssl.SSLError too, which names no file
        raise OSError(f"{trusted}: {error}") from error
    load_identity(context, directory, "link")
    return context


class Unreachable(Exception):
    """The backend gave no answer; the text is a sentence for the operator."""


class Link:
    """The connection to the backend; `run` keeps it up, everything else may be called at any time.

    Args:
        tls: what `client_context` returns.
        address: IP address and port of the backend.
        alive: called before each heartbeat; while it returns False none is sent, so the supervisor restarts the VM.
    """

    def __init__(self, tls: ssl.SSLContext, address: tuple[str, int], alive: Callable[[], bool]) -> None:
        self.up = False
        """Whether the backend answered on the present connection."""
        self._tls = tls
        self._address = address
        self._alive = alive
        self._seq = 0
        self._writer: asyncio.StreamWriter | None = None
        self._pending: deque[tuple[int, asyncio.Future[Result]]] = deque()
        self._logins = Logins(lambda do: self.ask(do, Session), lambda session: self.logout(session.token))
        self._closings: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect, receive replies, connect again, until cancelled."""
        backoff = BACKOFF_FIRST
        last_logged = ""
        while True:
            was_up = False
            try:
                await self._serve_connection()
            except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:  # TimeoutError is an OSError
                was_up = self.up
                # Not the same line every two seconds.
                text = f"{type(error).__name__} {error}"
                if was_up or text != last_logged:
                    log.warning("not connected to the backend; trying again: %s", text)
                last_logged = text
            finally:
                self._drop()
            backoff = BACKOFF_FIRST if was_up else min(2 * backoff, BACKOFF_LAST)
            await asyncio.sleep(backoff)

    async def ask(self, do: AnyInstruction, expect: type[R], token: str | None = None) -> R:
        """Have an instruction carried out and return its result.

        Raises:
            Refused: the backend (or the schema) refused it.
            Unreachable: no connection, no answer within `REQUEST_TIMEOUT`, or a result of another type.
        """
        result = await self._exchange(do, token)
        if isinstance(result, Error) and result.code == "replayed":
            # The clock went back, or the VM resumed a checkpoint: continue above the number that the backend has seen.
            log.warning("request numbers continue above the last one that the backend has seen")
            self._seq = max(self._seq, result.last_seq)
            result = await self._exchange(do, token)
        if isinstance(result, Error):
            raise Refused.by_backend(result)
        if not isinstance(result, expect):
            raise Unreachable("The backend gave an answer of the wrong kind.")
        return result

    async def login(self, user: str, password: Password, service: Service, peer: Peer) -> Session:
        """Open a session. It takes longer while others guess passwords (`logins`).

        Raises:
            Refused: ``denied``, or ``limited``, the latter also if too many logins of that party wait.
            Unreachable: see `ask`.
        """
        try:
            do = SessionOpen(user=user, password=password, service=service, address=peer.address)
            session = await self._logins.open(do, peer)
        except Refused as refusal:
            log.warning("login over %s from %s refused: %s", service, peer.address, refusal.error.code)
            raise
        log.info("login over %s from %s", service, peer.address)
        return session

    def logout(self, token: str) -> None:
        """Close a session in the background; one that cannot be closed ends at its idle timeout."""

        async def close() -> None:
            try:
                await self.ask(SessionClose(), Done, token)
            except (Refused, Unreachable) as error:
                log.info("session not closed: %s", error)

        task = asyncio.get_running_loop().create_task(close())
        self._closings.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._closings.discard)

    async def _serve_connection(self) -> None:
        host, port = self._address
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, self._writer = await asyncio.open_connection(
                host, port, ssl=self._tls, server_hostname=BACKEND_NAME, limit=MAX_LINE
            )
        heartbeat = asyncio.create_task(self._send_heartbeats())
        try:
            while line := await reader.readline():  # ValueError: longer than MAX_LINE
                if not line.endswith(b"\n"):
                    break
                self._deliver(decode_reply(line))
        finally:
            heartbeat.cancel()
        raise EOFError("the backend closed the connection")

    async def _send_heartbeats(self) -> None:
        while True:
            if self._alive():
                try:
                    await self.ask(Heartbeat(), Done)
                except (Refused, Unreachable) as error:
                    log.warning("heartbeat failed: %s", error)
            else:
                log.error("no heartbeat sent, so the host will restart this VM: a web listener has been closed")
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    async def _exchange(self, do: AnyInstruction, token: str | None) -> Result:
        """Send one request and wait for its reply; there is no await between choosing ``seq`` and sending."""
        writer = self._writer
        if writer is None:
            raise Unreachable("The backend is not reachable.")
        if len(self._pending) >= MAX_PENDING:
            raise Refused("limited", "Too many requests at once.", retry_after_s=1.0)
        seq = max(self._seq + 1, time.time_ns())
        if seq > MAX_SEQ:
            raise Unreachable("The backend's sequence is exhausted.")
        try:
            line = encode(Request(v=1, seq=seq, do=do, token=token))
            decode_request(line)  # what the backend would refuse as malformed is not sent
        except (msgspec.MsgspecError, ValueError) as error:
            raise Refused("malformed", str(error)) from error
        self._seq = seq
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append((seq, answer))
        writer.write(line)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await answer
        except TimeoutError:
            # Replies come in order, so all requests behind this one wait, too.
            writer.transport.abort()
            raise Unreachable("The backend did not answer in time; the request may still be carried out.") from None

    def _deliver(self, reply: Reply) -> None:
        if not self._pending or reply.seq != self._pending[0][0]:
            message = reply.result.message if isinstance(reply.result, Error) else ""
            raise ValueError(f"reply {reply.seq} does not answer the oldest request. {message}")
        _, answer = self._pending.popleft()
        if not self.up:
            self.up = True
            log.info("the backend answers")
        if not answer.done():  # else the caller was cancelled
            answer.set_result(reply.result)

    def _drop(self) -> None:
        self.up = False
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        while self._pending:
            _, answer = self._pending.popleft()
            if not answer.done():
                answer.set_exception(Unreachable("The connection to the backend was lost before its answer."))
