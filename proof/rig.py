"""A test image under attack: booted once, then taken back to the same moment before each group of probes.

Its port is a hub of two: the probes' wire, and a user network that carries the root shell in the VM. `Rig.alone` pulls
the latter out for as long as frames at the port are evidence. What is saved (`QemuMachine.save`) is the whole appliance
with the VM inside it, so that going back takes a second or two where a boot takes most of a minute.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.ports import Forward, free_port
from driver.saved import Saved
from driver.shell import HostShell, vm_shell, wait_host_shell
from driver.steps import step
from proof.outside.early import probing_from_power_on
from proof.outside.passive import passive
from proof.result import Result, Verdict
from proof.scan.controls import port_controls, run_controls, wait_until_up
from proof.wire.frame_log import FrameLog
from proof.wire.judge import PortJudge
from proof.wire.neighbour import answering
from proof.wire.target import Target
from proof.wire.wire import StreamWire
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.tools_tree import Tools

UP_TIMEOUT = 240.0
RESTORE_TIMEOUT = 60.0
_QEMU = "$(pidof qemu-system-x86_64-microvm qemu-system-x86_64 qemu-system-aarch64)"
_HALT = (
    f"pid={_QEMU} && kill -STOP $pid && "
    "while grep -h State: /proc/$pid/task/*/status | grep -qv '(stopped)'; do :; done"
)
_GO_ON = f"kill -CONT {_QEMU}"
"""The VM inside while the machine is saved; see `driver.saved.save`. Its processors are out of guest mode when each
thread has stopped, which is some time after the signal."""
Say = Callable[[str], None]


class Rig:
    """The booted test image with its wire and its two root shells; a context manager.

    Args:
        tools: has QEMU.
        image: with test access.
        target: what it promises.
        folder: for captures and logs.
        say: told what is done.
        tap: file descriptor of a tap that is joined to the port, too.
        early_seed: of the probes at the port from power-on until the VM answers; None: there are none. What came of
            them, and of every frame until then, is ``early``.
    """

    def __init__(
        self,
        tools: Tools,
        image: ImageFile,
        target: Target,
        folder: Path,
        *,
        say: Say,
        tap: int | None = None,
        early_seed: int | None = None,
    ) -> None:
        self.image, self.target, self.folder = image, target, folder
        self.seconds = 0.0
        """From power-on to both root shells."""
        self.tools, self._say, self._tap = tools, say, tap
        self._early_seed = early_seed
        self.early: list[Result] = []
        self._port = free_port()
        self._kept, self._running = ExitStack(), ExitStack()
        self._vm: paramiko.SSHClient | None = None
        self.machine: QemuMachine
        self.wire: StreamWire
        self.host: HostShell

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Beside the image, as the state is some hundred megabytes and /tmp may be memory.
            kept = tempfile.TemporaryDirectory(prefix="sallyport-saved-", dir=self.image.path.parent)
            self._saved = self._boot(Path(self._kept.enter_context(kept)))
            self.restore()
        except BaseException:
            self._running.close()
            self._kept.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()
        self._kept.close()

    def _boot(self, folder: Path) -> Saved:
        self._say(f"booting {self.image.name}")
        try:
            shutil.copyfile(self.image.path, folder / "disk.img")
            (folder / "disk.img").chmod(0o600)
            with step("boot", self.image.name):
                self._start("inside-boot", disk=folder / "disk.img")
                self._power_on()
                self._enter_host()
                self._await_services()
                self.vm()
            self.seconds = time.monotonic() - self.machine.powered_on_at
            self._drop_vm()
            self.host.check(_HALT)
            return self.machine.save(folder)
        finally:
            self._running.close()

    def _power_on(self) -> None:
        """Let the machine run, and wait until the VM answers at the port; with probes from power-on, if wanted."""
        if self._early_seed is None:
            self.machine.run()
            wait_until_up(self.wire, self.target, UP_TIMEOUT)
            return
        with self.alone():
            self.wire.mark_power_on()
            with probing_from_power_on(self.wire, self.target, random.Random(self._early_seed)) as early:
                self.machine.run()
                wait_until_up(self.wire, self.target, UP_TIMEOUT, seed=self._early_seed)
            self.early = [early.result(), passive(self.wire, self.target)]

    def _await_services(self) -> None:
        """Wait until every port that must be open is: what is saved is an appliance that has settled."""
        probes = port_controls(self.target, random.Random(0))
        with answering(self.wire, self.target):
            results = run_controls(self.wire, probes, timeout=UP_TIMEOUT)
        if closed := [result.name for result in results if result.verdict is not Verdict.CONTROL]:
            raise MachineError(f"no answer at the port within {UP_TIMEOUT:.0f} s: {', '.join(closed)}")

    def _start(self, name: str, *, saved: Saved | None = None, disk: Path | None = None) -> None:
        """Start a paused machine and what leads to it; ``name`` is that of its capture and its log."""
        self._running = stack = ExitStack()
        self.wire, path = stack.enter_context(listening(self.folder / f"{name}.pcapng", None))
        forward, log = Forward(test_shell=self._port), self.folder / f"{name}.serial.log"
        machine = QemuMachine(
            self.tools,
            self.image,
            wire=path,
            forward=forward,
            tap=self._tap,
            log=log,
            saved=saved,
            persist=disk,
        )
        self.machine = stack.enter_context(machine)
        self.wire.wait_connected(10)
        stack.callback(self._drop_vm)

    def _enter_host(self) -> None:
        self.host = wait_host_shell(self.machine.shell_socket)
        self._running.callback(self.host.close)

    def vm(self) -> paramiko.SSHClient:
        """The root shell in the VM; its connection lasts until the next `restore`.

        Raises:
            MachineError: the VM lets nobody in.
        """
        if self._vm is None:
            self._vm = vm_shell(self._port, UP_TIMEOUT)
        return self._vm

    def _drop_vm(self) -> None:
        if self._vm is not None:
            self._vm.close()
            self._vm = None

    def renew_vm(self) -> paramiko.SSHClient:
        """Connect to the VM's root shell anew: a server may end a connection whose channel was cut in mid-sentence."""
        self._drop_vm()
        return self.vm()

    def run_host(self, command: str, timeout: float = 60.0) -> tuple[int, str]:
        """Run a command line as root on the host; returns exit code and output."""
        return self.host.run(command, timeout)

    def run_vm(self, command: str, timeout: float = 60.0) -> tuple[int, str]:
        """Run a command line as root in the VM; returns exit code and output.

        Raises:
            MachineError: no answer within ``timeout`` seconds, or the connection broke.
        """
        try:
            channel = self._channel(timeout)
            channel.settimeout(timeout)
            channel.set_combine_stderr(True)
            channel.exec_command(command)
            said = channel.makefile("rb").read().decode(errors="replace")
            return channel.recv_exit_status(), said
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._drop_vm()
            raise MachineError(f"in the VM: {command[:80]!r}: {type(error).__name__} {error}") from error

    def _channel(self, timeout: float) -> paramiko.Channel:
        """A channel to the VM's root shell; a connection that floods have broken is made anew once."""
        for client in (self.vm, self.renew_vm):
            try:
                transport = client().get_transport()
                if transport is not None:
                    return transport.open_session(timeout=timeout)
            except (paramiko.SSHException, OSError, EOFError) as error:
                last = error
        raise MachineError(f"no shell in the VM: {type(last).__name__} {last}") from last

    def restore(self, name: str = "inside") -> float:
        """Take the machine back to the moment after its boot and wait until the VM answers; returns seconds.

        Args:
            name: of the capture and the log of what follows.

        Raises:
            MachineError, WireError: it does not come back.
        """
        began = time.monotonic()
        self._running.close()
        with step("resume", self.image.name):
            self._start(name, saved=self._saved)
            self.machine.run()
            self._enter_host()
            self.host.check(_GO_ON)
            with self.alone():
                wait_until_up(self.wire, self.target, RESTORE_TIMEOUT)
        return time.monotonic() - began

    @contextmanager
    def twin(self, name: str) -> Iterator[Rig]:
        """Another machine that goes on from the same saved moment as this one, beside it.

        What was done to this one since then was not done to the other.

        Args:
            name: of its capture and its log.

        Raises:
            MachineError, WireError: it does not come back.
        """
        other = Rig(self.tools, self.image, self.target, self.folder, say=self._say)
        other._saved = self._saved
        try:
            other.restore(name)
            yield other
        finally:
            other._running.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody but the probes and the appliance on the port, and a frame log that begins now."""
        self.machine.connect("hub-user", up=False)
        self.wire.frame_log = FrameLog(PortJudge(self.target))
        try:
            yield
        finally:
            self.wire.frame_log = None
            self.machine.connect("hub-user", up=True)


@contextmanager
def listening(pcap: Path, frame_log: FrameLog | None) -> Iterator[tuple[StreamWire, Path]]:
    """A listening wire in a directory of its own, which QEMU may see."""
    with tempfile.TemporaryDirectory(prefix="sallyport-wire-") as directory:
        path = Path(directory) / "port.sock"
        with StreamWire.listen(path, frame_log=frame_log, pcap=pcap) as wire:
            yield wire, path
