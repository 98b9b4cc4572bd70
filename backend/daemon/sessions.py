"""Operators who are logged in. Only in memory: a reboot logs everybody out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from backend.common.limits import Clock
from backend.protocol.peers import Peer

Reason = Literal["logout", "idle", "age", "evicted", "password", "vm", "stop"]
"""Why a session ended: logged out; unused for too long; open for too long; the table was full; the password was changed
by another one; the VM was started anew; the backend was stopped."""


NAME = 12
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
        """What the audit log calls it; says nothing of its token."""
        return self.digest.hex()[:NAME]

    @property
    def where(self) -> str:
        """Service and address, for the audit log."""
        return f"{self.service} {self.peer.address}"


class Sessions:
    """The table of open sessions, bounded in number and in time.

    Keeps the SHA-256 of each token instead of the token, so a look into this process' memory gives no session,
    and a look-up by an attacker's token says nothing through its timing.
    """

    def __init__(self, most: int, idle_s: float, life_s: float, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._idle_s = idle_s
        self._life_s = life_s
        self._clock = clock
        self._by_digest: dict[bytes, OpenSession] = {}
        self.ended: deque[tuple[OpenSession, Reason]] = deque(maxlen=4 * most)
        """Those that ended and why, until somebody has taken them out."""

    def __len__(self) -> int:
        return len(self._by_digest)

    def open(self, service: str, peer: Peer) -> tuple[str, OpenSession]:
        """Open a session; returns its token and itself. If the table is full, the session idle for longest ends."""
        self.expire()
        if len(self._by_digest) >= self._most:
            self.close(min(self._by_digest.values(), key=lambda session: session.used_at), "evicted")
        token = secrets.token_urlsafe(32)
        now = self._clock()
        digest = _digest(token)
        session = self._by_digest[digest] = OpenSession(digest, service, peer, now, now)
        return token, session

    def find(self, token: str | None) -> OpenSession | None:
        """The session of `token`, which counts as used now; None if it is not (or no longer) open."""
        if token is None:
            return None
        self.expire()
        session = self._by_digest.get(_digest(token))
        if session is not None:
            session.used_at = self._clock()
        return session

    def close(self, session: OpenSession, reason: Reason = "logout") -> None:
        """End one session; one that is closed already stays so."""
        if self._by_digest.pop(session.digest, None) is not None:
            self.ended.append((session, reason))

    def close_others(self, session: OpenSession) -> None:
        """End all sessions but this: the password was changed."""
        for other in list(self._by_digest.values()):
            if other is not session:
                self.close(other, "password")

    def close_all(self, reason: Reason) -> None:
        """End all sessions."""
        for session in list(self._by_digest.values()):
            self.close(session, reason)

    def expire(self) -> None:
        """End those whose time is over."""
        now = self._clock()
        for session in list(self._by_digest.values()):
            if now - session.used_at >= self._idle_s:
                self.close(session, "idle")
            elif now - session.opened_at >= self._life_s:
                self.close(session, "age")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
