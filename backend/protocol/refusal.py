"""How a request is turned down: one exception that carries the `Error`, on both ends of the link."""

from __future__ import annotations

from .base import Error, ErrorCode

MAX_TEXT = 200
"""Characters of a message at most: it may quote what the peer sent, and a reply has to fit in one line."""


def printable(text: str) -> str:
    """`text` in printable ASCII, at most `MAX_TEXT` characters: safe in logs, terminals and replies."""
    return text[:MAX_TEXT].encode("unicode_escape").decode("ascii")[:MAX_TEXT]


class Refused(Exception):
    """The request is not carried out.

    On the host: what becomes the reply. In the VM: what the backend replied, or would have replied to a request that
    was therefore not sent.

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

    @classmethod
    def by_backend(cls, error: Error) -> Refused:
        """The exception for an error that the backend answered, which is kept as it came."""
        refused = cls(error.code, error.message)
        refused.error = error
        return refused
