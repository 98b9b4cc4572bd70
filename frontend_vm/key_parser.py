"""Parses what a terminal sends into text and keys."""

from __future__ import annotations

from collections.abc import Callable

MAX_SEQUENCE = 64
MAX_STRING = 4096
"""Characters after which an escape sequence, or a string that a terminal reports, is taken to have ended."""


class KeyParser:
    """Parses what a terminal sends into text and keys (ECMA-48 section 5; XTerm Control Sequences).

    Sequences may arrive in pieces. Their characters are never taken for text: an unknown sequence is reported as one
    key.
    """

    def __init__(self, text: Callable[[str], None], key: Callable[[str], None]) -> None:
        self._text = text
        self._key = key
        self._begun = ""  # a sequence so far, in its 7-bit form
        self._string = 0  # characters of a string so far, its introducer included
        self._after_return = False

    def feed(self, data: str) -> None:
        """Take the next characters."""
        start = None
        for position, char in enumerate(data):
            plain = not self._begun and not self._string and not _is_control(char)
            if plain and start is None:
                start = position
            elif not plain and start is not None:
                self._text(data[start:position])
                start = None
            if plain:
                self._after_return = False
            else:
                self._take(char)
        if start is not None:
            self._text(data[start:])

    def _take(self, char: str) -> None:
        # A key that cancels or ends a line ends any unfinished sequence: none may swallow it.
        if char in "\r\n\x03\x1c":
            self._begun, self._string = "", 0
        if self._string:
            self._take_string(char)
        elif char == "\x1b":
            self._begun = char
        elif "\x80" <= char <= "\x9f":  # the 8-bit form of a sequence's beginning
            self._begun = "\x1b"
            self._take_sequence(chr(ord(char) - 0x40))
        elif _is_control(char):
            self._begun = ""
            # CR LF is one key (RFC 5198 section 2; text pasted from Windows).
            if not (char == "\n" and self._after_return):
                self._key(char)
            self._after_return = char == "\r"
        else:
            self._take_sequence(char)

    def _take_sequence(self, char: str) -> None:
        self._begun += char
        kind = self._begun[1]
        if kind in "]PX^_":  # OSC, DCS, SOS, PM, APC
            self._begun, self._string = "", 1
        elif len(self._begun) > MAX_SEQUENCE or char > "~":
            self._finish()
        elif kind == "[":
            # Linux' console sends CSI [ A to E for F1 to F5.
            if char >= "@" and self._begun not in ("\x1b[", "\x1b[["):
                self._finish()
        elif kind == "O":  # SS3; old terminals put a modifier before its one character
            if len(self._begun) > 2 and not (char.isdigit() or char == ";"):
                self._finish()
        elif char > "/":  # others belong to a sequence of three characters
            self._finish()

    def _take_string(self, char: str) -> None:
        self._string += 1
        if char in "\x07\x9c" or self._string > MAX_STRING:  # BEL or ST
            self._string = 0
        elif char == "\x1b":  # of ESC \, which is ST in 7 bits, or of whatever comes next
            self._begun, self._string = char, 0

    def _finish(self) -> None:
        sequence, self._begun = self._begun, ""
        self._after_return = False
        if sequence != "\x1b\\":
            self._key(sequence)


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f"
