"""One connection as Tornado's HTTP/1 code sees it: bounded, and with a readable answer to whatever goes wrong there.

Tornado parses requests, and leaves four things without an answer that a program could read: a head that is too long or
that it cannot parse, a body that does not come or does not end as it should. Each of these passes through the stream
that it reads from and writes to, so `Wire` stands in for that stream, and `Guard` for the application. Between them:

* A handler sees a request when all of it is there. So its answer never meets a body that is still under way, and a
  refusal by a handler does not cost the connection.
* A refusal from here ends the connection, and the client sees it: closing a socket while there is something unread
  in it sends a reset, which takes the answer away from a client that is still sending (RFC 9112 section 9.6). So our
  half is closed first, and what still comes is read for a while and dropped.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import cast

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError

from frontend_vm.message import MAX_BODY, MAX_HEADER, check, check_head, malformed, oversized, too_long
from frontend_vm.problem import Problem

RECORD = 16384
"""Bytes read at once: a whole TLS record (RFC 8446 section 5.1). What is left of one in the TLS layer wakes nobody."""
MAX_CHUNK_LINE = 256
"""Bytes of a chunk's size and extensions, and of a trailer's line."""
LINGER = 10.0
MAX_LINGER = 16 << 20
"""Seconds and bytes for which a client that was refused is still listened to."""
MAX_DRAINING = 32
"""Such clients at a time; the oldest makes room."""
_BARE = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""What Tornado writes to a message that it cannot parse, past every delegate (`HTTP1Connection._read_message`)."""


class Wire:
    """Has those methods of an `IOStream` that Tornado's `HTTP1Connection` calls.

    Args:
        stream: an accepted connection.
        idle_timeout: seconds for the TLS handshake and all headers together, and between two requests.
        body_timeout: seconds for a body.
    """

    def __init__(self, stream: IOStream, *, idle_timeout: float, body_timeout: float) -> None:
        self.io_loop = stream.io_loop
        self.max_buffer_size = stream.max_buffer_size
        self.socket = stream.socket
        self._stream = stream
        self._idle_timeout = idle_timeout
        self._body_timeout = body_timeout
        self._deadline = 0.0
        self._buffer = bytearray()
        self._reading: asyncio.Future[bytes] | None = None
        self._written: asyncio.Future[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_head = False
        self._in_body = False
        self._trailers = False

    def set_close_callback(self, callback: object) -> None:
        """As `IOStream`."""
        self._stream.set_close_callback(callback)  # type: ignore[arg-type]

    def set_nodelay(self, value: bool) -> None:
        """As `IOStream`."""
        self._stream.set_nodelay(value)

    def closed(self) -> bool:
        """Whether no more requests are taken from it."""
        return self._ending is not None or self._stream.closed()

    def write(self, data: bytes) -> asyncio.Future[None]:
        """As `IOStream`; what comes after the last answer is not sent."""
        if not self.closed():
            if data == _BARE:
                self.refuse(malformed("This is no HTTP request."))
            else:
                self._written = self._stream.write(data)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            self._written.set_result(None)
        return self._written

    def close(self) -> None:
        """End the connection once all is sent, in a way that lets the client see it."""
        if not self.closed():
            self._ending = asyncio.get_running_loop().create_task(self._end())

    def refuse(self, problem: Problem) -> StreamClosedError:
        """Answer what is wrong, once, and end the connection. Returns what to raise to have Tornado let go of it."""
        if not self.closed():
            self._written = self._stream.write(problem.last_answer(head=self._is_head))
            self.close()
        return StreamClosedError()

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """The head of a request, at most `MAX_HEADER` bytes."""
        self._deadline = self.io_loop.time() + self._idle_timeout
        self._in_body = False
        searched = 0
        while True:
            if not searched:  # RFC 9112 section 2.2: an empty line before a request is nothing
                del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
            self._is_head = self._buffer.startswith(b"HEAD ")
            match = re.compile(regex).search(self._buffer, searched)
            if match is None and len(self._buffer) <= MAX_HEADER:
                searched = max(0, len(self._buffer) - 3)
                await self._more()
                continue
            try:
                if match is None or match.end() > MAX_HEADER:
                    raise too_long(bytes(self._buffer))
                head = self._take(match.end())
                check_head(head)
            except Problem as problem:
                raise self.refuse(problem) from None
            self._deadline = self.io_loop.time() + self._body_timeout
            self._in_body = True
            return head

    async def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> bytes:
        """The line with a chunk's size. Its extensions are ignored, as RFC 9112 section 7.1.1 has it."""
        line = await self._line()
        size = line.partition(b";")[0].rstrip(b" \t")
        self._trailers = size.strip(b"0") == b""
        return size + b"\r\n"

    async def read_bytes(self, count: int, partial: bool = False) -> bytes:
        """Some of a body; not partial, the end of a chunk or, after the last one, of all trailers."""
        if not partial:
            budget = MAX_HEADER
            while line := await self._line():
                budget -= len(line)
                if not self._trailers or budget < 0:
                    raise self.refuse(malformed("The body is not what Transfer-Encoding: chunked should look like."))
            return b"\r\n"
        while not self._buffer:
            await self._more()
        return self._take(min(count, len(self._buffer)))

    def _take(self, count: int) -> bytes:
        if self.closed():  # what follows a refused request is nobody's
            raise StreamClosedError
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0 and len(self._buffer) <= MAX_CHUNK_LINE:
            await self._more()
        if not 0 <= end <= MAX_CHUNK_LINE:
            raise self.refuse(malformed("The body is not what Transfer-Encoding: chunked should look like."))
        return self._take(end + 2)[:-2]

    async def _more(self) -> None:
        if self.closed():
            raise StreamClosedError
        reading = self._reading or asyncio.ensure_future(self._stream.read_bytes(RECORD, partial=True))
        self._reading = reading
        # Not cancelled when the time is over: a stream with a cancelled read cannot be read any more.
        await asyncio.wait({reading}, timeout=self._deadline - self.io_loop.time())
        if reading.done():
            self._reading = None
            self._buffer += reading.result()
        elif self.closed():
            raise StreamClosedError
        elif self._buffer or self._in_body:
            raise self.refuse(Problem(408, "timeout", "The request did not come in time."))
        else:
            self._stream.close()
            raise StreamClosedError

    async def _end(self) -> None:
        connection: socket.socket | None = None
        try:
            async with asyncio.timeout(LINGER):
                if self._written is not None:
                    await self._written
            if self._stream.socket is not None:
                connection = socket.socket(fileno=os.dup(self._stream.socket.fileno()))
        except OSError:  # TimeoutError is one, StreamClosedError too: nobody reads the answer
            pass
        finally:
            # TLS ends here. What a peer that was cut off sends makes OpenSSL leave errors in the thread's queue: the
            # next to look there is the link to the backend, which breaks (seen with Python 3.13 and OpenSSL 3.5).
            self._stream.close()
        if connection is not None:
            with connection:
                await _drain(connection)


_draining: dict[asyncio.Task[None], None] = {}
"""In order of arrival."""


async def _drain(connection: socket.socket) -> None:
    """Say that nothing follows, and drop what still comes, until the client is done or has had time enough."""
    task = cast(asyncio.Task[None], asyncio.current_task())
    if len(_draining) >= MAX_DRAINING:
        next(iter(_draining)).cancel()
    _draining[task] = None
    try:
        connection.setblocking(False)
        connection.shutdown(socket.SHUT_WR)
        dropped = 0
        async with asyncio.timeout(LINGER):
            while dropped < MAX_LINGER and (chunk := await asyncio.get_running_loop().sock_recv(connection, RECORD)):
                dropped += len(chunk)
    except OSError:  # TimeoutError is one: the client has closed, or has not
        pass
    finally:
        _draining.pop(task, None)


class Guard(HTTPMessageDelegate):
    """Between Tornado's parser and the application: a request goes through when it is sound, and whole.

    Args:
        delegate: the application's, for this one request.
        wire: where the request comes from.
    """

    def __init__(self, delegate: HTTPMessageDelegate, wire: Wire) -> None:
        self._delegate = delegate
        self._wire = wire
        self._start: RequestStartLine | None = None
        self._headers = HTTPHeaders()
        self._body = bytearray()

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Check; nothing is passed on yet."""
        try:
            self._start = check(cast(RequestStartLine, start_line), headers)
        except Problem as problem:
            self._wire.refuse(problem)
        self._headers = headers

    def data_received(self, chunk: bytes) -> None:
        """Collect the body."""
        self._body += chunk[: MAX_BODY + 1 - len(self._body)]
        if len(self._body) > MAX_BODY:
            self._wire.refuse(oversized())

    def finish(self) -> None:
        """Hand the whole request over."""
        if self._start is not None and not self._wire.closed():
            # Handlers take their bodies in parts, so that no body meets Tornado's form parsers.
            self._delegate.headers_received(self._start, self._headers)
            self._delegate.data_received(bytes(self._body))
            self._delegate.finish()

    def on_connection_close(self) -> None:
        """The rest of the request will not come; nobody was told of its beginning."""
