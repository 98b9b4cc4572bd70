"""Instructions about the management port."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from .base import Instruction, Result
from .fields import Count
from .policy import Policy


class PortsList(Instruction, frozen=True, tag="ports.list"):
    """The management port's counters; answered with `Ports`."""

    policy: ClassVar[Policy] = Policy(who="session")


class Counter(Struct, frozen=True, forbid_unknown_fields=True):
    """One verdict on frames: its name (``rx_passed``, ``tx_spoofed``), frames and bytes."""

    name: str
    frames: Count
    bytes: Count


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """A reason for which the forwarder stopped the VM's NIC, and how often."""

    name: str
    times: Count


class Port(Struct, frozen=True, forbid_unknown_fields=True):
    """One port. Directions are the device's: ``rx`` came in at the physical port."""

    name: str
    mac: str
    carrier: bool
    rx_frames: Count
    rx_bytes: Count
    tx_frames: Count
    tx_bytes: Count
    way: Literal["ring", "kernel", "bridge"]
    """The datapath: what moves frames at the port."""
    vm: Literal["vhost-user", "tap"]
    """What moves frames at the VM."""
    vm_up: bool
    verdicts: list[Counter]
    faults: list[Fault]


class Ports(Result, frozen=True, tag="ports"):
    """All management ports."""

    ports: list[Port]
