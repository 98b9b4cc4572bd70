"""Error answers: JSON with a code for programs and a sentence for people."""

from __future__ import annotations

import time
from http import HTTPStatus

import msgspec
from tornado.httputil import format_timestamp
from tornado.web import HTTPError

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer."""


class Problem(HTTPError):
    """An error answer: HTTP status, code and a sentence for the operator."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(status)
        self.body = {"error": {"code": code, "message": message}}
        self.retry_after_s = retry_after_s

    def last_answer(self, *, head: bool) -> bytes:
        """The whole answer, headers and body, for a request that no handler sees; the connection ends after it.

        Args:
            head: the request's method is HEAD, so the body is not sent (RFC 9110 section 9.3.2).
        """
        body = msgspec.json.encode(self.body)
        headers = HEADERS | {
            "Cache-Control": "no-store",
            "Connection": "close",
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            "Date": format_timestamp(time.time()),
        }
        lines = [f"HTTP/1.1 {self.status_code} {HTTPStatus(self.status_code).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if head else body)
