"""Downloads a file from an address (http, https)."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from rootfs.base.errors import SallyportError

_SECONDS = 60.0
_PART = 2**18


def is_address(text: str) -> bool:
    """Whether a text is an http or https address, and not a path."""
    return text.startswith(("https://", "http://"))


def download(address: str, target: Path, limit: int, say: Callable[[str], None], remedy: str) -> None:
    """Write what is at an address to a file.

    Args:
        address: one of `is_address`.
        target: the file to write; the caller checks its contents before use.
        limit: maximum size in bytes.
        say: is called with the size so far, to show progress.
        remedy: hint of the error, if it fails.

    Raises:
        SallyportError: the file cannot be downloaded, or is larger than ``limit``.
    """
    done = 0
    try:
        with (
            urllib.request.urlopen(address, timeout=_SECONDS) as answer,  # noqa: S310 - the scheme was looked at
            target.open("wb") as file,
        ):
            while part := answer.read(_PART):
                done += len(part)
                if done > limit:
                    raise SallyportError(f"{address}: more than {limit >> 20} MiB", remedy)
                file.write(part)
                say(f"{done / 2**20:.1f} MiB")
    except (OSError, HTTPException) as error:
        # The text of a URLError is in angle brackets; its reason has the same words without them.
        words = error.reason if type(error) is URLError else error
        raise SallyportError(f"{address}: {words}", remedy) from error
