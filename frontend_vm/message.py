"""Whether a request is HTTP as RFC 9110 and RFC 9112 have it: what is checked before any handler sees it.

Tornado reads the message; what it takes too kindly, or refuses without an answer that a program can read, is refused
here. Every refusal ends the connection: after a request whose end two readers may see in different places, nobody
knows where the next one begins (RFC 9112 section 11.2).

``Accept`` is not looked at, as RFC 9110 section 12.4.1 allows: each resource has one form, and a client that cannot
use it learns more from it than from a 406. A request without a length has no body (RFC 9112 section 6.3): no 411.
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
    """400, with what is wrong."""
    return Problem(400, "malformed", message)


def check_head(head: bytes) -> None:
    """Check the request line, and what is gone once Tornado has taken the headers apart.

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
    """What is wrong with a head of more than `MAX_HEADER` bytes: 414, 431, or 400 if it does not even begin as one."""
    line, newline, _ = head[:MAX_HEADER].partition(b"\n")
    if newline:
        return Problem(431, "oversized", f"Request line and headers may have {MAX_HEADER} bytes.")
    if _BEGUN.fullmatch(line):
        return Problem(414, "oversized", f"The target may have less than {MAX_HEADER} bytes.")
    return malformed("This is no HTTP request.")


def check(start: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Check one request.

    Args:
        start: method, target, version.
        headers: become those of the request as if its target were in origin-form.

    Returns:
        The request line with the target in origin-form, or ``*``.

    Raises:
        Problem: 400, 413, 417, 421 or 501.
    """
    for name, value in headers.get_all():
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise malformed("A header has a character that is not allowed there.")
    _check_framing(start, headers)
    hosts = headers.get_list("Host")
    if len(hosts) > 1 or (not hosts and start.version != "HTTP/1.0"):
        raise malformed("There must be one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise malformed("The Host header must be a host name or address, and may have a port.")
    if start.method not in RequestHandler.SUPPORTED_METHODS:
        raise Problem(501, "method", "This method is not known here.")
    start = start._replace(path=_origin_form(start, headers))
    _check_expectation(start, headers)
    return start


def _check_framing(start: RequestStartLine, headers: HTTPHeaders) -> None:
    """RFC 9112 section 6: where does the body end? There may be one answer only."""
    lengths = headers.get_list("Content-Length")
    codings = [coding.strip().lower() for coding in ",".join(headers.get_list("Transfer-Encoding")).split(",")]
    if "Transfer-Encoding" in headers:
        if lengths:
            raise malformed("A body has a Content-Length or a Transfer-Encoding, not both.")
        if start.version == "HTTP/1.0" or codings.count("chunked") > 1:
            raise malformed("This Transfer-Encoding leaves the body's end open.")
        if codings != ["chunked"]:
            raise Problem(501, "coding", "The only Transfer-Encoding known here is chunked.")
    elif lengths:
        # One that is there twice with the same value might be accepted; nobody honest sends it.
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise malformed("There must be one Content-Length, a number.")
        if int(lengths[0]) > MAX_BODY:
            raise oversized()


def oversized() -> Problem:
    """413."""
    return Problem(413, "oversized", f"The body may have {MAX_BODY} bytes.")


def _origin_form(start: RequestStartLine, headers: HTTPHeaders) -> str:
    """RFC 9112 section 3.2."""
    target = str(start.path)
    if "#" in target:
        raise malformed("A target has no fragment.")
    if target.startswith("/") or (target == "*" and start.method == "OPTIONS"):
        return target
    try:
        parts = urlsplit(target)
    except ValueError:
        raise malformed("The target is no address.") from None
    if not (parts.scheme and parts.netloc):
        raise malformed("The target must begin with a slash, or be an address with https.")
    if parts.scheme != "https":
        raise Problem(421, "misdirected", "This server has addresses that begin with https.")
    if not _HOST.fullmatch(parts.netloc):
        raise malformed("The target must have a host name or address, and may have a port.")
    headers["Host"] = parts.netloc  # section 3.2.2: it counts, whatever the header says
    if start.method == "OPTIONS" and not parts.path and not parts.query:
        return "*"  # section 3.2.4
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _check_expectation(start: RequestStartLine, headers: HTTPHeaders) -> None:
    """RFC 9110 section 10.1.1. Tornado answers 100 to exactly ``100-continue``, and to clients of HTTP/1.0 too."""
    expectation = headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise Problem(417, "expectation", "The only expectation that can be met is 100-continue.")
    if start.version == "HTTP/1.0":
        del headers["Expect"]
    else:
        headers["Expect"] = "100-continue"
