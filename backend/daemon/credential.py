"""The operator's password: stored as a scrypt hash, never in clear text.

A new appliance has no password. At every start, until somebody has logged in, the daemon makes a new one and shows it
on the serial console. So nothing is lost by a power cut before anybody has read it, and no file contains it.
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
"""Without 0/o and 1/i/l, which are hard to tell apart on a console."""
GROUPS, GROUP = 4, 5
"""20 characters of 31: 99 bits."""
FILE_LIMIT = 4096


COSTS = (2**14, 2**15, 2**16, 2**17)
"""scrypt's n, with r = 8 and p = 1 (RFC 7914 section 2): 16 to 128 MiB of memory, and time in proportion. The last one
is OWASP's recommendation of 2025; a device uses the largest that it computes in `BUDGET_S`."""
BUDGET_S = 1.0
"""Processor time of one check in seconds. Checks run one by one and replies come in order, so the VM's heartbeat and
all other replies wait behind them; the VM gives up after ten seconds."""


class Credential(Struct, frozen=True, forbid_unknown_fields=True):
    """The stored form.

    The scrypt parameters are literals: a file with others is damaged, and must not make the host compute them.
    """

    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    hash: Annotated[bytes, Meta(min_length=32, max_length=32)]
    n: Literal[16384, 32768, 65536, 131072]
    r: Literal[8]
    p: Literal[1]
    used: bool
    """Whether somebody has logged in with this password."""


def first_password() -> str:
    """A random password of `GROUPS` groups, easy to type."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(GROUP)) for _ in range(GROUPS))


def derive(password: str, salt: bytes, n: int) -> bytes:
    """The scrypt hash of a prepared password (`password_form.prepare`), 32 bytes; ``n`` is one of `COSTS`. Blocks."""
    # A text that cannot be encoded was never set as a password, but checking it must take the same time.
    secret = password.encode(errors="surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=8, p=1, maxmem=2 * 128 * 8 * n, dklen=32)


def make(password: str, n: int = COSTS[0], *, used: bool) -> Credential:
    """A credential with a new salt. Blocks while the hash is computed."""
    salt = secrets.token_bytes(16)
    hashed = derive(password_form.prepare(password), salt, n)
    return Credential(salt=salt, hash=hashed, n=n, r=8, p=1, used=used)  # type: ignore[arg-type]


def affordable(n: int, seconds: float) -> int:
    """The largest of `COSTS` that takes at most `BUDGET_S` on a device where ``n`` took ``seconds``; at least ``n``."""
    return max([n, *(cost for cost in COSTS if seconds * cost / n <= BUDGET_S)])


def _timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """The function's result and its processor time in seconds, which does not depend on other load."""
    began = time.thread_time()
    return work(), time.thread_time() - began


class Passwords:
    """The one account's password.

    Attributes:
        problem: Why nobody can log in; empty if they can.
    """

    def __init__(self, path: Path, disk: Worker, cpu: Worker, throttle: Throttle) -> None:
        self._path = path
        self._disk = disk
        self._cpu = cpu
        self._throttle = throttle
        self._credential: Credential | None = None
        # One check at a time: else parallel attempts would all be admitted before the first one fails.
        self._lock = asyncio.Lock()
        self.problem = ""

    async def start(self) -> str | None:
        """Read the file. Returns a first password to show, or None if the operator has a password already."""
        try:
            raw = await self._disk.run(lambda: store.read(self._path, FILE_LIMIT))
            credential = msgspec.json.decode(raw, type=Credential)
        except FileNotFoundError:
            return await self._renew()
        except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
            # Fail closed: whoever can damage the file must not get a new password on the console that way.
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
            Refused: ``denied``, ``limited`` (too early; the password was not checked) or ``failed`` (no usable file).
        """
        async with self._lock:
            credential, n = await self._verify(user, password, peer)
            if n > credential.n:
                # A first password (99 random bits) is hashed at the lowest cost; later ones as slowly as the device
                # allows.
                await self._keep(await self._cpu.run(lambda: make(password, n, used=True)), must=False)
            elif not credential.used:
                await self._keep(msgspec.structs.replace(credential, used=True), must=False)

    async def change(self, old: str, new: str, peer: Peer) -> None:
        """Replace the password; durable when it returns.

        Raises:
            Refused: ``malformed`` if the new one cannot be a password, else as `check` for the old one.
            OSError: the new one could not be stored; the old one stays valid.
        """
        if why := password_form.objection(new):
            raise Refused("malformed", why)
        async with self._lock:
            _, n = await self._verify(OPERATOR, old, peer)
            await self._keep(await self._cpu.run(lambda: make(new, n, used=True)), must=True)

    async def _verify(self, user: str, password: str, peer: Peer) -> tuple[Credential, int]:
        """Check an attempt; returns the credential, and the cost for a new hash."""
        credential = self._credential
        if credential is None:
            raise Refused("failed", "logins are refused: the stored password is damaged; see the serial console")
        if (wait := self._throttle.admit(peer)) > 0.0:
            raise Refused("limited", "too many logins or wrong passwords", retry_after_s=wait)
        # Attempts with other user names take the same time and count as failures, too.
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
            # Continue: at worst, the next start shows a new first password.
            log.error("cannot store %s: %s", self._path, error.strerror)
        self._credential = credential
