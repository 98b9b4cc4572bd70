"""The public part of the front-end's identity, as the backend shows it: certificate and fingerprints.

The root unit of `backend.daemon.identity` makes the identity, and leaves this part in a file for the backend.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.common import store

log = logging.getLogger("identity")

LIMIT = 16384
"""Bytes of the file at most."""


class PublicIdentity(Struct, frozen=True, forbid_unknown_fields=True):
    """The public part of the identity."""

    certificate: Annotated[str, Meta(max_length=4096)]
    """The web page's certificate, PEM."""
    ssh: Annotated[str, Meta(max_length=64)]
    """Fingerprint of the SSH host key, as OpenSSH writes it."""

    @property
    def web(self) -> str:
        """SHA-256 of the certificate, as browsers show it."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate)).digest().hex(":").upper()


def read(path: Path) -> PublicIdentity:
    """Read the public part.

    Raises:
        OSError, msgspec.DecodeError, ValueError: the file is missing or damaged.
    """
    return msgspec.json.decode(store.read(path, LIMIT), type=PublicIdentity)


class PresentedIdentity:
    """Presents the identity to operators: in answers, and on the console at the start and whenever it changes.

    Args:
        path: file with `PublicIdentity`.
        console: shows lines on the console.
    """

    def __init__(self, path: Path, console: Callable[[list[str]], None]) -> None:
        self._path = path
        self._console = console
        self._shown: PublicIdentity | None = None

    def get(self) -> PublicIdentity | None:
        """The present identity; None if it cannot be read."""
        try:
            public = read(self._path)
            return public if public.web else None
        except FileNotFoundError:
            return None  # the service that makes it has logged why
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log.error("%s: %s", self._path, ascii(str(error)))
            return None

    def announce(self, before: list[str]) -> None:
        """Show the lines `before`, if any, and the fingerprints if they are new. Programs read these lines, too."""
        lines = list(before)
        public = self.get()
        if public is not None and public != self._shown:
            self._shown = public
            lines += [
                "Before you log in, compare with what browser and SSH client show:",
                "sallyport: web certificate, SHA-256:",
                *(f"    {public.web[:48]}", f"    {public.web[48:]}"),
                f"sallyport: SSH host key: {public.ssh}",
            ]
        if lines:
            self._console(lines)
