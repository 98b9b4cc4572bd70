"""The errors that people see: one sentence that says what and where, and a hint that says what to do."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
"""User and password in an address (RFC 3986, section 3.2.1)."""


def without_credentials(text: str) -> str:
    """The text with ``***`` in the place of users and passwords in addresses: mirrors and proxies may have some."""
    return _CREDENTIALS.sub("***@", text)


class SallyportError(Exception):
    """Something the user can mend; says no password that is part of an address.

    Args:
        message: what is wrong and where (file:line, field), one sentence.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(without_credentials(message))
        self.hint = without_credentials(hint)


class OfflineError(SallyportError):
    """Something is not here, and nothing may be fetched.

    Args:
        what: it is.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not here, and --offline forbids to fetch it", "do the same once without --offline")
        self.what = what


class CommandError(SallyportError):
    """A child process failed; the message carries its command line in a form that can be pasted."""


class DiskFullError(CommandError):
    """A child process found no room."""
