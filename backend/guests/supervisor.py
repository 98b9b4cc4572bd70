"""Supervises the front-end VM: starts QEMU, waits for its heartbeats, restarts it when it exits or they stop.

Runs, like QEMU itself, as a user without privileges, in an empty network namespace. The host end of the access NIC is
the forwarder's vhost-user socket, or a tap that the forwarder hands over as an open file descriptor. The link's tap is
in the host's namespace and belongs to this user; systemd opens a descriptor for it there. Taps stay open in this
process while QEMU is restarted, so a restart changes nothing in the host's network.
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
from backend.common.notify import feed_watchdog, given, notify
from backend.common.vm_state import EVENTS, VmEvent, VmState
from backend.guests import accelerator, machine_type, vm
from backend.guests.accelerator import Accelerator
from backend.guests.console import QEMU, VM_CONSOLE, Console
from backend.protocol.rate_limit import Bucket

RUN = Path("/run/sallyport/vm")
TAPS = Path("/run/sallyport/port/taps.sock")
TAPS_DEADLINE_S = 60.0
log = logging.getLogger("supervisor")


@dataclass(frozen=True)
class HeartbeatTimeouts:
    """Seconds to wait for heartbeats before the VM is restarted."""

    first_kvm: float = 120.0
    first_tcg: float = 900.0
    """From QEMU's start to the first heartbeat. Under TCG long enough for the slowest device: a boot takes half a
    minute on a small processor, and some minutes where that processor is emulated, too."""
    next: float = 20.0
    """From one heartbeat to the next. One comes a second, but a slow instruction may delay it by five, and a flood at
    the port may leave the VM's one processor little time; a restart of the VM would not end the flood."""
    backoff: float = 5.0
    """Longest pause before the restart of a VM that exits soon after every start."""


async def receive_tap() -> int:
    """The access tap from the forwarder; waits up to `TAPS_DEADLINE_S` while that is still starting.

    Returns:
        An open file descriptor.

    Raises:
        OSError: the forwarder does not answer, or sent no descriptor.
    """
    deadline = time.monotonic() + TAPS_DEADLINE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        while True:
            try:
                client.connect(str(TAPS))
                break
            except (FileNotFoundError, ConnectionRefusedError, PermissionError):
                # The socket does not exist, nobody listens yet, or it does not belong to our group yet.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        _, descriptors, _, _ = socket.recv_fds(client, 64, 1)
    if len(descriptors) != 1:
        raise OSError(f"{TAPS}: the forwarder sent {len(descriptors)} file descriptors, expected 1")
    return descriptors[0]


def _exit_text(status: int) -> str:
    """How QEMU ended, as a sentence; ``status`` as `asyncio.subprocess.Process.returncode`."""
    forbidden = ", SIGSYS: it made a system call that its filter forbids" if status == -signal.SIGSYS else ""
    return f"QEMU ended with status {status}{forbidden}"


class HeartbeatSocket:
    """The unix datagram socket on which the backend passes heartbeats on."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        shutil.chown(path, group="sallyport-beat")
        path.chmod(0o660)

    async def beat(self, started_at: float) -> None:
        """Wait for one heartbeat of the VM that was started at `started_at`, in seconds of CLOCK_MONOTONIC.

        Heartbeats of the VM before it may still be queued. They are skipped: the first heartbeat ends the long timeout
        for the boot.
        """
        while True:
            datagram = await asyncio.get_running_loop().sock_recv(self._socket, heartbeat.DATAGRAM_BYTES + 1)
            connected_at = heartbeat.decode(datagram)
            if connected_at is not None and connected_at > started_at:
                return


def _append(events: deque[VmEvent], what: Literal["start", "up", "exit"], detail: str) -> None:
    events.append(VmEvent(events[-1].number + 1 if events else 1, what, detail))


def _earlier_events() -> tuple[str, deque[VmEvent]]:
    """History and events that a previous supervisor left in the state file: the backend may not have read them yet."""
    events: deque[VmEvent] = deque(maxlen=EVENTS)
    with contextlib.suppress(OSError, ValueError, RecursionError, msgspec.DecodeError):
        if (state := vm_state.read(RUN / "state.json")) and state.history:
            # QEMU runs as the same user and may have written the file: numbers that would block later events are
            # refused.
            numbers = [event.number for event in state.events]
            if any(number > vm_state.MAX_NUMBER for number in numbers) or numbers != sorted(set(numbers)):
                raise ValueError(numbers)
            events.extend(state.events)
            if events and events[-1].what != "exit":
                _append(events, "exit", "the supervisor ended unexpectedly, and the VM with it")
            return state.history, events
    return secrets.token_hex(8), events


def _clear() -> None:
    """Remove everything in our directory but the state file: an earlier QEMU process may have put files there."""
    for path in RUN.iterdir():
        if path.name != "state.json" or path.is_symlink() or not path.is_file():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class Supervisor:
    """Keeps one VM alive."""

    def __init__(
        self,
        taps: vm.TapDescriptors,
        chosen: Accelerator,
        heartbeats: HeartbeatSocket,
        timeouts: HeartbeatTimeouts,
        console: Console,
        qemu: Console,
    ) -> None:
        self._taps = taps
        self._console = console
        self._qemu = qemu
        self._accelerator = chosen
        self._heartbeats = heartbeats
        self._timeouts = timeouts
        self._starts = 0
        self._start_id = vm_state.new_start_id()
        self._started_at = time.monotonic()
        self._failed_boots = 0
        self._proven = False
        """Whether a VM has sent its first heartbeat under the present accelerator."""
        self._last_exit = ""
        self._history, self._events = _earlier_events()
        # A VM that exits again and again must not fill the journal; the audit log has every exit.
        self._log_limit = Bucket(1 / 60, 20.0)

    def _add_event(self, what: Literal["start", "up", "exit"], detail: str) -> None:
        _append(self._events, what, detail)

    def _publish_state(self, state: str) -> None:
        vm_state.write(
            RUN / "state.json",
            VmState(
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

    async def run(self) -> None:
        """Run the VM, restarting it whenever it exits or its heartbeats stop, until cancelled."""
        pause = 0.0
        while True:
            # Published before the VM runs, so that sessions of the VM before it have ended by then.
            self._start_id = vm_state.new_start_id()
            self._publish_state("restarting" if self._starts else "starting")
            await asyncio.sleep(pause)
            self._starts += 1
            self._started_at = time.monotonic()
            child = await vm.start(self._accelerator, self._taps, self._console.write_end, self._qemu.write_end)
            self._add_event("start", f"under {self._accelerator.name}")
            self._publish_state("restarting" if self._starts > 1 else "starting")
            try:
                self._last_exit = await self._watch(child)
            except asyncio.CancelledError:
                self._last_exit = "the supervisor was stopped"
                raise
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
                uptime = time.monotonic() - self._started_at
                self._add_event("exit", f"{self._last_exit}, after {uptime:.1f} s")
                self._publish_state("restarting")
                for console in self._console, self._qemu:
                    console.end_line()
                    console.report_dropped()
            pause = 0.0 if uptime > 10 else min(self._timeouts.backoff, max(0.2, pause * 2))
            if self._log_limit.take() == 0.0:
                log.warning("the VM exited after %.1f s; restarting: %s", uptime, self._last_exit)

    async def _watch(self, child: asyncio.subprocess.Process) -> str:
        """Wait until the VM exits or its heartbeats stop; returns which of the two, as a sentence."""
        first = self._timeouts.first_kvm if self._accelerator.name == "kvm" else self._timeouts.first_tcg
        ended = asyncio.create_task(child.wait())
        wait, beats = first, 0
        try:
            while True:
                beat = asyncio.create_task(self._heartbeats.beat(self._started_at))
                done, _ = await asyncio.wait([ended, beat], timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                beat.cancel()
                if ended in done:
                    if beats == 0:
                        self._fall_back_to_tcg()
                    return _exit_text(ended.result())
                if beat not in done:
                    if beats == 0:
                        self._fall_back_to_tcg()
                    return f"no heartbeat for {wait:.0f} s"
                if beats == 0:
                    self._proven = True
                    self._add_event("up", f"first heartbeat after {time.monotonic() - self._started_at:.1f} s")
                    log.info("first heartbeat after %.1f s", time.monotonic() - self._started_at)
                    self._publish_state("running")
                beats += 1
                wait = self._timeouts.next
        finally:
            ended.cancel()

    def _fall_back_to_tcg(self) -> None:
        """Count a boot without a heartbeat; after two in a row under KVM use TCG, whatever the trial guest showed.

        Not if a VM has booted under KVM before: KVM works then, and a flood or another load delays this boot. Under TCG
        it would take even longer.
        """
        self._failed_boots += 1
        if self._accelerator.name == "kvm" and self._failed_boots >= 2 and not self._proven:
            self._accelerator = Accelerator("tcg", "the VM did not boot under KVM twice in a row")


async def main() -> None:
    """Supervise until SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _clear()
    chosen = await accelerator.choose(machine_type.for_this_host(), RUN)
    log.info("%s: %s", chosen.name, chosen.reason)
    access = await receive_tap() if vm.read_resources().access == "tap" else None
    taps = vm.TapDescriptors(access, tap.attach(given("tun"), "link0"))
    heartbeats = HeartbeatSocket(RUN / "heartbeat.sock")
    consoles = Console(VM_CONSOLE), Console(QEMU)
    for console in consoles:
        console.start()
    notify("READY=1")
    watchdog = asyncio.create_task(feed_watchdog())
    try:
        await Supervisor(taps, chosen, heartbeats, HeartbeatTimeouts(), *consoles).run()
    finally:
        watchdog.cancel()
        for console in consoles:
            console.close()
        for descriptor in taps.descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
