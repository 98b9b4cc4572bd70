"""Instructions that the front-end VM sends on its own behalf, and the VM's state."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from .base import Instruction, Result
from .fields import Count
from .policy import Policy

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two heartbeats."""


class Heartbeat(Instruction, frozen=True, tag="vm.heartbeat"):
    """The front-end is alive: sent every `HEARTBEAT_INTERVAL` seconds; answered with `Done`."""

    policy: ClassVar[Policy] = Policy(who="vm")


class CertificateGet(Instruction, frozen=True, tag="certificate.get"):
    """The web page's certificate, which the host renews while the VM runs; answered with `Certificate`.

    It needs no session: everybody who opens the page sees the certificate.
    """

    policy: ClassVar[Policy] = Policy(who="vm")


class Certificate(Result, frozen=True, tag="certificate"):
    """The web page's certificate."""

    pem: Annotated[str, Meta(max_length=3072)]


class VmStatus(Struct, frozen=True, forbid_unknown_fields=True):
    """State of the front-end VM, as the host's supervisor knows it."""

    state: Literal["starting", "running", "restarting"]
    accelerator: Literal["kvm", "tcg"]
    accelerator_reason: str
    starts: Count
    """How often the VM was started since the supervisor started."""
    uptime_s: float
    last_exit: str
    """Why the VM ended last; empty if it never did."""
