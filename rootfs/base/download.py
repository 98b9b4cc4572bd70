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
    """Whether it names something on the network, and not a path."""
    return text.startswith(("https://", "http://"))


def download(address: str, target: Path, limit: int, say: Callable[[str], None], remedy: str) -> None:
    """Write what is at an address to a file.

    Args:
        address: one of `is_address`.
        target: is written; whoever calls looks at what is in it, and gives it its name.
        limit: bytes; more is an error.
        say: is told how much there is by now.
        remedy: what to do if it fails.

    Raises:
        SallyportError: it cannot be had, or is too big.
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
        # Its own text is in angle brackets; what it was raised from says the same in words.
        words = error.reason if type(error) is URLError else error
        raise SallyportError(f"{address}: {words}", remedy) from error
