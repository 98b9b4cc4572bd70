"""Checks whether a request conforms to RFC 9110 and RFC 9112, before any handler sees it.

Tornado parses the message. What it accepts although it must not, and what it refuses without an answer that a program
can read, is refused here. Every refusal ends the connection: where two readers may disagree about the end of a request,
the next one could be smuggled in (RFC 9112 section 11.2).

``Accept`` is ignored, as RFC 9110 section 12.4.1 allows: each resource has one representation, which tells a client
more than a 406 would. A request without a length has no body (RFC 9112 section 6.3), so there is no 411.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders, RequestStartLine
from tornado.web import RequestHandler

from frontend_vm.problem import Problem

MAX_HEADER = 8192
"""Bytes of the request line and all headers, so also of a target."""
MAX_BODY = 4096

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(_WORD)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%!$&'()*+,;=-]{1,255})(:[0-9]{0,5})?")
"""``uri-host [ ":" port ]`` (RFC 9110 section 7.2, RFC 3986 section 3.2.2)."""
_LENGTH = re.compile(r"[0-9]{1,18}")
_REQUEST_LINE = re.compile(rf"{_WORD} [\x21-\x7e]+ HTTP/([0-9])\.[0-9]\r?".encode())
_BEGUN = re.compile(rf"{_WORD} [\x21-\x7e]*".encode())
_FOLD = re.compile(rb"\n[ \t]")


def malformed(message: str) -> Problem:
    """A 400 with this message."""
    return Problem(400, "malformed", message)


def check_head(head: bytes) -> None:
    """Check the request line, and what can no longer be seen once Tornado has parsed the headers.

    Raises:
        Problem: 400 or 505.
    """
    line, _, rest = head.partition(b"\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise malformed("The request line must be a method, a target and a version, with one space between them.")
    if match[1] != b"1":
        raise Problem(505, "version", "This server speaks HTTP/1.1.")
    if _FOLD.search(b"\n" + rest):
        raise malformed("A header must be on one line.")


def too_long(head: bytes) -> Problem:
    """The problem of a head of more than `MAX_HEADER` bytes: 414, 431, or 400 if it does not begin like a request."""
    line, newline, _ = head[:MAX_HEADER].partition(b"\n")
    if newline:
        return Problem(431, "oversized", f"Request line and headers may have {MAX_HEADER} bytes at most.")
    if _BEGUN.fullmatch(line):
        return Problem(414, "oversized", f"The target must have less than {MAX_HEADER} bytes.")
    return malformed("This is not an HTTP request.")


def check(start: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Check one request.

    Args:
        start: method, target, version.
        headers: of the request; changed to those of a request with the target in origin-form.

    Returns:
        The request line with the target in origin-form, or ``*``.

    Raises:
        Problem: 400, 413, 417, 421 or 501.
    """
    for name, value in headers.get_all():
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise malformed("A header has a character that is not allowed.")
    _check_framing(start, headers)
    hosts = headers.get_list("Host")
    if len(hosts) > 1 or (not hosts and start.version != "HTTP/1.0"):
        raise malformed("There must be one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise malformed("The Host header must be a host name or address, and may have a port.")
    if start.method not in RequestHandler.SUPPORTED_METHODS:
        raise Problem(501, "method", "This method is not supported.")
    start = start._replace(path=_origin_form(start, headers))
    _check_expectation(start, headers)
    return start


def _check_framing(start: RequestStartLine, headers: HTTPHeaders) -> None:
    """Refuse a request whose body could end in more than one place (RFC 9112 section 6)."""
    lengths = headers.get_list("Content-Length")
    codings = [coding.strip().lower() for coding in ",".join(headers.get_list("Transfer-Encoding")).split(",")]
    if "Transfer-Encoding" in headers:
        if lengths:
            raise malformed("A body has a Content-Length or a Transfer-Encoding, not both.")
        if start.version == "HTTP/1.0" or codings.count("chunked") > 1:
            raise malformed("This Transfer-Encoding does not tell where the body ends.")
        if codings != ["chunked"]:
            raise Problem(501, "coding", "The only supported Transfer-Encoding is chunked.")
    elif lengths:
        # Two equal ones might be accepted; no honest client sends them.
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise malformed("There must be one Content-Length, and it must be a number.")
        if int(lengths[0]) > MAX_BODY:
            raise oversized()


def oversized() -> Problem:
    """A 413 for a body of more than `MAX_BODY` bytes."""
    return Problem(413, "oversized", f"The body may have {MAX_BODY} bytes at most.")


def _origin_form(start: RequestStartLine, headers: HTTPHeaders) -> str:
    """The target in origin-form, or ``*`` (RFC 9112 section 3.2)."""
    target = str(start.path)
    if "#" in target:
        raise malformed("A target must not have a fragment.")
    if target.startswith("/") or (target == "*" and start.method == "OPTIONS"):
        return target
    try:
        parts = urlsplit(target)
    except ValueError:
        raise malformed("The target is not a valid URL.") from None
    if not (parts.scheme and parts.netloc):
        raise malformed("The target must begin with a slash or be an https URL.")
    if parts.scheme != "https":
        raise Problem(421, "misdirected", "This server has https URLs only.")
    if not _HOST.fullmatch(parts.netloc):
        raise malformed("The target must have a host name or address, and may have a port.")
    headers["Host"] = parts.netloc  # section 3.2.2: the target's host replaces the header
    if start.method == "OPTIONS" and not parts.path and not parts.query:
        return "*"  # section 3.2.4
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _check_expectation(start: RequestStartLine, headers: HTTPHeaders) -> None:
    """RFC 9110 section 10.1.1. Tornado answers 100 to exactly ``100-continue``, and to clients of HTTP/1.0 too."""
    expectation = headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise Problem(417, "expectation", "The only supported expectation is 100-continue.")
    if start.version == "HTTP/1.0":
        del headers["Expect"]
    else:
        headers["Expect"] = "100-continue"
