"""How a request is turned down: one exception that carries the `Error` for the front-end."""

from __future__ import annotations

from backend.protocol.instructions import Error, ErrorCode

TEXT = 200
"""Characters of a message at most: it may quote what the peer sent, and a reply has to fit in one line."""


def printable(text: str) -> str:
    """`text` in printable ASCII, at most `TEXT` characters: safe in logs, terminals and replies."""
    return text[:TEXT].encode("unicode_escape").decode("ascii")[:TEXT]


class Refused(Exception):
    """The request is not carried out.

    Attributes:
        error: The answer.
        seq: The request's number, 0 where none could be read.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, seq: int = 0, retry_after_s: float = 0.0, last_seq: int = 0
    ) -> None:
        super().__init__(message)
        self.seq = seq
        self.error = Error(
            code=code, message=printable(message), retry_after_s=round(retry_after_s, 3), last_seq=last_seq
        )
