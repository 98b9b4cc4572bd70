"""The form in which passwords are compared, the same for every keyboard, browser and terminal.

It is the OpaqueString profile of RFC 8265 section 4.2: every space becomes U+0020, then Unicode normalization form C;
case and compatibility characters stay as they are ("²" is not "2"). A new password may have the characters that its
base class (RFC 8264 section 4.3, FreeformClass) allows, decided by general category, so there is no table that could
become outdated.

Only the host does this; the front-end passes on what was typed.
"""

from __future__ import annotations

import unicodedata

from backend.protocol.fields import MAX_PASSWORD, MAX_PREPARED, MIN_PREPARED

ALLOWED = frozenset("LMNPS")
"""Unicode's major categories: letters, marks, numbers, punctuation, symbols. The others are separators, controls,
format characters, surrogates, private use and unassigned code points, whose form may change in a later version of
Unicode."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What decoders insert for bytes that are not UTF-8."""


def prepare(text: str) -> str:
    """The form of a password in which it is compared. Never raises."""
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    return unicodedata.normalize("NFC", spaced)


def objection(text: str) -> str:
    """Why `text` cannot become a password, as a sentence for the operator; empty if it can."""
    prepared = prepare(text)
    if REPLACEMENT in prepared:
        return "the new password has characters that are not valid UTF-8; is the terminal set to UTF-8?"
    for char in prepared:
        if char != " " and unicodedata.category(char)[0] not in ALLOWED:
            return f"the new password has the character U+{ord(char):04X}, which is not allowed; leave it out"
    if not MIN_PREPARED <= len(prepared) <= MAX_PREPARED:
        return f"a password has {MIN_PREPARED} to {MAX_PREPARED} characters; this one has {len(prepared)}"
    if len(unicodedata.normalize("NFD", prepared)) > MAX_PASSWORD:
        # Another keyboard may send it decomposed, which has to fit into a message, too.
        return "the new password is too long when its accents are sent as separate characters; use fewer accents"
    return ""
