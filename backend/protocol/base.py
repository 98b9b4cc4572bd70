"""What all instructions and all results have in common, and the two results that any instruction may have."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from .fields import Count
from .policy import Policy


class Instruction(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all instructions; the JSON field ``type`` names which one it is.

    Every type declares its `policy`; there is no default. The backend derives from it authentication, rate and audit.
    """

    policy: ClassVar[Policy]

    @classmethod
    def name(cls) -> str:
        """Its name on the link and in the audit log, such as ``hostname.set``."""
        return str(cls.__struct_config__.tag)

    def audit_detail(self) -> str:
        """What the audit log shows of its fields once it was carried out. Never a secret."""
        return ""

    def audit_peer(self) -> str:
        """Service and address of the operator, where the instruction itself names them; else the session does."""
        return ""


class Result(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all results; the JSON field ``type`` names which one it is."""


class Done(Result, frozen=True, tag="done"):
    """The instruction was carried out and has nothing to return."""


ErrorCode = Literal[
    "malformed",  # not JSON, unknown type or field, value out of range, not UTF-8
    "version",  # a schema version that this backend does not speak
    "oversized",  # a line longer than `codec.MAX_LINE`; the connection is closed
    "incomplete",  # a line that did not end in time; the connection is closed
    "replayed",  # `seq` not larger than one seen before
    "limited",  # too many requests, connections or failed logins; `retry_after_s` says when to come back
    "denied",  # no session, wrong password or user
    "failed",  # the backend tried and could not
]


class Error(Result, frozen=True, tag="error"):
    """The request was not carried out, or not completely."""

    code: ErrorCode
    message: str
    retry_after_s: float = 0.0
    last_seq: Count = 0
    """With code ``replayed``: the largest ``seq`` seen, so that an honest client whose clock went back can go on."""
