"""One HTTP/1.1 connection between Tornado's parser and the socket: bounded, and every error gets an answer.

Tornado parses requests, but gives no answer that a program could read in four cases: a head that is too long, one that
it cannot parse, a body that does not come, one that does not end as it should. All of these pass through the stream
that Tornado reads and writes, so `BoundedStream` replaces that stream and `RequestGuard` stands before the application:

* A handler is called when its request is complete. So its answer is never sent while the body still arrives, and an
  error answer by a handler does not end the connection.
* An error answer from this module ends the connection so that the client can read it. Closing a socket that has unread
  data sends a reset, which can discard the answer at a client that is still sending (RFC 9112 section 9.6). So only our
  half is closed at first, and what still arrives is read for a while and dropped.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import cast

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError

from frontend_vm.http_request import MAX_BODY, MAX_HEADER, check, check_head, malformed, oversized, too_long
from frontend_vm.problem import Problem

RECORD = 16384
"""Bytes read at once: a whole TLS record (RFC 8446 section 5.1), as the rest of a record that stays in the TLS layer
does not make the socket readable."""
MAX_CHUNK_LINE = 256
"""Bytes of a chunk's size and extensions, and of a trailer's line."""
LINGER = 10.0
MAX_LINGER = 16 << 20
"""Seconds and bytes that are still read, and dropped, from a client after the last answer."""
MAX_DRAINING = 32
"""Such clients at a time; beyond, the oldest is cut off."""
_BARE = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""What Tornado writes to a message that it cannot parse, past every delegate (`HTTP1Connection._read_message`)."""


class BoundedStream:
    """Stands in for an `IOStream`: has the methods of one that Tornado's `HTTP1Connection` calls.

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
        """Whether no more requests are read from it."""
        return self._ending is not None or self._stream.closed()

    def write(self, data: bytes) -> asyncio.Future[None]:
        """As `IOStream`; nothing is sent after the last answer."""
        if not self.closed():
            if data == _BARE:
                self.refuse(malformed("This is not an HTTP request."))
            else:
                self._written = self._stream.write(data)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            self._written.set_result(None)
        return self._written

    def close(self) -> None:
        """End the connection once everything is sent, so that the client can read it."""
        if not self.closed():
            self._ending = asyncio.get_running_loop().create_task(self._end())

    def refuse(self, problem: Problem) -> StreamClosedError:
        """Answer the problem and end the connection. Returns the exception to raise, which makes Tornado drop the
        request."""
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
            if not searched:  # RFC 9112 section 2.2: empty lines before a request are ignored
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
        """The line with a chunk's size, without its extensions (RFC 9112 section 7.1.1 has them ignored)."""
        line = await self._line()
        size = line.partition(b";")[0].rstrip(b" \t")
        self._trailers = size.strip(b"0") == b""
        return size + b"\r\n"

    async def read_bytes(self, count: int, partial: bool = False) -> bytes:
        """With ``partial`` some bytes of a body; without, the end of a chunk or, after the last one, of all
        trailers."""
        if not partial:
            budget = MAX_HEADER
            while line := await self._line():
                budget -= len(line)
                if not self._trailers or budget < 0:
                    raise self.refuse(malformed("The body does not follow Transfer-Encoding: chunked."))
            return b"\r\n"
        while not self._buffer:
            await self._more()
        return self._take(min(count, len(self._buffer)))

    def _take(self, count: int) -> bytes:
        if self.closed():  # what follows a refused request is ignored
            raise StreamClosedError
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0 and len(self._buffer) <= MAX_CHUNK_LINE:
            await self._more()
        if not 0 <= end <= MAX_CHUNK_LINE:
            raise self.refuse(malformed("The body does not follow Transfer-Encoding: chunked."))
        return self._take(end + 2)[:-2]

    async def _more(self) -> None:
        if self.closed():
            raise StreamClosedError
        reading = self._reading or asyncio.ensure_future(self._stream.read_bytes(RECORD, partial=True))
        self._reading = reading
        # Not cancelled on timeout: after a cancelled read, a stream cannot be read any more.
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
        except OSError:  # also TimeoutError and StreamClosedError: the client does not read the answer
            pass
        finally:
            # TLS ends here, before what still arrives is dropped. Fed to OpenSSL, data of a closed session leaves
            # errors in the thread's error queue, and the next TLS connection to read it, the link to the backend,
            # breaks (seen with Python 3.13 and OpenSSL 3.5).
            self._stream.close()
        if connection is not None:
            with connection:
                await _drain(connection)


_draining: dict[asyncio.Task[None], None] = {}
"""In order of arrival."""


async def _drain(connection: socket.socket) -> None:
    """Close our half, then read and drop what still arrives until the client closes or the time is over."""
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
    except OSError:  # also TimeoutError: enough either way
        pass
    finally:
        _draining.pop(task, None)


class RequestGuard(HTTPMessageDelegate):
    """Stands between Tornado's parser and the application: passes a request on when it is valid and complete.

    Args:
        delegate: the application's, for this one request.
        stream: the request's connection.
    """

    def __init__(self, delegate: HTTPMessageDelegate, stream: BoundedStream) -> None:
        self._delegate = delegate
        self._stream = stream
        self._start: RequestStartLine | None = None
        self._headers = HTTPHeaders()
        self._body = bytearray()

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Check; nothing is passed on yet."""
        try:
            self._start = check(cast(RequestStartLine, start_line), headers)
        except Problem as problem:
            self._stream.refuse(problem)
        self._headers = headers

    def data_received(self, chunk: bytes) -> None:
        """Collect the body."""
        self._body += chunk[: MAX_BODY + 1 - len(self._body)]
        if len(self._body) > MAX_BODY:
            self._stream.refuse(oversized())

    def finish(self) -> None:
        """Hand the whole request over."""
        if self._start is not None and not self._stream.closed():
            # As if it arrived in parts: Tornado's form parsers then never see a body.
            self._delegate.headers_received(self._start, self._headers)
            self._delegate.data_received(bytes(self._body))
            self._delegate.finish()

    def on_connection_close(self) -> None:
        """The rest of the request will not come; the application has not seen its beginning."""
