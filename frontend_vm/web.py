"""The HTTPS server: TLS, limits for clients, the headers of every answer, and the static page."""

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

from frontend_vm.fair_slots import FairSlots
from frontend_vm.http_connection import RECORD, BoundedStream, RequestGuard
from frontend_vm.problem import HEADERS, Problem
from frontend_vm.settings import load_identity, peer_at

MAX_CONNECTIONS = 64
"""Open connections; a browser has up to six. `FairSlots` chooses which one is closed for a new one beyond."""
IDLE_TIMEOUT = 30.0
"""Seconds for the TLS handshake and all headers together, and between two requests of a connection."""
BODY_TIMEOUT = 10.0

OWN_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
"""Methods that a handler has only if it defines them."""

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
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; those of TLS 1.3 are all secure
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, directory, "web", certificate)
    return context


class BoundedServer(HTTPServer):
    """An HTTPS server that always accepts a new connection, and closes another one for it if there are too many."""

    def initialize(self, request_callback: Application, tls: ssl.SSLContext) -> None:  # type: ignore[override]
        """Tornado's form of ``__init__``."""
        super().initialize(
            request_callback,
            ssl_options=tls,
            protocol="https",
            max_body_size=sys.maxsize,  # `RequestGuard` limits bodies, and answers 413
            max_buffer_size=4 * RECORD,
            chunk_size=RECORD,
        )
        self._open: FairSlots[IOStream] = FairSlots(MAX_CONNECTIONS)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take one accepted connection; its TLS handshake has not begun."""
        for other in self._open:
            if other.closed():  # a stream has only one close callback, which is Tornado's
                self._open.leave(other)
        if evicted := self._open.enter(stream, peer_at(address[0])):
            evicted.close()
        bounded = BoundedStream(stream, idle_timeout=IDLE_TIMEOUT, body_timeout=BODY_TIMEOUT)
        super().handle_stream(cast(IOStream, bounded), address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Tornado calls this before it reads a request."""
        bounded = cast(BoundedStream, cast(HTTP1Connection, request_conn).stream)
        return RequestGuard(super().start_request(server_conn, request_conn), bounded)

    def renew(self, tls: ssl.SSLContext) -> None:
        """Use another certificate for connections from now on."""
        self.ssl_options = tls

    def stop(self) -> None:
        """Stop listening and end all connections."""
        super().stop()
        for stream in self._open:
            stream.close()


@stream_request_body  # so that Tornado's form parsers never see a body
class Handler(RequestHandler):
    """Base of all handlers: headers of every answer, methods, errors; no answer names the software."""

    def set_default_headers(self) -> None:
        """Tornado calls this at the start of each answer, of errors too."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse methods that the resource does not have (RFC 9110 section 15.5.6)."""
        if self.request.method not in self.allowed():
            raise Problem(405, "method", "This resource does not have this method.")

    def data_received(self, chunk: bytes) -> None:
        """Ignore the body of a request that needs none (RFC 9110 section 9.3.1)."""

    @classmethod
    def allowed(cls) -> list[str]:
        """The methods of this resource."""
        has = [name for name in OWN_METHODS if getattr(cls, name.lower()) is not getattr(RequestHandler, name.lower())]
        return [*has, *(["HEAD"] if "GET" in has else []), "OPTIONS"]

    async def head(self) -> None:
        """Answer like GET; Tornado omits the body (RFC 9110 section 9.3.2)."""
        answer = self.get()
        if answer is not None:
            await answer

    def options(self) -> None:
        """Answer the methods of this resource (RFC 9110 section 9.3.7)."""
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
        """Log errors of this program only; errors of the client are in their answers."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)


class Page(Handler):
    """The static page. Its files are read at import, so no path of a request reaches the file system."""

    def get(self) -> None:
        """Answer a file, or 304 if the browser has the present version."""
        body, kind = FILES[self.request.path]
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "no-cache")  # revalidate each time: a new image has new files
        self.finish(body)

    def compute_etag(self) -> str | None:
        """Digest of the file."""
        return ETAGS.get(self.request.path)


class NotFound(Handler):
    """All other paths."""

    def prepare(self) -> None:
        """Answer 404."""
        raise Problem(404, "not_found", "There is no such resource.")


class Server(Handler):
    """The server as a whole, target ``*`` (RFC 9110 section 9.3.7): only OPTIONS."""

    @classmethod
    def allowed(cls) -> list[str]:
        """All methods that any resource has."""
        return [*OWN_METHODS, "HEAD", "OPTIONS"]
