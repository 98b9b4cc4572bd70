"""The instruction schema: every message that may cross the link, and nothing else.

This file is the single definition. The backend imports it as ``backend.protocol.instructions``; the front-end sees
the same file as ``frontend_vm.protocol.instructions`` (a symbolic link that the image builds follow), so both ends
of the link are always built from one schema.

Wire format: one JSON object per line (RFC 8259, JSON Lines), UTF-8, at most ``MAX_LINE`` bytes with the
newline, inside TLS 1.3 with both ends authenticated. The front-end sends a `Request`; the backend answers
each with one `Reply` that carries the request's ``seq``, in order. Unknown fields are errors, on purpose:
what the schema does not name cannot be said.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

VERSION = 1
MAX_LINE = 4096
"""Bytes of one message with its newline. The largest honest request is a `PasswordSet` of characters of four bytes:
below 2,400 bytes; the largest honest reply is a `Ports` in which every counter and every fault of the port has 20
digits: below 3,800 bytes."""

BACKEND_ADDRESS = "169.254.254.1"
FRONTEND_ADDRESS = "169.254.254.2"
LINK_PREFIX = 30
"""The link is a /30 of IPv4 link-local space (RFC 3927): never routed, never on the management port."""
LINK_NETWORK = "169.254.254.0/30"
BACKEND_PORT = 7000
BACKEND_MAC = "02:5a:1f:00:00:01"
FRONTEND_MAC = "02:5a:1f:00:00:02"
BRIDGE_MAC = "02:5a:1f:00:00:03"
"""Locally administered; none of the three ever appears on a physical wire."""
ACCESS_MAC_PREFIX = "02:5a:11"
"""The VM's address on the management port: this, then the port's own last three bytes."""
BACKEND_NAME = "backend.sallyport"
FRONTEND_NAME = "frontend.sallyport"
"""Names in the certificates that are made at every boot."""

OPERATOR = "admin"
"""The one account."""

# \Z and not $: the latter would also accept a trailing newline.
Hostname = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
"""One DNS label, lower case (RFC 1123 section 2.1)."""
MIN_PREPARED, MAX_PREPARED = 12, 128
"""Characters of a new password in the form in which the host compares it (`backend.daemon.opaque`)."""
MAX_PASSWORD = 256
"""Characters of a password as it was typed: accents may come apart from their letters."""
Password = Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD)]
"""As it was typed; nothing but the host brings it into another form."""
Token = Annotated[str, Meta(min_length=43, max_length=43, pattern=r"^[A-Za-z0-9_-]+\Z")]
"""256 random bits, base64url without padding: what ``secrets.token_urlsafe(32)`` makes."""
Service = Literal["https", "ssh"]
"""Which face of the front-end an operator uses."""
Address = Annotated[str, Meta(min_length=2, max_length=45, pattern=r"^[0-9A-Fa-f:.]+\Z")]
"""Numeric address of an operator as the front-end saw it, without a zone: for the audit log, and to slow down whoever
guesses (`backend.daemon.throttle`, which also says what a front-end that lies gains)."""
Count = Annotated[int, Meta(ge=0)]


class Instruction(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all instructions; the JSON field ``type`` names which one it is."""


class SessionOpen(Instruction, frozen=True, tag="session.open"):
    """Log an operator in. Needs no token; answered with `Session`. Wrong passwords slow down their address."""

    user: Annotated[str, Meta(min_length=1, max_length=32)]
    password: Password
    service: Service
    address: Address


class SessionClose(Instruction, frozen=True, tag="session.close"):
    """Log the operator of the request's token out; answered with `Done`."""


class StatusGet(Instruction, frozen=True, tag="status.get"):
    """State of the appliance; needs a token; answered with `Status`."""


class PortsList(Instruction, frozen=True, tag="ports.list"):
    """The management port's counters; needs a token; answered with `Ports`."""


class HostnameSet(Instruction, frozen=True, tag="hostname.set"):
    """Give the host a name that survives reboot and power loss; needs a token.

    Answered with `Done` once it is in force.
    """

    hostname: Hostname


class PasswordSet(Instruction, frozen=True, tag="password.set"):
    """Change the operator's password; needs a token and the present password.

    Ends all other sessions; answered with `Done`, or with code ``malformed`` and the reason if the new one cannot be a
    password.
    """

    old: Password
    new: Password


class SystemReboot(Instruction, frozen=True, tag="system.reboot"):
    """Reboot the appliance; needs a token; answered with `Done` before the reboot begins."""


class Heartbeat(Instruction, frozen=True, tag="vm.heartbeat"):
    """The front-end lives. Needs no token, is sent every `HEARTBEAT_INTERVAL` seconds; answered with `Done`."""


HEARTBEAT_INTERVAL = 1.0


class CertificateGet(Instruction, frozen=True, tag="certificate.get"):
    """The web page's certificate, which the host renews while the VM runs. Needs no token: everybody sees it anyway.

    Answered with `Certificate`.
    """


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


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One request.

    ``seq`` must be larger than every ``seq`` before it under the same link keys, else it is a replay.
    """

    v: Literal[1]
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    do: AnyInstruction
    token: Token | None = None


class Result(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all results."""


class Done(Result, frozen=True, tag="done"):
    """It was done."""


class Session(Result, frozen=True, tag="session"):
    """An open session. The token ends after ``idle_s`` seconds without a request that carries it."""

    token: Token
    idle_s: int


class Machine(Struct, frozen=True, forbid_unknown_fields=True):
    """The front-end VM as the host's supervisor sees it."""

    state: Literal["starting", "running", "restarting"]
    accelerator: Literal["kvm", "tcg"]
    accelerator_reason: str
    starts: Count
    """How often the VM was started since the host booted."""
    uptime_s: float
    last_exit: str
    """Why it was restarted last, empty if it never was."""


StorageState = Literal["ok", "repaired", "full", "read-only", "copy", "temporary", "second-disk", "unknown"]
"""How the data partition is; `backend.daemon.storage` says what each means."""


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    """The data partition."""

    state: StorageState
    text: str
    """What that means and what to do; empty if all is well."""


class AuditLog(Struct, frozen=True, forbid_unknown_fields=True):
    """The chain of the audit log, as the backend found it when it started, and where it ends now."""

    state: Literal["checking", "whole", "broken"]
    fault: str
    """The first place where it does not hold."""
    entries: Count
    head: str
    """Number and SHA-256 of the newest entry of what operators changed; who notes them can tell if it was cut off."""


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
    machine: Machine
    web_fingerprint: str
    """SHA-256 of the web page's certificate, as browsers write it; empty if the host cannot tell."""
    ssh_fingerprint: str
    """SHA-256 of the SSH host key, as OpenSSH writes it; empty if the host cannot tell."""
    audit: AuditLog


class Certificate(Result, frozen=True, tag="certificate"):
    """The web page's certificate."""

    pem: Annotated[str, Meta(max_length=3072)]


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
    """What moves the frames at the port ..."""
    vm: Literal["vhost-user", "tap"]
    """... and at the VM."""
    vm_up: bool
    verdicts: list[Counter]
    faults: list[Fault]


class Ports(Result, frozen=True, tag="ports"):
    """All management ports."""

    ports: list[Port]


ErrorCode = Literal[
    "malformed",  # not JSON, unknown type or field, value out of range, not UTF-8
    "version",  # a schema version that this backend does not speak
    "oversized",  # a line longer than MAX_LINE; the connection is closed
    "incomplete",  # a line that was begun and not ended in time; the connection is closed
    "replayed",  # seq not larger than one seen before
    "limited",  # too many requests, connections or failed logins; retry_after_s says when to come back
    "denied",  # no session, wrong password or user
    "failed",  # the backend tried and could not
]


class Error(Result, frozen=True, tag="error"):
    """The request was not carried out."""

    code: ErrorCode
    message: str
    retry_after_s: float = 0.0
    last_seq: Count = 0
    """With code ``replayed``: the largest ``seq`` seen, so that an honest client whose clock went back can go on."""


class Reply(Struct, frozen=True, forbid_unknown_fields=True):
    """Answer to the request with the same ``seq`` (0 where none could be read)."""

    seq: Count
    result: Done | Session | Status | Ports | Certificate | Error


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
