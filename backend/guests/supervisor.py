"""Supervises the front-end VM: starts QEMU, listens for its heartbeat, starts it anew when it ends or falls silent.

Runs, like QEMU itself, as a user without privileges, in a network namespace that has nothing in it. The access NIC's
end is the forwarder's vhost-user socket or a tap that comes from the forwarder as an open file descriptor; the link's
tap is the host's, belongs to this user, and is reached by a descriptor that systemd opens there. Taps stay open here
while QEMU comes and goes, so the host's side of the network never changes under a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from backend.common import heartbeat, tap, vm_state
from backend.common.limits import Bucket
from backend.common.notify import given, notify, watchdog_interval
from backend.common.vm_state import EVENTS, MachineState, VmEvent
from backend.guests import accelerator, machine_type, vm
from backend.guests.accelerator import Accelerator
from backend.guests.console import QEMU, VM_CONSOLE, Console

RUN = Path("/run/sallyport/vm")
TAPS = Path("/run/sallyport/port/taps.sock")
TAPS_DEADLINE_S = 60.0
log = logging.getLogger("supervisor")


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for signs of life."""

    first_kvm: float = 120.0
    first_tcg: float = 900.0
    """From QEMU's start to the first heartbeat. An emulated VM that is on its way is not to be killed, however slow the
    device: half a minute on a small box's processor, some minutes where that one is emulated, too."""
    next: float = 20.0
    """From one heartbeat to the next: one comes a second, but a slow instruction may hold it up for five, and a flood
    at the port may leave the VM's one processor little time for it; starting the VM anew would end no flood."""
    backoff: float = 5.0
    """Longest pause before a VM that keeps dying at once is started again."""


async def receive_tap() -> int:
    """The access tap from the forwarder, which may be starting just now.

    Raises:
        OSError: the process does not answer, or sent no descriptor.
    """
    deadline = time.monotonic() + TAPS_DEADLINE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        while True:
            try:
                client.connect(str(TAPS))
                break
            except (FileNotFoundError, ConnectionRefusedError, PermissionError):
                # Not there, not listening yet, or not yet given to our group.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        _, descriptors, _, _ = socket.recv_fds(client, 64, 1)
    if len(descriptors) != 1:
        raise OSError(f"{TAPS}: no file descriptor came")
    return descriptors[0]


def _end(status: int) -> str:
    """How QEMU ended, as a sentence; ``status`` as `asyncio.subprocess.Process.returncode`."""
    forbidden = ", SIGSYS: it wanted a system call that its filter forbids" if status == -signal.SIGSYS else ""
    return f"QEMU ended with status {status}{forbidden}"


class Heart:
    """The socket that heartbeats arrive at."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        shutil.chown(path, group="sallyport-beat")
        path.chmod(0o660)

    async def beat(self, started_at: float) -> None:
        """Wait for one heartbeat of the VM that was started then, in seconds of CLOCK_MONOTONIC.

        Beats of the VM before it may still be on their way. Taken for its own, they would leave it no time to boot.
        """
        while True:
            datagram = await asyncio.get_running_loop().sock_recv(self._socket, heartbeat.DATAGRAM_BYTES + 1)
            connected_at = heartbeat.decode(datagram)
            if connected_at is not None and connected_at > started_at:
                return


def _append(events: deque[VmEvent], what: Literal["start", "up", "exit"], detail: str) -> None:
    events.append(VmEvent(events[-1].number + 1 if events else 1, what, detail))


def _earlier_events() -> tuple[str, deque[VmEvent]]:
    """The events of the supervisor before this one, if there was one: the backend may not have read them yet."""
    events: deque[VmEvent] = deque(maxlen=EVENTS)
    with contextlib.suppress(OSError, ValueError, RecursionError, msgspec.DecodeError):
        if (state := vm_state.read(RUN / "state.json")) and state.history:
            # QEMU has the same user: what it may have written there must not stop what comes after it.
            numbers = [event.number for event in state.events]
            if any(number > vm_state.MAX_NUMBER for number in numbers) or numbers != sorted(set(numbers)):
                raise ValueError(numbers)
            events.extend(state.events)
            if events and events[-1].what != "exit":
                _append(events, "exit", "the supervisor ended without a word, and the VM with it")
            return state.history, events
    return secrets.token_hex(8), events


def _clear() -> None:
    """Remove whatever a VM's process of before may have put in the place of our files."""
    for path in RUN.iterdir():
        if path.name != "state.json" or path.is_symlink() or not path.is_file():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class Supervisor:
    """Keeps one VM alive."""

    def __init__(
        self, ends: vm.Ends, chosen: Accelerator, heart: Heart, patience: Patience, console: Console, qemu: Console
    ) -> None:
        self._ends = ends
        self._console = console
        self._qemu = qemu
        self._accelerator = chosen
        self._heart = heart
        self._patience = patience
        self._starts = 0
        self._start_id = vm_state.new_start_id()
        self._started_at = time.monotonic()
        self._failed_boots = 0
        self._proven = False
        """Whether the accelerator has carried a VM to its first heartbeat."""
        self._last_exit = ""
        self._history, self._events = _earlier_events()
        # A VM that dies as often as it can must not fill the journal; the audit log counts them all.
        self._mentions = Bucket(1 / 60, 20.0)

    def _note(self, what: Literal["start", "up", "exit"], detail: str) -> None:
        _append(self._events, what, detail)

    def _tell(self, state: str) -> None:
        vm_state.write(
            RUN / "state.json",
            MachineState(
                state=state,  # type: ignore[arg-type]
                accelerator=self._accelerator.name,
                accelerator_reason=self._accelerator.reason,
                starts=self._starts,
                start_id=self._start_id,
                started_at=self._started_at,
                last_exit=self._last_exit,
                history=self._history,
                events=tuple(self._events),
            ),
        )

    async def keep(self) -> None:
        """Run VMs, one after the other, for ever."""
        pause = 0.0
        while True:
            # Told before the VM lives, so that it finds no session of the one before it.
            self._start_id = vm_state.new_start_id()
            self._tell("restarting" if self._starts else "starting")
            await asyncio.sleep(pause)
            self._starts += 1
            self._started_at = time.monotonic()
            child = await vm.start(self._accelerator, self._ends, self._console.write_end, self._qemu.write_end)
            self._note("start", f"under {self._accelerator.name}")
            self._tell("restarting" if self._starts > 1 else "starting")
            try:
                self._last_exit = await self._watch(child)
            except asyncio.CancelledError:
                self._last_exit = "the supervisor was stopped"
                raise
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
                lived = time.monotonic() - self._started_at
                self._note("exit", f"{self._last_exit}, after {lived:.1f} s")
                self._tell("restarting")
                for console in self._console, self._qemu:
                    console.end_line()
                    console.tell_dropped()
            pause = 0.0 if lived > 10 else min(self._patience.backoff, max(0.2, pause * 2))
            if self._mentions.take() == 0.0:
                log.warning("the VM is started again after %.1f s: %s", lived, self._last_exit)

    async def _watch(self, child: asyncio.subprocess.Process) -> str:
        """Wait until the VM has ended or is silent; says which."""
        first = self._patience.first_kvm if self._accelerator.name == "kvm" else self._patience.first_tcg
        ended = asyncio.create_task(child.wait())
        wait, beats = first, 0
        try:
            while True:
                beat = asyncio.create_task(self._heart.beat(self._started_at))
                done, _ = await asyncio.wait([ended, beat], timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                beat.cancel()
                if ended in done:
                    if beats == 0:
                        self._doubt()
                    return _end(ended.result())
                if beat not in done:
                    if beats == 0:
                        self._doubt()
                    return f"no heartbeat for {wait:.0f} s"
                if beats == 0:
                    self._proven = True
                    self._note("up", f"first heartbeat after {time.monotonic() - self._started_at:.1f} s")
                    log.info("first heartbeat after %.1f s", time.monotonic() - self._started_at)
                    self._tell("running")
                beats += 1
                wait = self._patience.next
        finally:
            ended.cancel()

    def _doubt(self) -> None:
        """Give up KVM when no VM ever came up under it, twice in a row, whatever the trial said.

        Where one did, KVM works: what keeps the next one from coming up is a flood, or another load, and a VM that is
        emulated would come up under it even less.
        """
        self._failed_boots += 1
        if self._accelerator.name == "kvm" and self._failed_boots >= 2 and not self._proven:
            self._accelerator = Accelerator("tcg", "the VM did not come up under KVM twice in a row")


async def _watchdog() -> None:
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


async def main() -> None:
    """Supervise until SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _clear()
    chosen = await accelerator.choose(machine_type.own(), RUN)
    log.info("%s: %s", chosen.name, chosen.reason)
    access = await receive_tap() if vm.read_resources().access == "tap" else None
    ends = vm.Ends(access, tap.attach(given("tun"), "link0"))
    heart = Heart(RUN / "heartbeat.sock")
    consoles = Console(VM_CONSOLE), Console(QEMU)
    for console in consoles:
        console.start()
    notify("READY=1")
    watchdog = asyncio.create_task(_watchdog())
    try:
        await Supervisor(ends, chosen, heart, Patience(), *consoles).keep()
    finally:
        watchdog.cancel()
        for console in consoles:
            console.close()
        for descriptor in ends.descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
