"""The registry of handlers: which function carries out which type of instruction, and what it works with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.common.heartbeat import Heartbeats
from backend.daemon.audit import Audit
from backend.daemon.credential import Passwords
from backend.daemon.host_status import HostStatus
from backend.daemon.port_status import PortStatus
from backend.daemon.public_identity import PresentedIdentity
from backend.daemon.reboot import Reboot
from backend.daemon.sessions import OpenSession, Sessions
from backend.daemon.settings import Settings
from backend.daemon.vm_binding import VmBinding
from backend.daemon.worker import Worker
from backend.protocol.base import Instruction
from backend.protocol.instructions import AnyResult
from backend.protocol.refusal import Refused


@dataclass(frozen=True, kw_only=True)
class Services:
    """The daemon's parts that handlers work with.

    Attributes:
        settings: paths and limits.
        audit: the audit log.
        passwords: checks and changes the operator's password.
        sessions: operators who are logged in.
        vm: which start of the VM the sessions belong to.
        host: facts about the host.
        presented: certificate and keys that the front-end presents.
        ports: client of the process that holds the management port.
        heartbeats: the way to the VM's supervisor.
        reboot: requests the reboot of the host.
        disk: thread for what touches flash.
        hostname: returns the host name that is in force.
        changing: held while a change is made that must not overlap with another one.
    """

    settings: Settings
    audit: Audit
    passwords: Passwords
    sessions: Sessions
    vm: VmBinding
    host: HostStatus
    presented: PresentedIdentity
    ports: PortStatus
    heartbeats: Heartbeats
    reboot: Reboot
    disk: Worker
    hostname: Callable[[], str]
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Call:
    """One instruction on its way through its handler.

    Attributes:
        services: the daemon's parts.
        connected_at: when the request's connection was accepted, in seconds of CLOCK_MONOTONIC.
        session: the operator's; None if the instruction needs none. A handler that opens one sets it, for the audit.
    """

    services: Services
    connected_at: float
    session: OpenSession | None = None

    def operator(self) -> OpenSession:
        """The session of the operator who sent the instruction.

        Raises:
            Refused: ``denied``, there is none.
        """
        if self.session is None:
            raise Refused("denied", "no such session; log in")
        return self.session


T = TypeVar("T", bound=Instruction)
Handler = Callable[[T, Call], Awaitable[AnyResult]]

_handlers: dict[type[Instruction], Handler[Any]] = {}


def handles(kind: type[T]) -> Callable[[Handler[T]], Handler[T]]:
    """Decorator: the function is the handler of this type of instruction.

    The handler returns the result, raises `Refused` with the error to answer, or any other exception, which is logged
    and answered as ``failed`` without details.

    Raises:
        ValueError: the type has a handler already.
    """

    def register(handler: Handler[T]) -> Handler[T]:
        if kind in _handlers:
            raise ValueError(f"{kind.__name__} has two handlers: {_handlers[kind]!r} and {handler!r}")
        _handlers[kind] = handler
        return handler

    return register


def handler_of(kind: type[Instruction]) -> Handler[Any]:
    """The handler of a type of instruction.

    Raises:
        KeyError: it has none.
    """
    return _handlers[kind]
