"""Instructions about the appliance as a whole: its state, its host name, its reboot."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from .base import Instruction, Result
from .fields import Count, Hostname
from .policy import Policy
from .vm import VmStatus


class StatusGet(Instruction, frozen=True, tag="status.get"):
    """State of the appliance; answered with `Status`."""

    policy: ClassVar[Policy] = Policy(who="session")


class HostnameSet(Instruction, frozen=True, tag="hostname.set"):
    """Give the host a name that survives reboot and power loss; answered with `Done` once it is in force."""

    policy: ClassVar[Policy] = Policy(who="session", audit="changes", mutating=True, rate="changes")

    hostname: Hostname

    def audit_detail(self) -> str:
        """The new name."""
        return self.hostname


class SystemReboot(Instruction, frozen=True, tag="system.reboot"):
    """Reboot the appliance; answered with `Done` before the reboot begins."""

    policy: ClassVar[Policy] = Policy(who="session", audit="changes", mutating=True, rate="changes")


StorageState = Literal["ok", "repaired", "full", "read-only", "copy", "temporary", "second-disk", "unknown"]
"""State of the data partition; `backend.daemon.storage` says what each means."""


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    """The data partition."""

    state: StorageState
    text: str
    """What the state means and what to do; empty for ``ok``."""


class AuditLog(Struct, frozen=True, forbid_unknown_fields=True):
    """The audit log's hash chain: what the check at the backend's start found, and where the chain ends now."""

    state: Literal["checking", "whole", "broken"]
    fault: str
    """The first place where the chain is broken; empty if it is not."""
    entries: Count
    head: str
    """SHA-256 of the newest entry of the log ``changes``, whose number is ``entries``; whoever notes both can tell
    later whether the end of the log was cut off."""


class Status(Result, frozen=True, tag="status"):
    """State of the appliance."""

    hostname: str
    product: str
    version: str
    profile: str
    engine: str
    image: str
    """dm-verity root hash of the running root file system, hexadecimal."""
    boot_id: str
    uptime_s: float
    load_1m: float
    memory_total: Count
    memory_available: Count
    """Bytes."""
    data_total: Count
    data_available: Count
    """Bytes of the data partition."""
    storage: Storage
    machine: VmStatus
    web_fingerprint: str
    """SHA-256 of the web page's certificate, as browsers write it; empty if the host cannot read the certificate."""
    ssh_fingerprint: str
    """SHA-256 of the SSH host key, as OpenSSH writes it; empty if the host cannot read the key."""
    audit: AuditLog
