"""The operator's password: kept as a scrypt hash, checked slowly, never written in the clear.

A new appliance has no password. At every start until somebody logs in, the daemon makes a fresh one and shows it
on the serial console; so a power cut before anyone read it loses nothing, and no file ever holds it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from backend.common import store
from backend.daemon import password_form
from backend.daemon.throttle import Throttle
from backend.daemon.worker import Worker
from backend.protocol.fields import OPERATOR
from backend.protocol.peers import Peer
from backend.protocol.refusal import Refused

log = logging.getLogger("credential")

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
"""Without 0/o, 1/i/l: for people who read a console and type on a phone."""
GROUPS, GROUP = 4, 5
"""20 characters of 31: 99 bits."""
FILE_LIMIT = 4096


COSTS = (2**14, 2**15, 2**16, 2**17)
"""scrypt's n, with r = 8 and p = 1: 16 to 128 MiB, and as much time (RFC 7914 section 2). The last one is OWASP's
recommendation of 2025; what a device is given is the largest that it computes in `BUDGET_S`."""
BUDGET_S = 1.0
"""Processor time of one attempt. They are looked at one by one, and replies come in order: the VM lets four wait, with
its heartbeat and every other answer behind them, and gives up after ten seconds."""


class Credential(Struct, frozen=True, forbid_unknown_fields=True):
    """The stored form.

    The parameters are literal: a file that asks for others, however large, is corrupt.
    """

    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    hash: Annotated[bytes, Meta(min_length=32, max_length=32)]
    n: Literal[16384, 32768, 65536, 131072]
    r: Literal[8]
    p: Literal[1]
    used: bool
    """Somebody has logged in with it."""


def first_password() -> str:
    """A random password of `GROUPS` groups, easy to type."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(GROUP)) for _ in range(GROUPS))


def derive(password: str, salt: bytes, n: int) -> bytes:
    """The scrypt hash of a prepared password (`password_form.prepare`), 32 bytes; ``n`` is one of `COSTS`. Blocks."""
    # What cannot be encoded is no password that was ever set, but has to cost the same.
    secret = password.encode(errors="surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=8, p=1, maxmem=2 * 128 * 8 * n, dklen=32)


def make(password: str, n: int = COSTS[0], *, used: bool) -> Credential:
    """A credential with a fresh salt. Blocks for the cost of the hash."""
    salt = secrets.token_bytes(16)
    hashed = derive(password_form.prepare(password), salt, n)
    return Credential(salt=salt, hash=hashed, n=n, r=8, p=1, used=used)  # type: ignore[arg-type]


def affordable(n: int, seconds: float) -> int:
    """The largest of `COSTS` that takes `BUDGET_S` at most where ``n`` took ``seconds``; ``n`` if none is larger."""
    return max([n, *(cost for cost in COSTS if seconds * cost / n <= BUDGET_S)])


def _timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """What the work gives, and its processor time in seconds: who keeps the processor busy does not lower a cost."""
    began = time.thread_time()
    return work(), time.thread_time() - began


class Passwords:
    """The one account's password.

    Attributes:
        problem: Why nobody can log in, empty if all is well.
    """

    def __init__(self, path: Path, disk: Worker, cpu: Worker, throttle: Throttle) -> None:
        self._path = path
        self._disk = disk
        self._cpu = cpu
        self._throttle = throttle
        self._credential: Credential | None = None
        # One attempt at a time, so that attempts side by side cannot slip past the slow-down.
        self._lock = asyncio.Lock()
        self.problem = ""

    async def start(self) -> str | None:
        """Read the file. Returns the first password to show, None if the operator has one already."""
        try:
            raw = await self._disk.run(lambda: store.read(self._path, FILE_LIMIT))
            credential = msgspec.json.decode(raw, type=Credential)
        except FileNotFoundError:
            return await self._renew()
        except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
            # Fail closed: whoever can damage the file must not thereby get a fresh password on the console.
            self.problem = f"{self._path} cannot be used ({type(error).__name__})"
            log.error(
                "%s; logins are refused. Restore the file or erase the data partition, then reboot.", self.problem
            )
            return None
        if not credential.used:
            return await self._renew()
        self._credential = credential
        return None

    async def check(self, user: str, password: str, peer: Peer) -> None:
        """Check one login attempt.

        Raises:
            Refused: ``denied``, ``limited`` (too soon; the password was not looked at) or ``failed`` (no usable file).
        """
        async with self._lock:
            credential, n = await self._verify(user, password, peer)
            if n > credential.n:
                # A first password, 99 random bits, is made at the least cost; and a device may have become faster.
                await self._keep(await self._cpu.run(lambda: make(password, n, used=True)), must=False)
            elif not credential.used:
                await self._keep(msgspec.structs.replace(credential, used=True), must=False)

    async def change(self, old: str, new: str, peer: Peer) -> None:
        """Replace the password; durable when it returns.

        Raises:
            Refused: ``malformed`` if the new one cannot be a password, else as `check` for the old one.
            OSError: the new one could not be stored; the old one is still valid.
        """
        if why := password_form.objection(new):
            raise Refused("malformed", why)
        async with self._lock:
            _, n = await self._verify(OPERATOR, old, peer)
            await self._keep(await self._cpu.run(lambda: make(new, n, used=True)), must=True)

    async def _verify(self, user: str, password: str, peer: Peer) -> tuple[Credential, int]:
        """Check an attempt; returns the credential, and the cost that a new one should have."""
        credential = self._credential
        if credential is None:
            raise Refused("failed", "logins are refused: the stored password is damaged; see the serial console")
        if (wait := self._throttle.admit(peer)) > 0.0:
            raise Refused("limited", "too many logins or wrong passwords", retry_after_s=wait)
        # Guesses at other names cost the same, and count the same.
        prepared = password_form.prepare(password)
        found, seconds = await self._cpu.run(lambda: _timed(lambda: derive(prepared, credential.salt, credential.n)))
        if not (hmac.compare_digest(found, credential.hash) and user == OPERATOR):
            raise Refused("denied", "wrong user or password", retry_after_s=self._throttle.failed(peer))
        self._throttle.succeeded(peer)
        return credential, affordable(credential.n, seconds)

    async def _renew(self) -> str:
        password = first_password()
        await self._keep(await self._cpu.run(lambda: make(password, used=False)), must=False)
        return password

    async def _keep(self, credential: Credential, *, must: bool) -> None:
        content = msgspec.json.encode(credential) + b"\n"
        try:
            await self._disk.run(lambda: store.replace(self._path, content))
        except OSError as error:
            if must:
                raise
            # Nothing is lost by going on: at the next start there will be a new first password.
            log.error("cannot store %s: %s", self._path, error.strerror)
        self._credential = credential
