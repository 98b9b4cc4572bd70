"""Messages of the link as lines of bytes: requests, replies, their framing and limits."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from .fields import Count, Token
from .instructions import AnyInstruction, AnyResult

VERSION = 1
"""Version of the schema, `Request.v`."""
MAX_LINE = 4096
"""Bytes of one message with its newline. The largest honest request is a `PasswordSet` of characters of four bytes:
below 2,400 bytes; the largest honest reply is a `Ports` in which every counter and every fault of the port has 20
digits: below 3,800 bytes."""


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One request.

    ``seq`` must be larger than every ``seq`` before it under the same link keys, else the request is a replay.
    """

    v: Literal[1]
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    do: AnyInstruction
    token: Token | None = None


class Reply(Struct, frozen=True, forbid_unknown_fields=True):
    """Answer to the request with the same ``seq`` (0 where none could be read)."""

    seq: Count
    result: AnyResult


_encoder = msgspec.json.Encoder()
_request_decoder = msgspec.json.Decoder(Request)
_reply_decoder = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """One line, newline included.

    Raises:
        ValueError: the line would be longer than `MAX_LINE`.
    """
    line = _encoder.encode(message) + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError(f"message of {len(line)} bytes; the link carries at most {MAX_LINE}")
    return line


def decode_request(line: bytes) -> Request:
    """Parse one line from the front-end.

    Raises:
        msgspec.DecodeError: not a `Request` (`msgspec.ValidationError` is a subclass).
    """
    return _request_decoder.decode(line)


def decode_reply(line: bytes) -> Reply:
    """Parse one line from the backend.

    Raises:
        msgspec.DecodeError: not a `Reply`.
    """
    return _reply_decoder.decode(line)
