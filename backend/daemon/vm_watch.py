"""Copies the VM's events from the supervisor's state file to the audit log.

The supervisor cannot write the audit log. It numbers its events and keeps the newest in its own file, which the backend
reads at its own pace. QEMU runs as the same user as the supervisor, so the file may have been written by a hostile VM:
it is bounded and typed, and its events go to a log without entries about operators.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from backend.common import vm_state
from backend.daemon.audit import SYSTEM, Audit


class VmWatch:
    """Reads the supervisor's state file."""

    def __init__(self, path: Path, audit: Audit) -> None:
        self._path = path
        self._audit = audit
        self._history = ""
        self._number = 0
        self._readable = True

    async def start(self) -> None:
        """Find out which events are in the log already, as the backend may have been restarted under a running VM."""
        for entry in reversed(await self._audit.recent(SYSTEM)):
            history, _, number = entry.vm.partition("/")
            if number.isdecimal():
                self._history, self._number = history, int(number)
                return

    async def poll(self) -> None:
        """Record events that are new; to be called about once a second."""
        try:
            state = vm_state.read(self._path)
        except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
            if self._readable:
                await self._audit.record("vm.state", kind=SYSTEM, outcome="unreadable", detail=type(error).__name__)
            self._readable = False
            return
        self._readable = True
        if state is None:
            return
        if state.history != self._history:
            self._history, self._number = state.history, 0
        for event in state.events:
            if event.number <= self._number:
                continue
            missed = event.number - self._number - 1
            self._number = event.number
            more = f"; {missed} events before this one were not seen" if missed else ""
            vm = f"{self._history}/{event.number}"
            await self._audit.record(f"vm.{event.what}", kind=SYSTEM, outcome="ok", vm=vm, detail=event.detail + more)
