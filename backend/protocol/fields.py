"""Types of fields that several messages share, with their limits."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

OPERATOR = "admin"
"""Name of the one account."""

# \Z and not $: the latter would also accept a trailing newline.
Hostname = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
"""One DNS label, lower case (RFC 1123 section 2.1)."""
MIN_PREPARED, MAX_PREPARED = 12, 128
"""Characters of a new password in the form in which the host compares it (`backend.daemon.password_form`)."""
MAX_PASSWORD = 256
"""Characters of a password as it was typed; accents may come as separate characters."""
Password = Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD)]
"""A password as it was typed; only the host normalizes it."""
Token = Annotated[str, Meta(min_length=43, max_length=43, pattern=r"^[A-Za-z0-9_-]+\Z")]
"""256 random bits, base64url without padding: what ``secrets.token_urlsafe(32)`` makes."""
Service = Literal["https", "ssh"]
"""Interface of the front-end that an operator uses."""
Address = Annotated[str, Meta(min_length=2, max_length=45, pattern=r"^[0-9A-Fa-f:.]+\Z")]
"""Numeric address of an operator as the front-end saw it, without a zone. The backend writes it to the audit log and
slows down addresses that guess passwords (`backend.daemon.throttle` says what a front-end that lies about it gains)."""
Count = Annotated[int, Meta(ge=0)]
