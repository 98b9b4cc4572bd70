"""The errors that people see: one sentence that says what is wrong and where, and a hint that says what to do."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
"""User and password in an address (RFC 3986, section 3.2.1)."""


def without_credentials(text: str) -> str:
    """The text with ``***`` instead of users and passwords in addresses: those of mirrors and proxies may have some."""
    return _CREDENTIALS.sub("***@", text)


class SallyportError(Exception):
    """Something that the user can correct; the message never has a password that is part of an address.

    Args:
        message: what is wrong and where (file:line, field), one sentence.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(without_credentials(message))
        self.hint = without_credentials(hint)


class OfflineError(SallyportError):
    """Something would have to be fetched, and --offline forbids that.

    Args:
        what: name of what is missing, as the message has it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not here, and --offline forbids to fetch it", "do the same once without --offline")
        self.what = what


class CommandError(SallyportError):
    """A child process failed.

    Args:
        message: the command line and the last lines that the process printed.
        hint: what to do about it.
        command: the command line with its directory and environment, in a form that a shell takes.
    """

    def __init__(self, message: str, hint: str = "", command: str = "") -> None:
        super().__init__(message, hint)
        self.command = without_credentials(command)


class DiskFullError(CommandError):
    """A child process could not write, because the disk is full."""
