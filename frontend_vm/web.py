"""The HTTPS server: TLS, bounds on what strangers may hold, the headers of every answer, and the static page."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, HTTPError, RequestHandler

from frontend_vm.rooms import Room
from frontend_vm.settings import load_identity, peer_at

MAX_CONNECTIONS = 64
"""A browser opens six at a time. Who makes room beyond this is `rooms.Room`'s to say."""
MAX_HEADER = 8192
RECORD = 16384
"""Bytes read at once: a whole TLS record (RFC 8446 section 5.1). Reads that end at exactly `MAX_HEADER` would leave
the rest of a record unseen in the TLS layer, and a header that is too long waiting for its time-out."""
MAX_DISCARD = 65536
"""Bytes of a body that are read only to answer in an orderly way; `api.MAX_BODY` is what may be said."""
IDLE_TIMEOUT = 30.0
"""Seconds for the TLS handshake and all headers together, and between two requests of a connection."""
BODY_TIMEOUT = 10.0

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
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def server_context(directory: Path) -> ssl.SSLContext:
    """TLS 1.2 or 1.3 for browsers, with ``web.key`` and ``web.crt``.

    Raises:
        OSError: a file is missing or broken.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; all of TLS 1.3 are sound
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, directory, "web")
    return context


class BoundedServer(HTTPServer):
    """An HTTPS server that always has room for the newest connection: it closes another to make it."""

    def initialize(self, request_callback: Application, tls: ssl.SSLContext) -> None:  # type: ignore[override]
        """Tornado's form of ``__init__``."""
        super().initialize(
            request_callback,
            ssl_options=tls,
            idle_connection_timeout=IDLE_TIMEOUT,
            body_timeout=BODY_TIMEOUT,
            max_header_size=MAX_HEADER,
            max_body_size=MAX_DISCARD,
            max_buffer_size=MAX_DISCARD + MAX_HEADER,
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
        super().handle_stream(stream, address)

    def stop(self) -> None:
        """Stop listening and end all connections."""
        super().stop()
        for stream in self._open:
            stream.close()


class Handler(RequestHandler):
    """Base of all handlers: the headers of every answer, and no word about the software behind it."""

    def set_default_headers(self) -> None:
        """Tornado calls this at the start of each answer, of errors too."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error in one plain line."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code} {self._reason}\n")

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

    head = get

    def compute_etag(self) -> str | None:
        """The digest of the file, made once."""
        return ETAGS.get(self.request.path)


class NotFound(Handler):
    """Every path that is not ours."""

    def prepare(self) -> None:
        """Refuse."""
        raise HTTPError(404)
