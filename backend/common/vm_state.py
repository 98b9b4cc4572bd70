"""What the supervisor says about the front-end VM, as a file that the daemon reads.

The supervisor writes it, the daemon answers ``status.get`` from it; they share nothing else.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from backend.common import store
from backend.protocol.fields import Count
from backend.protocol.vm import VmStatus

LIMIT = 16384
"""Bytes of the file at most."""
EVENTS = 16
"""Events in it at most. The daemon looks once a second, and a VM that dies at once is started again more slowly."""
TEXT = 200
"""Characters of a text in it at most: `VmStatus` has to fit in one message together with the rest of `Status`."""


Text = Annotated[str, Meta(max_length=TEXT)]


MAX_NUMBER = 2**52
"""Of an event of a supervisor before: what follows it is still one (`VmEvent.number`)."""


class VmEvent(Struct, frozen=True, forbid_unknown_fields=True):
    """What happened to the VM, for the audit log. Numbers begin at 1 when the host boots."""

    number: Annotated[int, Meta(ge=1, le=2**53)]
    what: Literal["start", "up", "exit"]
    """It was started; its first heartbeat came; it ended, and ``detail`` says why."""
    detail: Text


StartId = Annotated[str, Meta(min_length=32, max_length=32, pattern=r"^[0-9a-f]+\Z")]
"""128 random bits that name one start of the VM. Sessions belong to it: a count would come again when the supervisor's
own unit is started anew."""


class VmState(Struct, frozen=True, forbid_unknown_fields=True):
    """The front-end VM. ``started_at`` is CLOCK_MONOTONIC (`time.monotonic`) in seconds."""

    state: Literal["starting", "running", "restarting"]
    accelerator: Literal["kvm", "tcg"]
    accelerator_reason: Text
    starts: Count
    start_id: StartId
    started_at: float
    last_exit: Text
    history: Annotated[str, Meta(pattern=r"^[0-9a-f]{0,16}\Z")] = ""
    """What the numbers of the events belong to: random, the same until the host is booted again."""
    events: Annotated[tuple[VmEvent, ...], Meta(max_length=EVENTS)] = ()
    """The newest ones, oldest first."""


def new_start_id() -> str:
    """The name of a start that is about to be."""
    return secrets.token_hex(16)


def write(path: Path, state: VmState) -> None:
    """Replace the file at once; texts are cut to `TEXT` characters. The folder is in memory, so no fsync.

    Raises:
        OSError: the old file is still there.
    """
    short = msgspec.structs.replace(
        state, accelerator_reason=state.accelerator_reason[:TEXT], last_exit=state.last_exit[:TEXT]
    )
    store.replace(path, msgspec.json.encode(short) + b"\n", mode=0o644, durable=False)


def read(path: Path) -> VmState | None:
    """What the supervisor wrote last; None if it has not yet.

    Raises:
        OSError: the file cannot be read.
        msgspec.DecodeError, ValueError: it is not a `VmState`.
    """
    try:
        return msgspec.json.decode(store.read(path, LIMIT), type=VmState)
    except FileNotFoundError:
        return None


def status(state: VmState | None, now: float | None = None) -> VmStatus:
    """The wire form; `now` is CLOCK_MONOTONIC in seconds, by default the present."""
    if state is None:
        return VmStatus(
            state="starting",
            accelerator="tcg",
            accelerator_reason="not known yet",
            starts=0,
            uptime_s=0.0,
            last_exit="",
        )
    uptime = (time.monotonic() if now is None else now) - state.started_at
    return VmStatus(
        state=state.state,
        accelerator=state.accelerator,
        accelerator_reason=state.accelerator_reason,
        starts=state.starts,
        uptime_s=round(max(0.0, uptime), 3),
        last_exit=state.last_exit,
    )
