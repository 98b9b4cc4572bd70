"""The open sessions of operators. They are in memory only: a reboot logs everybody out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from backend.protocol.peers import Peer
from backend.protocol.rate_limit import Clock

Reason = Literal["logout", "idle", "age", "evicted", "password", "vm", "stop"]
"""Why a session ended: logged out; idle for too long; open for too long; the table was full; another session changed
the password; the VM was restarted; the backend was stopped."""


NAME_LENGTH = 12
"""Characters of a session's name."""


@dataclass
class OpenSession:
    """One operator who is logged in. Times are those of the table's clock."""

    digest: bytes
    service: str
    peer: Peer
    opened_at: float
    used_at: float

    @property
    def name(self) -> str:
        """Its name in the audit log; does not reveal the token."""
        return self.digest.hex()[:NAME_LENGTH]

    @property
    def where(self) -> str:
        """Service and address, for the audit log."""
        return f"{self.service} {self.peer.address}"


class Sessions:
    """The table of open sessions, bounded in number and in time.

    It keeps the SHA-256 of each token instead of the token: reading this process' memory reveals no session, and the
    time of a look-up tells nothing about other tokens.
    """

    def __init__(self, size: int, idle_s: float, life_s: float, clock: Clock = time.monotonic) -> None:
        self._size = size
        self._idle_s = idle_s
        self._life_s = life_s
        self._clock = clock
        self._by_digest: dict[bytes, OpenSession] = {}
        self.ended: deque[tuple[OpenSession, Reason]] = deque(maxlen=4 * size)
        """Sessions that have ended and why, until the caller removes them."""

    def __len__(self) -> int:
        return len(self._by_digest)

    def open(self, service: str, peer: Peer) -> tuple[str, OpenSession]:
        """Open a session; returns its token and itself. If the table is full, the session idle for longest ends."""
        self.expire()
        if len(self._by_digest) >= self._size:
            self.close(min(self._by_digest.values(), key=lambda session: session.used_at), "evicted")
        token = secrets.token_urlsafe(32)
        now = self._clock()
        digest = _digest(token)
        session = self._by_digest[digest] = OpenSession(digest, service, peer, now, now)
        return token, session

    def find(self, token: str | None) -> OpenSession | None:
        """The open session of `token`, marked as used now; None if there is none."""
        if token is None:
            return None
        self.expire()
        session = self._by_digest.get(_digest(token))
        if session is not None:
            session.used_at = self._clock()
        return session

    def close(self, session: OpenSession, reason: Reason = "logout") -> None:
        """End a session; without effect if it has ended already."""
        if self._by_digest.pop(session.digest, None) is not None:
            self.ended.append((session, reason))

    def close_others(self, session: OpenSession) -> None:
        """End all other sessions, after a change of the password."""
        for other in list(self._by_digest.values()):
            if other is not session:
                self.close(other, "password")

    def close_all(self, reason: Reason) -> None:
        """End all sessions."""
        for session in list(self._by_digest.values()):
            self.close(session, reason)

    def expire(self) -> None:
        """End sessions that are idle or open for too long."""
        now = self._clock()
        for session in list(self._by_digest.values()):
            if now - session.used_at >= self._idle_s:
                self.close(session, "idle")
            elif now - session.opened_at >= self._life_s:
                self.close(session, "age")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
