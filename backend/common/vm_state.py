"""State of the front-end VM in a file: the supervisor writes it, the backend reads it."""

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
"""Events in the file at most. The backend reads it once a second; a VM that exits at once is restarted more slowly."""
TEXT = 200
"""Characters of a text in it at most: `VmStatus` has to fit into one message with the rest of `Status`."""


Text = Annotated[str, Meta(max_length=TEXT)]


MAX_NUMBER = 2**52
"""Largest number accepted from the file of a previous supervisor, so that later numbers are still valid
(`VmEvent.number`)."""


class VmEvent(Struct, frozen=True, forbid_unknown_fields=True):
    """An event of the VM, for the audit log. Numbers begin at 1 when the host boots."""

    number: Annotated[int, Meta(ge=1, le=2**53)]
    what: Literal["start", "up", "exit"]
    """The VM was started; its first heartbeat arrived; it exited, for the reason in ``detail``."""
    detail: Text


StartId = Annotated[str, Meta(min_length=32, max_length=32, pattern=r"^[0-9a-f]+\Z")]
"""128 random bits that identify one start of the VM, to which sessions belong. A count would repeat when the supervisor
itself is restarted."""


class VmState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of the front-end VM. ``started_at`` is in seconds of CLOCK_MONOTONIC (`time.monotonic`)."""

    state: Literal["starting", "running", "restarting"]
    accelerator: Literal["kvm", "tcg"]
    accelerator_reason: Text
    starts: Count
    start_id: StartId
    started_at: float
    last_exit: Text
    history: Annotated[str, Meta(pattern=r"^[0-9a-f]{0,16}\Z")] = ""
    """Identifies the sequence of event numbers: random, the same until the host boots again."""
    events: Annotated[tuple[VmEvent, ...], Meta(max_length=EVENTS)] = ()
    """The newest events, oldest first."""


def new_start_id() -> str:
    """A new random identifier."""
    return secrets.token_hex(16)


def write(path: Path, state: VmState) -> None:
    """Replace the file atomically; texts are cut to `TEXT` characters. The folder is in memory, so there is no fsync.

    Raises:
        OSError: the file still has its old content.
    """
    short = msgspec.structs.replace(
        state, accelerator_reason=state.accelerator_reason[:TEXT], last_exit=state.last_exit[:TEXT]
    )
    store.replace(path, msgspec.json.encode(short) + b"\n", mode=0o644, durable=False)


def read(path: Path) -> VmState | None:
    """The state that the supervisor wrote last; None if there is no file yet.

    Raises:
        OSError: the file cannot be read.
        msgspec.DecodeError, ValueError: it is not a `VmState`.
    """
    try:
        return msgspec.json.decode(store.read(path, LIMIT), type=VmState)
    except FileNotFoundError:
        return None


def status(state: VmState | None, now: float | None = None) -> VmStatus:
    """The form for `Status`; `now` is in seconds of CLOCK_MONOTONIC, by default the present."""
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
