"""Instructions about sessions of operators, and the password that opens them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from .base import Instruction, Result
from .fields import Address, Password, Service, Token
from .policy import Policy


class SessionOpen(Instruction, frozen=True, tag="session.open"):
    """Log an operator in; answered with `Session`. Wrong passwords slow down the address that they come from."""

    policy: ClassVar[Policy] = Policy(who="password", audit="sessions")

    user: Annotated[str, Meta(min_length=1, max_length=32)]
    password: Password
    service: Service
    address: Address

    def audit_peer(self) -> str:
        """Service and address of whoever tries to log in."""
        return f"{self.service} {self.address}"


class SessionClose(Instruction, frozen=True, tag="session.close"):
    """Log the operator of the request's token out; answered with `Done`.

    The audit log has it as the event ``session.end``, like every other end of a session.
    """

    policy: ClassVar[Policy] = Policy(who="session")


class PasswordSet(Instruction, frozen=True, tag="password.set"):
    """Change the operator's password, which needs the present one, too.

    Ends all other sessions; answered with `Done`, or with code ``malformed`` and the reason if the new one cannot be a
    password.
    """

    policy: ClassVar[Policy] = Policy(who="session", audit="changes", mutating=True, rate="changes")

    old: Password
    new: Password


class Session(Result, frozen=True, tag="session"):
    """An open session. The token ends after ``idle_s`` seconds without a request that carries it."""

    token: Token
    idle_s: int
