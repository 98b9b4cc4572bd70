"""Passwords as strings: one form for each, whichever keyboard, browser or terminal it came from.

Follows the OpaqueString profile of RFC 8265 section 4.2: any space becomes U+0020, then Unicode normalization form C;
case and compatibility characters stay as they are ("²" is not "2"). What may be set is what its base class (RFC 8264
section 4.3, FreeformClass) admits by general category, so no table of ours can grow old.

Only this module does so, on the host, for whatever way a password came: the front-end passes on what was typed.
"""

from __future__ import annotations

import unicodedata

from backend.protocol.fields import MAX_PASSWORD, MAX_PREPARED, MIN_PREPARED

GOOD = frozenset("LMNPS")
"""Major categories: letters, marks, numbers, punctuation, symbols. Others are spaces, controls, format characters,
surrogates, private use and what Unicode has not assigned: the form of these may change with its next version."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What decoders put where bytes were not UTF-8."""


def prepare(text: str) -> str:
    """The form in which passwords are compared; never raises."""
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    return unicodedata.normalize("NFC", spaced)


def objection(text: str) -> str:
    """Why `text` cannot become a password, as a sentence for the operator; empty if it can."""
    prepared = prepare(text)
    if REPLACEMENT in prepared:
        return "the new password holds characters that did not arrive whole; is the terminal set to UTF-8?"
    for char in prepared:
        if char != " " and unicodedata.category(char)[0] not in GOOD:
            return f"the new password holds U+{ord(char):04X}, which cannot be typed alike everywhere; leave it out"
    if not MIN_PREPARED <= len(prepared) <= MAX_PREPARED:
        return f"a password has {MIN_PREPARED} to {MAX_PREPARED} characters; this one has {len(prepared)}"
    if len(unicodedata.normalize("NFD", prepared)) > MAX_PASSWORD:
        # Another keyboard may send it in this form, which has to fit in a message, too.
        return "the new password is too long when its accents are sent apart; use fewer accents"
    return ""
