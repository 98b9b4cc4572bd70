"""One QEMU process that boots an image.

QEMU comes from the tools tree, and runs confined (`rootfs.base.tools_tree`), for it runs what somebody sent: the disk,
a saved machine and the wire are opened here and handed to it, and it sees one directory, its own.

The machine starts paused, everything is attached, then it runs: no race at boot.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from driver import saved as saved_state
from driver.command_line import FIRST_SHOWN, HARDWARE, PLACE, QMP_SOCKET, SERIAL_SOCKET, SHELL_SOCKET, CommandLine
from driver.console import SerialConsole
from driver.errors import MachineError
from driver.monitor import CONNECT_TIMEOUT, Monitor
from driver.ports import Forward
from driver.saved import Saved
from driver.steps import step
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.scratch import socket_path
from rootfs.base.tools_tree import Confined, Tools, own

END_TIMEOUT = 5.0
"""Seconds until QEMU must have ended of itself, then by SIGTERM."""


class QemuMachine:
    """A booted image; a context manager that leaves nothing behind.

    Args:
        tools: has QEMU.
        image: what to boot.
        forward: user network with these ports, or None.
        wire: unix socket that somebody listens at for the management port's frames, or None.
        tap: file descriptor of a tap that is joined to the port, too; only with ``wire`` and ``forward``.
        persist: keep what the appliance writes in this file (a copy of the image); else it is discarded.
        console: serial console on this terminal instead of the log.
        log: the serial console's log.
        saved: what `save` made of another machine of the same image; `run` then goes on from there. Each time in a new
            process: the processor's time stamp counter never goes back within one (system/cpu-timers.c of QEMU), and
            an appliance whose clock jumps ahead by minutes takes everything in it for dead.
        shown: further files that it may read, see `path_of`.
        extra: further options of QEMU.
        cpu: another processor, as ``-cpu`` takes it: one without virtualization, say.
    """

    def __init__(
        self,
        tools: Tools,
        image: ImageFile,
        *,
        forward: Forward | None = None,
        wire: Path | None = None,
        tap: int | None = None,
        persist: Path | None = None,
        console: bool = False,
        log: Path | None = None,
        saved: Saved | None = None,
        shown: Sequence[Path] = (),
        extra: Sequence[str] = (),
        cpu: str = "",
    ) -> None:
        self.image = image
        self._shown = {path: FIRST_SHOWN + number for number, path in enumerate(shown)}
        self._tools, self._extra, self._cpu = tools, extra, cpu
        self._forward, self._wire, self._persist, self._tap = forward, wire, persist, tap
        self._console, self._saved = console, saved
        self._directory = Path(tempfile.mkdtemp(prefix="sallyport-qemu-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._monitor: Monitor | None = None
        self._serial = SerialConsole(log)
        self.powered_on_at = 0.0
        """By `time.monotonic`."""

    @property
    def shell_socket(self) -> Path:
        """The second serial port: the root shell of a test image."""
        return self._directory / SHELL_SOCKET

    def path_of(self, shown: Path) -> str:
        """Return where QEMU sees a file that it was shown."""
        return f"/dev/fdset/{self._shown[shown]}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self) -> dict[str, int]:
        """Open what QEMU works on and could not open itself; returns the descriptors."""
        disk = self._saved.disk if self._saved else self._persist or self.image.path
        opened = {"disk": os.open(disk, os.O_RDONLY)}
        if self._persist is not None:  # QEMU takes the one that has the rights it needs at the moment
            opened["disk to write"] = os.open(disk, os.O_RDWR)
        opened |= {str(path): os.open(path, os.O_RDONLY) for path in self._shown}
        if self._saved is not None:
            opened["state"] = os.open(self._saved.state, os.O_RDONLY)
        if self._wire is not None:
            opened["wire"] = _connected(self._wire).detach()
        return opened

    def _start(self) -> None:
        directory = self._directory
        new = self._tools.tree / HARDWARE[self.image.profile.arch].variables
        shutil.copyfile(self._saved.variables if self._saved else new, directory / "vars.fd")
        for path in (directory, directory / "vars.fd"):
            own(path)
        self._errors = (directory / "errors").open("w+b")
        descriptors = self._open()
        command = CommandLine(
            image=self.image,
            descriptors=descriptors,
            shown={str(path): number for path, number in self._shown.items()},
            forward=self._forward,
            tap=self._tap,
            persist=self._persist is not None,
            console=self._console,
            incoming=self._saved is not None,
            cpu=self._cpu,
            extra=self._extra,
        )
        try:
            self._process = self._tools.start(
                ["env", f"TMPDIR={PLACE}", *command.words()],
                binds=[(directory, Path(PLACE))],
                cwd=Path(PLACE),
                confined=Confined(network=self._forward is not None),
                stdin=None if self._console else subprocess.DEVNULL,
                stdout=None if self._console else self._errors,
                stderr=self._errors,
                # With the console on this terminal Ctrl-C belongs to us, not to the appliance.
                start_new_session=not self._console,
                pass_fds=[*descriptors.values(), *(() if self._tap is None else (self._tap,))],
            )
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        self._await_socket(QMP_SOCKET)
        self._monitor = Monitor(directory / QMP_SOCKET, self.alive, self._said)
        if not self._console:
            self._serial.start(_connected(directory / SERIAL_SOCKET))

    def _await_socket(self, name: str) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while not (self._directory / name).exists():
            if not self.alive() or time.monotonic() > deadline:
                raise MachineError(
                    f"QEMU did not start; its last error line: {self._said()}",
                    "see that line; `invoke clean` rebuilds the tools",
                )
            time.sleep(0.02)

    def _said(self) -> str:
        """Return QEMU's last line of error output."""
        if self._errors is None:
            return "none"
        self._errors.seek(0)
        text = self._errors.read(1 << 20).decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "none"

    def run(self) -> None:
        """Let the paused machine run: power-on, or what comes after the moment at which it was saved."""
        if self._saved is not None:
            saved_state.load(self._monitored())
        self.powered_on_at = time.monotonic()
        self.qmp("cont")

    def _monitored(self) -> Monitor:
        if self._monitor is None:
            raise MachineError("QEMU does not run", "start the machine first")
        return self._monitor

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run one QMP command (QEMU docs/interop/qemu-qmp-ref).

        Raises:
            MachineError: QEMU refused it or is gone.
        """
        return self._monitored().command(command, **arguments)

    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def serial(self) -> str:
        """All that the serial console has printed."""
        return self._serial.text

    @property
    def on_line(self) -> Callable[[str], None]:
        """Called with each line of the serial console, without terminal control sequences."""
        return self._serial.on_line

    @on_line.setter
    def on_line(self, called: Callable[[str], None]) -> None:
        self._serial.on_line = called

    def wait_serial(self, pattern: str, timeout: float, *, start: int = 0) -> re.Match[str]:
        """Wait until the serial console has printed what matches ``pattern`` (searched from character ``start``).

        Raises:
            MachineError: it has not after ``timeout`` seconds, or QEMU ended.
        """
        return self._serial.wait(pattern, timeout, self.alive, start=start)

    def power_cycle(self) -> None:
        """Pull the plug and put it back: no shutdown, what was not on the disk is lost."""
        self.powered_on_at = time.monotonic()
        self.qmp("system_reset")

    @contextmanager
    def without_power(self) -> Iterator[Path]:
        """Pull the plug as `power_cycle` does, but put it back at the end of the context; in it the disk is a file.

        Raises:
            MachineError: the machine discards what it writes.
        """
        if self._persist is None:
            raise MachineError("a machine that discards what it writes has no disk", "give it a disk to persist")
        self.qmp("stop")
        yield self._persist
        self.qmp("set-action", reboot="reset", shutdown="poweroff")
        self.power_cycle()
        self._monitored().wait_status("query-status", {"prelaunch"}, "a reset")
        self.qmp("cont")

    def hold_reboot(self) -> None:
        """Let a restart of the appliance's own end with the machine off; it goes on with `without_power`."""
        self.qmp("set-action", reboot="shutdown", shutdown="pause")

    def await_off(self, timeout: float = 60.0) -> None:
        """Wait until the appliance has shut down.

        Raises:
            MachineError: it has not in time.
        """
        self._monitored().wait_status("query-status", {"shutdown"}, "the appliance's restart", timeout)

    def save(self, folder: Path) -> Saved:
        """Save the whole machine in ``folder`` and leave it paused (`driver.saved.save`).

        Raises:
            MachineError: QEMU cannot, or the machine has no disk of its own.
        """
        if self._persist is None:
            raise MachineError("a machine that discards what it writes cannot be saved", "give it a disk to persist")
        with step("save", self.image.name):
            return saved_state.save(self._monitored(), self._directory, self._persist, folder)

    def connect(self, netdev: str, *, up: bool) -> None:
        """Plug in or pull out one of the port's peers: ``hub-wire``, ``hub-user`` or ``hub-tap``."""
        self.qmp("set_link", name=netdev, up=up)

    def stop(self) -> None:
        """End QEMU and remove what it needed; never raises."""
        if self._monitor is not None:
            self._monitor.quit()
            self._monitor = None
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    self._process.wait(timeout=END_TIMEOUT)
                    break
                except subprocess.TimeoutExpired:
                    os.kill(self._process.pid, number)
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        shutil.rmtree(self._directory, ignore_errors=True)


def _connected(path: Path) -> socket.socket:
    """Return a socket that is connected to a unix socket, whatever the length of its path."""
    made = socket.socket(socket.AF_UNIX)
    with socket_path(path) as short:
        made.connect(short)
    return made
