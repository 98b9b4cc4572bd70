"""The REST API under ``/api/v1``, for the page and for programs.

A login sets a cookie with a random session name. The backend's token stays in this process' memory, under the digest of
that name: a stolen cookie is useless anywhere but at this front-end, an invented cookie causes no request to the
backend, and after a restart of the VM there are no sessions.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from tornado.web import Application

from frontend_vm.link import Link, Unreachable
from frontend_vm.problem import Problem
from frontend_vm.protocol.base import Done, Result
from frontend_vm.protocol.fields import Hostname, Password
from frontend_vm.protocol.instructions import AnyInstruction
from frontend_vm.protocol.peers import Peer
from frontend_vm.protocol.port import Ports, PortsList
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.session import PasswordSet, Session
from frontend_vm.protocol.system import HostnameSet, Status, StatusGet, SystemReboot
from frontend_vm.settings import peer_at
from frontend_vm.web import PAGES, Handler, NotFound, Page, Server

log = logging.getLogger("api")

COOKIE = "__Host-session"  # the prefix makes browsers insist on Secure, Path=/ and no Domain
MAX_SESSIONS = 32
"""Web sessions at a time; beyond, the one that is idle for longest ends."""

HTTP_STATUS = {
    "malformed": 400,
    "denied": 401,
    "limited": 429,
    "failed": 500,
}
"""HTTP status by the backend's error code. Other codes mean that both ends of the link disagree on the protocol:
502."""

T = TypeVar("T", bound=Struct)
R = TypeVar("R", bound=Result)


class Sessions:
    """Sessions of logged-in browsers: at most `MAX_SESSIONS`; each ends when idle."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._open: dict[bytes, tuple[Session, float]] = {}  # least recently used first

    def add(self, session: Session) -> str:
        """Keep a session and return the name for its cookie."""
        if len(self._open) >= MAX_SESSIONS:
            self._close(next(iter(self._open)))
        name = secrets.token_urlsafe(32)
        self._open[self._digest(name)] = (session, time.monotonic())
        return name

    def token(self, name: str) -> str | None:
        """The backend's token for the session name in a cookie; None if there is no such session or it was idle too
        long."""
        digest = self._digest(name)
        session, used = self._open.pop(digest, (None, 0.0))
        now = time.monotonic()
        if session is None or now - used > session.idle_s:
            return None
        self._open[digest] = (session, now)
        return session.token

    def remove(self, name: str, close: bool) -> None:
        """Forget a session, and with ``close`` end it at the backend, too."""
        if close:
            self._close(self._digest(name))
        else:
            self._open.pop(self._digest(name), None)

    def _close(self, digest: bytes) -> None:
        session, _ = self._open.pop(digest, (None, 0.0))
        if session is not None:
            self._link.logout(session.token)

    @staticmethod
    def _digest(name: str) -> bytes:
        # Looked up by digest: the time of a look-up then tells nothing about other names.
        return hashlib.sha256(name.encode()).digest()


class Api(Handler):
    """Base of the API's handlers: no caching, no requests from other sites, JSON bodies, the operator's session."""

    link: Link
    sessions: Sessions

    def initialize(self, link: Link, sessions: Sessions) -> None:
        """Tornado's form of ``__init__``."""
        self.link = link
        self.sessions = sessions
        self._body = bytearray()

    def set_default_headers(self) -> None:
        """As of every answer, and: answers of the API must not be cached."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> str | None:
        """None: answers of the API are not cached."""
        return None

    def prepare(self) -> None:
        """Refuse requests that another site made a browser send (CSRF), and bodies that are not JSON.

        Source: Fetch Metadata Request Headers (W3C), section 2.4; RFC 6454 section 7. Programs that are not browsers
        send neither header, and no other site can make them use their cookie.
        """
        super().prepare()
        headers = self.request.headers
        site = headers.get("Sec-Fetch-Site")
        origin = headers.get("Origin")
        if (site is not None and site not in ("same-origin", "none")) or (
            origin is not None and origin != f"https://{self.request.host}"
        ):
            raise Problem(403, "forbidden", "The request comes from another site.")
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if has_body and kind != "application/json":
            raise Problem(415, "media_type", "The body must be application/json.")
        if has_body and headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Problem(415, "media_type", "The body must not be compressed.")

    def data_received(self, chunk: bytes) -> None:
        """Collect the body, whose size `frontend_vm.http_connection` limits."""
        self._body += chunk

    def body(self, kind: type[T], hint: str) -> T:
        """The request's body as an object of this type; else a 400 with the hint, a sentence for the operator."""
        try:
            return msgspec.json.decode(self._body, type=kind)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
            raise Problem(400, "malformed", hint) from error

    @property
    def peer(self) -> Peer:
        """The operator's address."""
        return peer_at(self.request.remote_ip)

    async def ask(self, do: AnyInstruction, expect: type[R]) -> R:
        """Have the backend carry out an instruction for the operator who is logged in.

        Raises:
            Problem: 401 without a session, 503 without a backend, else by `HTTP_STATUS`.
        """
        name = self.get_cookie(COOKIE, "") or ""
        token = self.sessions.token(name)
        if token is None:
            raise Problem(401, "denied", "Please log in.")
        try:
            return await self.link.ask(do, expect, token)
        except Refused as refusal:
            if refusal.error.code == "denied" and not isinstance(do, PasswordSet):
                self.sessions.remove(name, close=False)
                self.end_cookie()
            raise problem_of(refusal) from refusal
        except Unreachable as error:
            raise Problem(503, "unreachable", str(error)) from error

    def set_session(self, name: str) -> None:
        """Set the session cookie."""
        self.set_cookie(COOKIE, name, path="/", secure=True, httponly=True, samesite="Strict")

    def end_cookie(self) -> None:
        """Have the browser delete its session cookie."""
        self.clear_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")


def problem_of(refusal: Refused) -> Problem:
    """The HTTP answer for an error of the backend."""
    error = refusal.error
    return Problem(HTTP_STATUS.get(error.code, 502), error.code, error.message, error.retry_after_s)


class Login(Struct, forbid_unknown_fields=True):
    """Body of ``POST session``."""

    user: str
    password: str


class SessionHandler(Api):
    """Log in and out."""

    async def post(self) -> None:
        """Log in: 200 and a cookie; 401 wrong user or password, 429 too many attempts, 503 no backend."""
        login = self.body(Login, "Expected a user and a password.")
        try:
            session = await self.link.login(login.user, login.password, "https", self.peer)
        except Refused as refusal:
            if refusal.error.code == "malformed":  # does not fit the schema, so it cannot be right
                raise Problem(401, "denied", "Wrong user or password.") from refusal
            raise problem_of(refusal) from refusal
        except Unreachable as error:
            raise Problem(503, "unreachable", str(error)) from error
        if before := self.get_cookie(COOKIE):
            self.sessions.remove(before, close=True)
        self.set_session(self.sessions.add(session))
        self.send({"user": login.user, "idle_s": session.idle_s})

    def delete(self) -> None:
        """Log out; no error without a session."""
        if name := self.get_cookie(COOKIE):
            self.sessions.remove(name, close=True)
        self.end_cookie()
        self.send({})


class StatusHandler(Api):
    """State of the appliance."""

    async def get(self) -> None:
        """Answer `Status`."""
        self.send(await self.ask(StatusGet(), Status))


class PortsHandler(Api):
    """The management port's counters."""

    async def get(self) -> None:
        """Answer `Ports`."""
        self.send(await self.ask(PortsList(), Ports))


class NewHostname(Struct, forbid_unknown_fields=True):
    """Body of ``PUT hostname``."""

    hostname: Hostname


class HostnameHandler(Api):
    """The host name."""

    hint = "A host name has 1 to 63 lower-case letters, digits and hyphens, and begins and ends with a letter or digit."

    async def put(self) -> None:
        """Set the host name: 200 once it is in force."""
        wanted = self.body(NewHostname, self.hint).hostname
        await self.ask(HostnameSet(hostname=wanted), Done)
        log.info("%s set the host name to %s", self.peer.address, wanted)
        self.send({"hostname": wanted})


class PasswordChange(Struct, forbid_unknown_fields=True):
    """Body of ``PUT password``."""

    old: Password
    new: Password


class PasswordHandler(Api):
    """The operator's password."""

    async def put(self) -> None:
        """Change the password: 200, or 403 if the present one is wrong. All other sessions end."""
        change = self.body(
            PasswordChange, "Expected the old and the new password; the new one has 12 to 128 characters."
        )
        try:
            await self.ask(PasswordSet(old=change.old, new=change.new), Done)
        except Problem as problem:
            if problem.status_code == 401 and isinstance(problem.__cause__, Refused):
                # Not 401, as the session may be valid; if it is not, the next request answers 401.
                raise Problem(403, "denied", "The present password is wrong.") from problem
            raise
        log.info("%s changed the password", self.peer.address)
        self.send({})


class RebootHandler(Api):
    """Reboot."""

    async def post(self) -> None:
        """Reboot the appliance: 202 once the backend has accepted."""
        await self.ask(SystemReboot(), Done)
        log.info("%s requested a reboot", self.peer.address)
        self.set_status(202)
        self.send({})


class HealthHandler(Api):
    """For programs that wait for the appliance; needs no login and sends nothing to the backend."""

    def get(self) -> None:
        """Answer whether the backend answers."""
        self.send({"backend": self.link.up})


class NoSuchApi(Api):
    """All other paths under /api."""

    def prepare(self) -> None:
        """Answer 404."""
        raise Problem(404, "not_found", "There is no such resource.")


def make_application(link: Link) -> Application:
    """The page and the API."""
    shared = {"link": link, "sessions": Sessions(link)}
    handlers: list[tuple[str, type[Api]]] = [
        ("/api/v1/session", SessionHandler),
        ("/api/v1/status", StatusHandler),
        ("/api/v1/ports", PortsHandler),
        ("/api/v1/hostname", HostnameHandler),
        ("/api/v1/password", PasswordHandler),
        ("/api/v1/reboot", RebootHandler),
        ("/api/v1/health", HealthHandler),
        ("/api(?:/.*)?", NoSuchApi),
    ]
    rules: list[Any] = [(path, Page) for path in PAGES]
    rules.append((r"\*", Server))
    rules += [(path, handler, shared) for path, handler in handlers]
    return Application(rules, default_handler_class=NotFound, log_function=lambda handler: None)
