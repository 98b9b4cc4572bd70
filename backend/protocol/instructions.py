"""The list of all instructions and all results: what may cross the link, and nothing else.

A new instruction is a type in the module of its group, with its policy, and an entry in `AnyInstruction` here; a result
of a new kind is an entry in `AnyResult`. See docs/contribute/add-an-instruction.md.
"""

from __future__ import annotations

from typing import get_args

from .base import Done, Error, Instruction
from .port import Ports, PortsList
from .session import PasswordSet, Session, SessionClose, SessionOpen
from .system import HostnameSet, Status, StatusGet, SystemReboot
from .vm import Certificate, CertificateGet, Heartbeat

AnyInstruction = (
    SessionOpen
    | SessionClose
    | StatusGet
    | PortsList
    | HostnameSet
    | PasswordSet
    | SystemReboot
    | Heartbeat
    | CertificateGet
)

AnyResult = Done | Session | Status | Ports | Certificate | Error

INSTRUCTIONS: tuple[type[Instruction], ...] = get_args(AnyInstruction)
"""Every type of instruction that a request may hold."""
