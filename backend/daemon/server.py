"""Connections from the front-end: TLS handshake, lines in, replies out, and every limit on them.

The peer is assumed to be hostile. Each connection has one task, one line at a time, and bounded buffers. It counts
against the limit from its acceptance until its socket is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time

from backend.daemon.audit import Audit
from backend.daemon.executor import Executor
from backend.daemon.link import LinkKeys
from backend.daemon.settings import Settings
from backend.daemon.validator import RequestValidator
from backend.protocol.base import Error, ErrorCode
from backend.protocol.codec import MAX_LINE, Reply, encode
from backend.protocol.rate_limit import Bucket
from backend.protocol.refusal import Refused

log = logging.getLogger("server")

READ_AHEAD = 16384
"""Unread bytes that are buffered per connection: one TLS record."""
SHUTDOWN_S = 2.0
LINGER_S, LINGER = 0.5, 65536
"""Seconds and bytes that are read after the last reply. Closing a socket with unread data resets the connection (RFC
2525 section 2.17), and the reset could reach the peer before the reply that says why."""
PAUSED = frozenset({"malformed", "version", "replayed", "limited", "denied"})
"""Error codes that are answered after `Settings.pause_s`."""


class _Closing(Exception):
    """The connection cannot continue; carries the error of the last reply."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.error = Error(code, message)


class LinkServer:
    """Serves the link until cancelled."""

    def __init__(
        self,
        settings: Settings,
        keys: LinkKeys,
        listener: socket.socket,
        validator: RequestValidator,
        executor: Executor,
        audit: Audit,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._listener = listener
        self._validator = validator
        self._executor = executor
        self._audit = audit
        self._connects = Bucket(settings.connect_rate, settings.connect_burst)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept connections; when cancelled, close them all."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if (wait := self._connects.take()) > 0.0:
                    await asyncio.sleep(wait)
                    continue
                try:
                    sock, address = await loop.sock_accept(self._listener)
                except OSError as error:
                    # EMFILE, ENOMEM, ECONNABORTED: all temporary.
                    log.warning("cannot accept a connection: %s", error)
                    await asyncio.sleep(0.2)
                    continue
                where = f"link {address[0]}:{address[1]}"
                # SO_BINDTODEVICE does not keep the host's own processes out: the kernel treats what they send to an
                # interface's address as received on it. They cannot have the peer's address, though.
                if address[0] != self._settings.peer:
                    sock.close()
                    await self._audit.reject("connection", peer=where, outcome="denied", detail="not the front-end")
                    continue
                if len(self._tasks) >= self._settings.connections:
                    sock.close()
                    await self._audit.reject("connection", peer=where, outcome="limited", detail="too many connections")
                    continue
                task = loop.create_task(self._connection(sock, where))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._listener.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, sock: socket.socket, where: str) -> None:
        connected_at = time.monotonic()
        try:
            reader, writer = await self._handshake(sock)
        except OSError as error:  # also ssl.SSLError, TimeoutError, ConnectionError
            sock.close()
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            await self._audit.reject("handshake", peer=where, outcome="denied", detail=str(reason))
            return
        except BaseException:
            sock.close()
            raise
        try:
            await self._converse(reader, writer, where, connected_at)
        except OSError:  # the peer went away
            pass
        except Exception:
            log.exception("%s", where)
        finally:
            await _close(writer)

    async def _handshake(self, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        # The limit is for the rest of a line: `_line` has read its first byte, and the newline does not count.
        reader = asyncio.StreamReader(limit=MAX_LINE - 2, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self._keys.context,
            ssl_handshake_timeout=self._settings.handshake_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        # `drain` waits until the kernel has taken every byte. Not high=0: asyncio's TLS (3.11 to 3.13) then takes an
        # empty buffer for a full one, and `drain` waits for ever.
        transport.set_write_buffer_limits(high=1, low=0)
        with contextlib.suppress(AttributeError):
            # TLS transports have it since 3.11, the type stubs do not.
            transport.set_read_buffer_limits(high=READ_AHEAD)  # type: ignore[attr-defined]
        tls = transport.get_extra_info("ssl_object")
        if tls is None or tls.version() != "TLSv1.3" or tls.getpeercert(binary_form=True) != self._keys.peer:
            transport.abort()
            raise ssl.SSLError("not the front-end's certificate")
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str, connected_at: float
    ) -> None:
        while True:
            try:
                line = await self._line(reader)
            except _Closing as closing:
                error = closing.error
                await self._audit.reject("message", peer=where, outcome=error.code, detail=error.message)
                await self._send(writer, Reply(0, error))
                await _drop_input(reader)
                return
            if line is None:
                return
            reply = await self._answer(line, where, connected_at)
            if isinstance(reply.result, Error) and reply.result.code in PAUSED:
                await asyncio.sleep(self._settings.pause_s)
            await self._send(writer, reply)

    async def _line(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next line with its newline; None if the peer has closed or was idle for too long."""
        try:
            async with asyncio.timeout(self._settings.idle_s):
                first = await reader.read(1)
        except TimeoutError:
            return None
        if first in (b"", b"\n"):
            return first or None
        try:
            async with asyncio.timeout(self._settings.line_s):
                return first + await reader.readuntil(b"\n")
        except TimeoutError:
            raise _Closing("incomplete", f"the line did not end within {self._settings.line_s:g} s") from None
        except asyncio.LimitOverrunError:
            raise _Closing("oversized", f"a line has at most {MAX_LINE} bytes") from None
        except (asyncio.IncompleteReadError, OSError):
            raise _Closing("incomplete", "the connection ended within a line") from None

    async def _answer(self, line: bytes, where: str, connected_at: float) -> Reply:
        try:
            request = self._validator.admit(line)
        except Refused as refused:
            error = refused.error
            await self._audit.reject("message", peer=where, outcome=error.code, detail=error.message)
            return Reply(refused.seq, error)
        return Reply(request.seq, await self._executor.execute(request, connected_at))

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        try:
            line = encode(reply)
        except ValueError:
            log.exception("a reply does not fit into one message")
            line = encode(Reply(reply.seq, Error("failed", "the answer does not fit in one message")))
        writer.write(line)
        # A TimeoutError is an OSError: a peer that does not read is treated as gone.
        async with asyncio.timeout(self._settings.write_s):
            await writer.drain()


async def _drop_input(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(LINGER_S):
            left = LINGER
            while left > 0 and (chunk := await reader.read(4096)):
                left -= len(chunk)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close with a TLS shutdown if the peer takes part, else abort. Raises nothing but CancelledError."""
    try:
        writer.close()
        async with asyncio.timeout(SHUTDOWN_S + 0.5):
            await writer.wait_closed()
    except OSError:
        pass
    finally:
        writer.transport.abort()
