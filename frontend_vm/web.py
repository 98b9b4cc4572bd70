"""The HTTPS server: TLS, bounds on what strangers may hold, the headers of every answer, and the static page."""

from __future__ import annotations

import hashlib
import math
import ssl
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from frontend_vm.problem import HEADERS, Problem
from frontend_vm.rooms import Room
from frontend_vm.settings import load_identity, peer_at
from frontend_vm.wire import RECORD, Guard, Wire

MAX_CONNECTIONS = 64
"""A browser opens six at a time. Who makes room beyond this is `rooms.Room`'s to say."""
IDLE_TIMEOUT = 30.0
"""Seconds for the TLS handshake and all headers together, and between two requests of a connection."""
BODY_TIMEOUT = 10.0

OWN_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
"""Those that a handler has only if it says so."""

STATIC = Path(__file__).parent / "static"
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
    "/words.json": ("words.json", "application/json"),
}
FILES = {path: ((STATIC / name).read_bytes(), kind) for path, (name, kind) in PAGES.items()}
ETAGS = {path: f'"{hashlib.sha256(body).hexdigest()[:32]}"' for path, (body, _) in FILES.items()}


def server_context(directory: Path, certificate: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or 1.3 for browsers, with ``web.key`` and ``web.crt``, or another certificate for that key.

    Raises:
        OSError: a file is missing or broken.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; all of TLS 1.3 are sound
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, directory, "web", certificate)
    return context


class BoundedServer(HTTPServer):
    """An HTTPS server that always has room for the newest connection: it closes another to make it."""

    def initialize(self, request_callback: Application, tls: ssl.SSLContext) -> None:  # type: ignore[override]
        """Tornado's form of ``__init__``."""
        super().initialize(
            request_callback,
            ssl_options=tls,
            protocol="https",
            max_body_size=sys.maxsize,  # `Guard` bounds bodies: it has an answer for those that are too long
            max_buffer_size=4 * RECORD,
            chunk_size=RECORD,
        )
        self._open: Room[IOStream] = Room(MAX_CONNECTIONS)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take one accepted connection; its TLS handshake has not begun."""
        for other in self._open:
            if other.closed():  # the one callback for this is Tornado's own
                self._open.leave(other)
        if loser := self._open.enter(stream, peer_at(address[0])):
            loser.close()
        wire = Wire(stream, idle_timeout=IDLE_TIMEOUT, body_timeout=BODY_TIMEOUT)
        super().handle_stream(cast(IOStream, wire), address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Tornado calls this before it reads a request."""
        wire = cast(Wire, cast(HTTP1Connection, request_conn).stream)
        return Guard(super().start_request(server_conn, request_conn), wire)

    def renew(self, tls: ssl.SSLContext) -> None:
        """Greet those who connect from now on with another certificate."""
        self.ssl_options = tls

    def stop(self) -> None:
        """Stop listening and end all connections."""
        super().stop()
        for stream in self._open:
            stream.close()


@stream_request_body  # so that no body meets Tornado's form parsers
class Handler(RequestHandler):
    """Base of all handlers: the headers of every answer, methods, errors, and no word about the software behind it."""

    def set_default_headers(self) -> None:
        """Tornado calls this at the start of each answer, of errors too."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse methods that the resource does not have (RFC 9110 section 15.5.6)."""
        if self.request.method not in self.allowed():
            raise Problem(405, "method", "The method is not allowed here.")

    def data_received(self, chunk: bytes) -> None:
        """Take the body; where none is expected it means nothing (RFC 9110 section 9.3.1)."""

    @classmethod
    def allowed(cls) -> list[str]:
        """The methods of this resource."""
        has = [name for name in OWN_METHODS if getattr(cls, name.lower()) is not getattr(RequestHandler, name.lower())]
        return [*has, *(["HEAD"] if "GET" in has else []), "OPTIONS"]

    async def head(self) -> None:
        """What GET would say of itself; Tornado leaves the body out (RFC 9110 section 9.3.2)."""
        answer = self.get()
        if answer is not None:
            await answer

    def options(self) -> None:
        """Tell the methods (RFC 9110 section 9.3.7)."""
        self.set_status(204)
        self.set_header("Allow", ", ".join(self.allowed()))
        self.finish()

    def send(self, value: object) -> None:
        """Answer JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as JSON."""
        error = kwargs.get("exc_info", (None, None))[1]
        self.set_header("Cache-Control", "no-store")
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.allowed()))
        if isinstance(error, Problem):
            if error.retry_after_s > 0:
                self.set_header("Retry-After", str(math.ceil(error.retry_after_s)))
            self.send(error.body)
        else:
            self.send({"error": {"code": "failed", "message": self._reason}})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is our fault only; what a peer did wrong is in its answer."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)


class Page(Handler):
    """The static page; its files are read once, so no path of a request ever reaches the file system."""

    def get(self) -> None:
        """Answer a file, or 304 where the browser has it."""
        body, kind = FILES[self.request.path]
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "no-cache")  # ask each time, as a new image brings new files
        self.finish(body)

    def compute_etag(self) -> str | None:
        """The digest of the file, made once."""
        return ETAGS.get(self.request.path)


class NotFound(Handler):
    """Every path that is not ours."""

    def prepare(self) -> None:
        """Refuse."""
        raise Problem(404, "not_found", "There is no such resource.")


class Server(Handler):
    """The server as a whole, ``*`` (RFC 9110 section 9.3.7): has OPTIONS and nothing else."""

    @classmethod
    def allowed(cls) -> list[str]:
        """The methods that some resource has."""
        return [*OWN_METHODS, "HEAD", "OPTIONS"]
