"""HTTP as RFC 9110 and RFC 9112 have it, byte by byte over TLS: what is sent, and what comes back."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPMessage, parse_headers
from pathlib import Path
from typing import BinaryIO

import pytest

from frontend_vm import web
from frontend_vm.problem import HEADERS
from tests.unit.frontend_vm.rig import CLIENT, DEADLINE, Rig, running

HOST = b"Host: sallyport\r\n"
JSON = b"Content-Type: application/json\r\n"
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n"
LOGIN = b'{"user": "admin", "password": "wrong"}'
FORM = f"Content-Length: {len(LOGIN)}\r\n".encode()
HEALTH = "/api/v1/health"
SESSION = "POST /api/v1/session"
PROBE = b"GET /api/v1/health HTTP/1.1\r\nHost: sallyport\r\n\r\n"


@dataclass(frozen=True)
class Row:
    """One request and its answer."""

    name: str
    line: str
    """Method and target; the version is added unless it is there."""
    head: bytes
    """All headers."""
    status: int
    code: str = ""
    """Of the JSON error; empty if it is no error."""
    body: bytes = b""
    stays: bool = True
    """Whether the connection takes another request."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """What the answer must have, None: must not."""

    @property
    def request(self) -> bytes:
        line = self.line if "HTTP/" in self.line else f"{self.line} HTTP/1.1"
        return line.encode("latin-1") + b"\r\n" + self.head + b"\r\n" + self.body


def refused(name: str, line: str, head: bytes, status: int, code: str = "malformed", body: bytes = b"") -> Row:
    """Nothing after such a request can be trusted to be the next one: it ends the connection, and says so."""
    return Row(name, line, head, status, code, body, stays=False, headers={"Connection": "close"})


ALLOW_GET = {"Allow": "GET, HEAD, OPTIONS"}
TABLE = [
    Row("GET", f"GET {HEALTH}", HOST, 200),
    # Methods (RFC 9110 sections 9 and 15.5.6, 15.6.2)
    Row("HEAD of the API", f"HEAD {HEALTH}", HOST, 200, headers={"Content-Length": "16"}),
    Row("HEAD of an error", "HEAD /api/v1/none", HOST, 404, "not_found"),
    Row("HEAD of the page", "HEAD /", HOST, 200, headers={"ETag": web.ETAGS["/"], "Cache-Control": "no-cache"}),
    Row("HEAD without a GET", "HEAD /api/v1/session", HOST, 405, "method", headers={"Allow": "POST, DELETE, OPTIONS"}),
    Row("OPTIONS of the API", f"OPTIONS {HEALTH}", HOST, 204, headers=ALLOW_GET),
    Row("OPTIONS of the page", "OPTIONS /", HOST, 204, headers=ALLOW_GET),
    Row(
        "OPTIONS of the server",
        "OPTIONS *",
        HOST,
        204,
        headers={"Allow": "GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS"},
    ),
    Row("OPTIONS of the server, absolute", "OPTIONS https://sallyport", HOST, 204),
    Row("OPTIONS of nothing", "OPTIONS /none", HOST, 404, "not_found"),
    Row("not this method", f"DELETE {HEALTH}", HOST, 405, "method", headers=ALLOW_GET),
    Row("not this method, page", "POST /", HOST + FORM, 405, "method", LOGIN, headers=ALLOW_GET),
    Row("method before media type", "POST /api/v1/status", HOST + FORM, 405, "method", LOGIN),
    refused("method that nobody knows", f"BREW {HEALTH}", HOST, 501, "method"),
    refused("TRACE", "TRACE /", HOST, 501, "method"),
    refused("CONNECT", "CONNECT sallyport:443", HOST, 501, "method"),
    refused("methods have a case", "get /", HOST, 501, "method"),
    # Targets (RFC 9112 section 3.2)
    Row("absolute form", f"GET https://sallyport{HEALTH}", HOST, 200),
    Row("absolute form, case and port", f"GET HTTPS://Sallyport:8443{HEALTH}", HOST, 200),
    Row("absolute form, address", f"GET https://[fe80::1]{HEALTH}?x=/", HOST, 200),
    Row("absolute form without a path", "GET https://sallyport", HOST, 200, headers={"ETag": web.ETAGS["/"]}),
    Row(
        "its authority is the host",
        f"GET https://sallyport{HEALTH}",
        b"Host: other\r\nOrigin: https://sallyport\r\n",
        200,
    ),
    Row(
        "and the header is not",
        f"GET https://sallyport{HEALTH}",
        b"Host: other\r\nOrigin: https://other\r\n",
        403,
        "forbidden",
    ),
    refused("absolute form of HTTP", f"GET http://sallyport{HEALTH}", HOST, 421, "misdirected"),
    refused("user in an authority", f"GET https://a@sallyport{HEALTH}", HOST, 400),
    refused("broken address", f"GET https://[::1{HEALTH}", HOST, 400),
    refused("asterisk is for OPTIONS", "GET *", HOST, 400),
    refused("no slash", "GET api/v1/health", HOST, 400),
    refused("fragment", f"GET {HEALTH}#x", HOST, 400),
    Row("two slashes are a path", f"GET //sallyport{HEALTH}", HOST, 404, "not_found"),
    Row("not there", "GET /none", HOST, 404, "not_found"),
    Row("not there, API", "GET /api/v2/health", HOST, 404, "not_found", headers={"Cache-Control": "no-store"}),
    # Request line and headers (RFC 9112 sections 2.2, 3, 5)
    Row("empty lines before it", f"\r\n\r\nGET {HEALTH}", HOST, 200),
    refused("two spaces", f"GET  {HEALTH}", HOST, 400),
    refused("no version", "GET / ", HOST, 400),
    refused("HTTP/0.9", "HTTP/", HOST, 400),
    refused("HTTP/2", "PRI * HTTP/2.0", b"", 505, "version"),
    refused("control character", "GET /\x01", HOST, 400),
    refused("not ASCII", "GET /\xfc", HOST, 400),
    refused("not HTTP at all", "\x16\x03\x01", b"", 400),
    refused("no Host", f"GET {HEALTH}", b"", 400),
    refused("two Hosts", f"GET {HEALTH}", HOST + HOST, 400),
    refused("empty Host", f"GET {HEALTH}", b"Host:\r\n", 400),
    refused("Host with a path", f"GET {HEALTH}", b"Host: sallyport/x\r\n", 400),
    refused("Host with a user", f"GET {HEALTH}", b"Host: a@sallyport\r\n", 400),
    refused("no colon", f"GET {HEALTH}", HOST + b"X\r\n", 400),
    refused("space before a colon", f"GET {HEALTH}", HOST + b"X : y\r\n", 400),
    refused("no name", f"GET {HEALTH}", HOST + b": y\r\n", 400),
    refused("folded header", f"GET {HEALTH}", HOST + b"X: y\r\n z\r\n", 400),
    refused("folded from the start", f"GET {HEALTH}", b" X: y\r\n" + HOST, 400),
    refused("NUL in a header", f"GET {HEALTH}", HOST + b"X: a\0b\r\n", 400),
    refused("CR in a header", f"GET {HEALTH}", HOST + b"X: a\rb\r\n", 400),
    refused("long target", "GET /" + "a" * 9000, HOST, 414, "oversized"),
    refused("long header", f"GET {HEALTH}", HOST + b"X: " + b"a" * 9000 + b"\r\n", 431, "oversized"),
    refused("HEAD of a long target", "HEAD /" + "a" * 9000, HOST, 414),
    refused("HEAD without a Host", "HEAD /", b"", 400),
    refused("many headers", f"GET {HEALTH}", HOST + b"X: y\r\n" * 9000, 431, "oversized"),
    refused("long nonsense", "\0" * 9000, b"", 400),
    # Bodies (RFC 9112 sections 6 and 7; RFC 9110 sections 8.4, 10.1.1)
    Row("body", SESSION, HOST + JSON + FORM, 401, "denied", LOGIN),
    Row("no body", SESSION, HOST + JSON, 400, "malformed"),
    Row("body of a GET", f"GET {HEALTH}", HOST + JSON + FORM, 200, body=LOGIN),
    Row("not JSON", SESSION, HOST + FORM, 415, "media_type", LOGIN),
    Row("form", SESSION, HOST + b"Content-Type: multipart/form-data; boundary=x\r\n" + FORM, 415, "media_type", LOGIN),
    Row("compressed", SESSION, HOST + JSON + b"Content-Encoding: gzip\r\n" + FORM, 415, "media_type", LOGIN),
    refused("two lengths", SESSION, HOST + JSON + FORM + b"Content-Length: 3\r\n", 400, body=LOGIN),
    refused("length twice", SESSION, HOST + JSON + FORM + FORM, 400, body=LOGIN),
    refused("negative length", SESSION, HOST + JSON + b"Content-Length: -1\r\n", 400),
    refused("length with a sign", SESSION, HOST + JSON + b"Content-Length: +2\r\n", 400, body=b"{}"),
    refused("length in another script", SESSION, HOST + JSON + b"Content-Length: \xb2\r\n", 400, body=b"{}"),
    refused("length without end", SESSION, HOST + JSON + b"Content-Length: " + b"9" * 5000 + b"\r\n", 400),
    refused("length and coding", SESSION, HOST + CHUNKED + FORM, 400, body=b"0\r\n\r\n"),
    refused("coding nobody knows", SESSION, HOST + JSON + b"Transfer-Encoding: gzip, chunked\r\n", 501, "coding"),
    refused("chunked twice", SESSION, HOST + JSON + b"Transfer-Encoding: chunked, chunked\r\n", 400),
    refused("chunked by HTTP/1.0", f"{SESSION} HTTP/1.0", CHUNKED, 400, body=b"0\r\n\r\n"),
    Row(
        "chunks",
        SESSION,
        HOST + CHUNKED,
        401,
        "denied",
        b"5\r\n%s\r\n%X\r\n%s\r\n0\r\n\r\n" % (LOGIN[:5], len(LOGIN) - 5, LOGIN[5:]),
    ),
    Row(
        "chunk extensions",
        SESSION,
        HOST + CHUNKED,
        401,
        "denied",
        b'%x;a=b ; c="d"\r\n%s\r\n0;x\r\n\r\n' % (len(LOGIN), LOGIN),
    ),
    Row(
        "trailers",
        SESSION,
        HOST + CHUNKED,
        401,
        "denied",
        b"%x\r\n%s\r\n0\r\nX: y\r\nZ: z\r\n\r\n" % (len(LOGIN), LOGIN),
    ),
    refused("chunk size", SESSION, HOST + CHUNKED, 400, body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    refused("chunk without a size", SESSION, HOST + CHUNKED, 400, body=b"\r\n\r\n"),
    refused("chunk longer than it says", SESSION, HOST + CHUNKED, 400, body=b"2\r\n{}{}\r\n0\r\n\r\n"),
    refused(
        "chunk extension without end", SESSION, HOST + CHUNKED, 400, body=b"2;" + b"a" * 300 + b"\r\n{}\r\n0\r\n\r\n"
    ),
    refused("trailers without end", SESSION, HOST + CHUNKED, 400, body=b"0\r\n" + b"X: y\r\n" * 5000),
    refused("body too long", SESSION, HOST + JSON + b"Content-Length: 4097\r\n", 413, "oversized", b" " * 4097),
    refused("3 MB", SESSION, HOST + JSON + b"Content-Length: 3000000\r\n", 413, "oversized", b" " * 3_000_000),
    refused("3 MB for the page", "POST /", HOST + b"Content-Length: 3000000\r\n", 413, "oversized", b" " * 3_000_000),
    refused("3 MB in chunks", SESSION, HOST + CHUNKED, 413, "oversized", b"1000\r\n%s\r\n" % (b" " * 4096) * 732),
    refused("one endless chunk", SESSION, HOST + CHUNKED, 413, "oversized", b"fffffffffffffff\r\n" + b" " * 9000),
    refused(
        "expected 3 MB", SESSION, HOST + JSON + b"Expect: 100-continue\r\nContent-Length: 3000000\r\n", 413, "oversized"
    ),
    refused("other expectation", SESSION, HOST + JSON + b"Expect: miracles\r\n" + FORM, 417, "expectation", LOGIN),
    Row(
        "HTTP/1.0 expects nothing",
        f"{SESSION} HTTP/1.0",
        JSON + b"Expect: 100-continue\r\n" + FORM,
        401,
        "denied",
        LOGIN,
        False,
    ),
    # Connections (RFC 9112 section 9.3)
    Row("close", f"GET {HEALTH}", HOST + b"Connection: close\r\n", 200, stays=False, headers={"Connection": "close"}),
    Row("HTTP/1.0", f"GET {HEALTH} HTTP/1.0", b"", 200, stays=False),
    Row(
        "HTTP/1.0, kept",
        f"GET {HEALTH} HTTP/1.0",
        b"Connection: keep-alive\r\n",
        200,
        headers={"Connection": "Keep-Alive"},
    ),
    # Caches (RFC 9110 section 13, RFC 9111)
    Row("page", "GET /app.js", HOST, 200, headers={"ETag": web.ETAGS["/app.js"], "Cache-Control": "no-cache"}),
    Row(
        "page as before",
        "GET /",
        HOST + f"If-None-Match: W/{web.ETAGS['/']}\r\n".encode(),
        304,
        headers={"ETag": web.ETAGS["/"]},
    ),
    Row("API is not kept", f"GET {HEALTH}", HOST, 200, headers={"Cache-Control": "no-store", "ETag": None}),
    Row("nor are errors", "GET /none", HOST, 404, "not_found", headers={"Cache-Control": "no-store"}),
]


def read_answer(stream: BinaryIO, *, bodiless: bool) -> tuple[str, HTTPMessage, bytes]:
    """One answer, to its last byte and not further: status line, headers, body."""
    line = stream.readline().decode("ascii").rstrip("\r\n")
    headers = parse_headers(stream)
    return line, headers, b"" if bodiless else stream.read(int(headers["Content-Length"]))


def exchange(port: int, row: Row) -> None:
    """Send all of the request before anything is read, as simple clients do, then look at the answer."""
    with (
        socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
        CLIENT.wrap_socket(plain) as tls,
        tls.makefile("rb") as stream,
    ):
        tls.sendall(row.request)
        is_head = "HEAD " in row.line
        line, headers, body = read_answer(stream, bodiless=is_head or row.status in (204, 304))
        assert line.startswith(f"HTTP/1.1 {row.status} "), body
        for name, value in {**HEADERS, "Server": None, **row.headers}.items():
            assert headers[name] == value, name
        assert headers["Date"]
        if row.code:
            assert headers["Content-Type"] == "application/json"
            if not is_head:
                error = json.loads(body)["error"]
                assert error["code"] == row.code
                assert error["message"].endswith(".")
        if row.stays:
            tls.sendall(PROBE)
            again, _, body = read_answer(stream, bodiless=False)
            assert (again, json.loads(body)) == ("HTTP/1.1 200 OK", {"backend": True})
        else:
            assert stream.read() == b"", "the end, and nothing before it"


@pytest.fixture(scope="module")
def port(configuration: Path) -> Iterator[int]:
    """Of one front-end for the whole table, in a thread of its own."""
    ready: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        async with running(configuration) as rig:
            end = asyncio.Event()
            ready.put((rig.frontend.web_port, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    number, loop, end = ready.get(timeout=DEADLINE)
    yield number
    loop.call_soon_threadsafe(end.set)
    thread.join(DEADLINE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_answer(port: int, row: Row) -> None:
    exchange(port, row)


def test_continue_is_said_once_and_only_when_the_body_is_wanted(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            reader, writer = await connect(rig)
            writer.write(b"POST /api/v1/session HTTP/1.1\r\nExpect: 100-Continue\r\n" + HOST + JSON + FORM + b"\r\n")
            assert await said(reader, b"\r\n\r\n") == b"HTTP/1.1 100 (Continue)\r\n\r\n"
            writer.write(LOGIN)
            assert (await said(reader, b"\r\n")).startswith(b"HTTP/1.1 401 ")
            writer.transport.abort()

    asyncio.run(scenario())


def test_what_follows_a_refused_request_is_not_carried_out(configuration: Path) -> None:
    """Else somebody's body becomes another's request (request smuggling, RFC 9112 section 11.2)."""

    async def scenario() -> None:
        async with running(configuration) as rig:
            for bad in (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + FORM + b"\r\n", b"GET  / HTTP/1.1\r\n\r\n"):
                reader, writer = await connect(rig)
                writer.write(PROBE + bad + PROBE)
                answers = await asyncio.wait_for(reader.read(), DEADLINE)
                assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"400"]
                writer.transport.abort()
            reader, writer = await connect(rig)
            writer.write(PROBE + PROBE)
            for _ in range(2):  # the control: a good one is
                assert await said(reader, b'{"backend":true}')
            writer.transport.abort()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\nHost:",
        b"POST /api/v1/session HTTP/1.1\r\n" + HOST + JSON + FORM + b"\r\n{",
        b"POST /api/v1/session HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n",
    ],
)
def test_what_does_not_come_in_time_is_told_so(
    configuration: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(web, "IDLE_TIMEOUT", 0.3)
    monkeypatch.setattr(web, "BODY_TIMEOUT", 0.3)

    async def scenario() -> None:
        async with running(configuration) as rig:
            reader, writer = await connect(rig)
            writer.write(begun)
            answer = await asyncio.wait_for(reader.read(), DEADLINE)
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"
            writer.transport.abort()

    asyncio.run(scenario())


async def connect(rig: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", rig.frontend.web_port, ssl=CLIENT)


async def said(reader: asyncio.StreamReader, end: bytes) -> bytes:
    return await asyncio.wait_for(reader.readuntil(end), DEADLINE)
