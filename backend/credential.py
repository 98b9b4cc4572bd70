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
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from backend import store
from backend.instructions import OPERATOR
from backend.limits import Bucket, Clock, SlowDown
from backend.refusal import Refused
from backend.worker import Worker

log = logging.getLogger("credential")

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
"""Without 0/o, 1/i/l: for people who read a console and type on a phone."""
GROUPS, GROUP = 4, 5
"""20 characters of 31: 99 bits."""
FILE_LIMIT = 4096


class Credential(Struct, frozen=True, forbid_unknown_fields=True):
    """The stored form. scrypt with n = 2**14, r = 8 takes 16 MiB and some 50 ms (RFC 7914 section 2).

    The parameters are literal: a file that asks for others, however large, is corrupt.
    """

    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    hash: Annotated[bytes, Meta(min_length=32, max_length=32)]
    n: Literal[16384]
    r: Literal[8]
    p: Literal[1]
    used: bool
    """Somebody has logged in with it."""


def first_password() -> str:
    """A random password of `GROUPS` groups, easy to type."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(GROUP)) for _ in range(GROUPS))


def derive(password: str, salt: bytes) -> bytes:
    """The scrypt hash of a password, 32 bytes. Blocks for its whole cost."""
    return hashlib.scrypt(password.encode(), salt=salt, n=16384, r=8, p=1, dklen=32)


def make(password: str, *, used: bool) -> Credential:
    """A credential with a fresh salt. Blocks for the cost of the hash."""
    salt = secrets.token_bytes(16)
    return Credential(salt=salt, hash=derive(password, salt), n=16384, r=8, p=1, used=used)


class Passwords:
    """The one account's password.

    Attributes:
        problem: Why nobody can log in, empty if all is well.
    """

    def __init__(self, path: Path, disk: Worker, cpu: Worker, attempts: Bucket, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._disk = disk
        self._cpu = cpu
        self._attempts = attempts
        self._credential: Credential | None = None
        # One attempt at a time, so that attempts side by side cannot slip past the slow-down.
        self._lock = asyncio.Lock()
        self._operator = SlowDown(clock)
        self._nobody = SlowDown(clock)
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

    async def check(self, user: str, password: str) -> None:
        """Check one login attempt.

        Raises:
            Refused: ``denied``, ``limited`` (too soon; the password was not looked at) or ``failed`` (no usable file).
        """
        async with self._lock:
            credential = await self._verify(user, password)
            if not credential.used:
                await self._keep(msgspec.structs.replace(credential, used=True), must=False)

    async def change(self, old: str, new: str) -> None:
        """Replace the password; durable when it returns.

        Raises:
            Refused: as `check` for the old password.
            OSError: the new one could not be stored; the old one is still valid.
        """
        async with self._lock:
            await self._verify(OPERATOR, old)
            await self._keep(await self._cpu.run(lambda: make(new, used=True)), must=True)

    async def _verify(self, user: str, password: str) -> Credential:
        credential = self._credential
        if credential is None:
            raise Refused("failed", "logins are refused: the stored password is damaged; see the serial console")
        # Guesses at other names must not lock the operator out, and must cost the same.
        slow_down = self._operator if user == OPERATOR else self._nobody
        wait = slow_down.wait()
        if wait > 0.0:
            raise Refused("limited", "too many failed logins", retry_after_s=wait)
        # Only now: attempts that are not looked at must not use up what right ones need.
        if (wait := self._attempts.take()) > 0.0:
            raise Refused("limited", "too many logins", retry_after_s=wait)
        found = await self._cpu.run(lambda: derive(password, credential.salt))
        if not (hmac.compare_digest(found, credential.hash) and user == OPERATOR):
            slow_down.failed()
            raise Refused("denied", "wrong user or password", retry_after_s=slow_down.wait())
        slow_down.succeeded()
        return credential

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
