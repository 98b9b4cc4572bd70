"""The policy of an instruction: who may send it, where it is audited, whether it changes the appliance, how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Who = Literal["vm", "password", "session"]
"""``vm``: the front-end itself, nobody needs to be logged in. ``password``: whoever knows the password, which the
instruction carries. ``session``: an operator whose session's token the request carries."""
AuditLogName = Literal["changes", "sessions", "rejected"]
"""Log of `backend.daemon.audit` for an instruction that was carried out; ``rejected`` keeps only those that were not.
An instruction that was not admitted is always recorded in ``rejected``."""
Rate = Literal["requests", "changes"]
"""Token bucket that admission takes from. ``requests``: only the one that all requests share. ``changes``: a bucket of
its own as well (`backend.daemon.settings.Settings.change_rate`)."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the backend enforces for every instruction of one type before and after its handler runs.

    Attributes:
        who: may send it.
        audit: the log that its outcome is recorded in.
        mutating: it changes the appliance: recorded as ``begun`` before its handler runs, so that a power cut in the
            middle leaves a trace, and with its outcome afterwards, a failure included.
        rate: what it counts against.

    Raises:
        ValueError: the attributes contradict one another.
    """

    who: Who
    audit: AuditLogName = "rejected"
    mutating: bool = False
    rate: Rate = "requests"

    def __post_init__(self) -> None:
        # An entry of `changes` is never left out. So only the rate of instructions keeps whoever may send them from
        # pushing older entries out of the log, and an instruction that anybody may send must not be in it at all.
        if self.mutating != (self.audit == "changes"):
            raise ValueError("an instruction is mutating if and only if its audit log is `changes`")
        if self.mutating and (self.rate != "changes" or self.who != "session"):
            raise ValueError("a mutating instruction needs a session and the rate `changes`")
