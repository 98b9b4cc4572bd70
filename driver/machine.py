"""One QEMU machine that boots an image: the hardware of profile ``qemu``, serial ports, QMP.

QEMU comes from the tools tree, and runs confined (`rootfs.base.tools_tree`), for it runs what somebody sent: the disk,
a saved machine and the wire are opened here and handed to it, and it sees one directory, its own, as `_PLACE`.

The machine starts paused, everything is attached, then it runs: no race at boot. KVM is nested (the emulated processor
has SVM), so the appliance runs its VM under real KVM as on hardware.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from rootfs.artifact.imagefile import ImageFile
from rootfs.base.errors import SallyportError
from rootfs.base.scratch import socket_path
from rootfs.base.tools_tree import Confined, Tools, own, take

PORT_MAC = "52:54:00:5a:11:01"
"""Burned-in address of the emulated management port."""


@dataclass(frozen=True)
class Hardware:
    """What QEMU is of one architecture: with nested virtualization, and as plain as can be, for an emulator's sake."""

    program: str
    type: str
    """What ``-M`` takes."""
    cpu: str
    processors: str
    """What ``-smp`` takes."""
    firmware: str
    """UEFI, in QEMU's tree."""
    variables: str
    """Its variables, as they are when it is new."""


HARDWARE = {
    "x86_64": Hardware(
        "qemu-system-x86_64",
        "q35,smm=off",
        "qemu64,+svm,+npt",
        # Two threads a core, as many a box has: the second ones are to stay off.
        "4,sockets=1,cores=2,threads=2",
        "usr/share/OVMF/OVMF_CODE_4M.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    "aarch64": Hardware(
        "qemu-system-aarch64",
        "virt,virtualization=on,gic-version=3",
        "cortex-a72",
        "2",
        "usr/share/AAVMF/AAVMF_CODE.no-secboot.fd",
        "usr/share/AAVMF/AAVMF_VARS.fd",
    ),
}
"""By the architecture of an image's profile."""
_PLACE = "/machine"
"""Where QEMU sees its directory: a path outside may have a comma, which parts options, or be too long for a socket."""
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny"
"""QEMU's own filter of system calls (qemu(1), -sandbox)."""
_SETS = {"disk": 1, "disk to write": 1, "state": 2}
_FIRST_SHOWN = 10
"""Numbers of descriptors' sets (qemu(1), -add-fd)."""
_SAVED = frozenset({"completed", "failed", "cancelled"})
"""Where a migration stays (MigrationStatus, QEMU qapi/migration.json). Before them come ``active`` and ``device``."""
_LOADED = frozenset({"paused"})
"""RunState of a machine that was stopped when it was saved, when ``inmigrate`` is over."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?!=]*[ -/]*[@-~]|[()][A-Z0-9]|[^\[])")


class MachineError(SallyportError):
    """QEMU did not do what it was asked: nothing can be said about the image."""


@dataclass(frozen=True)
class Forward:
    """TCP ports of 127.0.0.1 that lead to the VM; 0 for none."""

    https: int = 0
    ssh: int = 0
    test_shell: int = 0

    def rules(self, address: str) -> str:
        """As QEMU's user network takes them."""
        pairs = [(self.https, 443), (self.ssh, 22), (self.test_shell, 2022)]
        return "".join(f",hostfwd=tcp:127.0.0.1:{here}-{address}:{there}" for here, there in pairs if here)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def check_port(port: int, option: str) -> None:
    """Refuse a port that is taken.

    Raises:
        SallyportError: there is no such port, somebody listens there, or we may not.
    """
    if not 0 < port < 65536:
        raise SallyportError(f"{option}: there is no port {port}", "choose one from 1 to 65535")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise SallyportError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}", f"choose another with {option}"
            ) from error


@dataclass(frozen=True)
class Saved:
    """A whole running machine in files: processors, memory and devices; its disk; its firmware's variables."""

    state: Path
    disk: Path
    variables: Path


def _private(path: str, flags: int) -> int:
    """Open for the owner alone: the console shows the first password."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


class Machine:
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
        self._extra, self._shown = extra, {path: _FIRST_SHOWN + number for number, path in enumerate(shown)}
        self._tools = tools
        self._hardware = HARDWARE[image.profile.arch]
        self._forward, self._wire, self._persist, self._console = forward, wire, persist, console
        self._log, self._saved, self._tap = log, saved, tap
        self._cpu = cpu or self._hardware.cpu
        self._directory = Path(tempfile.mkdtemp(prefix="sallyport-qemu-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._descriptors: dict[str, int] = {}
        self._qmp: QEMUMonitorProtocol | None = None
        self._serial_text = ""
        self._serial_lock = threading.Condition()
        self.on_line: Callable[[str], None] = lambda line: None
        """Called with each line of the serial console, without terminal control sequences."""
        self.powered_on_at = 0.0

    @property
    def shell_socket(self) -> Path:
        """The second serial port: the root shell of a test image."""
        return self._directory / "shell.sock"

    def path_of(self, shown: Path) -> str:
        """Where QEMU sees a file that it was shown."""
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

    def _network(self) -> list[str]:
        interface = self.image.profile.management.interface
        network = interface.network
        gateway = network[-2] if interface.ip != network[-2] else network[-3]
        # The NIC passes every VLAN on: what is dropped is dropped by the appliance, not by the emulation.
        nic = ["-device", f"virtio-net-pci,netdev=port,mac={PORT_MAC},ctrl_vlan=off,romfile="]
        user = f"user,id=%s,restrict=on,net={network},host={gateway}"
        if self._wire is not None:
            stream = f"stream,id=%s,server=off,addr.type=fd,addr.str={self._descriptors['wire']}"
            if self._forward is None:
                return ["-netdev", stream % "port", *nic]
            # A hub joins the port, the wire, the user network and the tap.
            hub = [("port", ""), ("hub-wire", "wire"), ("hub-user", "user")]
            words = ["-netdev", stream % "wire"]
            words += ["-netdev", user % "user" + self._forward.rules(str(interface.ip))]
            if self._tap is not None:
                words += ["-netdev", f"tap,id=tap,fd={self._tap}"]
                hub.append(("hub-tap", "tap"))
            for name, peer in hub:
                words += ["-netdev", f"hubport,id={name},hubid=0" + (f",netdev={peer}" if peer else "")]
            return [*words, *nic]
        rules = self._forward.rules(str(interface.ip)) if self._forward else ""
        return ["-netdev", user % "port" + rules, *nic]

    def _sectors(self) -> str:
        """What the disk's sectors are, if they are not QEMU's own."""
        size = self.image.profile.disk.sector_bytes
        return f",logical_block_size={size},physical_block_size={size}" if size != 512 else ""

    def _command(self) -> list[str]:
        snapshot = "off" if self._persist else "on"
        serial = (
            "stdio,id=serial,signal=off"
            if self._console
            else f"socket,id=serial,path={_PLACE}/serial.sock,server=on,wait=off"
        )
        sets = _SETS | {str(path): number for path, number in self._shown.items()}
        files = [name for name in sets if name in self._descriptors]
        return [
            *(
                self._hardware.program,
                "-name",
                self.image.name,
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-S",
                "-sandbox",
                _SANDBOX,
            ),
            *("-M", self._hardware.type, "-cpu", self._cpu, "-smp", self._hardware.processors, "-m", "1024"),
            *("-accel", "tcg,thread=multi,tb-size=512"),
            *("-drive", f"if=pflash,format=raw,readonly=on,file=/{self._hardware.firmware}"),
            *("-drive", f"if=pflash,format=raw,file={_PLACE}/vars.fd"),
            *(word for name in files for word in ("-add-fd", f"fd={self._descriptors[name]},set={sets[name]}")),
            *("-drive", f"id=disk,if=none,format=raw,file=/dev/fdset/{_SETS['disk']},snapshot={snapshot}"),
            *("-device", f"virtio-blk-pci,drive=disk,bootindex=0{self._sectors()}", "-device", "virtio-rng-pci"),
            *("-chardev", serial, "-serial", "chardev:serial"),
            *(
                "-chardev",
                f"socket,id=shell,path={_PLACE}/{self.shell_socket.name},server=on,wait=off",
                "-serial",
                "chardev:shell",
            ),
            *(
                "-chardev",
                f"socket,id=qmp,path={_PLACE}/qmp.sock,server=on,wait=off",
                "-mon",
                "chardev=qmp,mode=control",
            ),
            *self._network(),
            *(("-incoming", "defer") if self._saved else ()),
            *self._extra,
        ]

    def _open(self) -> dict[str, int]:
        """Descriptors of what QEMU works on and could not open itself."""
        disk = self._saved.disk if self._saved else self._persist or self.image.path
        opened = {"disk": os.open(disk, os.O_RDONLY)}
        if self._persist is not None:  # QEMU takes the one that has the rights it needs at the moment
            opened["disk to write"] = os.open(disk, os.O_RDWR)
        opened |= {str(path): os.open(path, os.O_RDONLY) for path in self._shown}
        if self._saved is not None:
            opened["state"] = os.open(self._saved.state, os.O_RDONLY)
        if self._wire is not None:
            wire = socket.socket(socket.AF_UNIX)
            with socket_path(self._wire) as place:
                wire.connect(place)
            opened["wire"] = wire.detach()
        return opened

    def _start(self) -> None:
        directory = self._directory
        variables = self._saved.variables if self._saved else self._tools.tree / self._hardware.variables
        shutil.copyfile(variables, directory / "vars.fd")
        for path in (directory, directory / "vars.fd"):
            own(path)
        self._errors: IO[bytes] = (directory / "errors").open("w+b")
        self._descriptors = self._open()
        handed = [*self._descriptors.values(), *(() if self._tap is None else (self._tap,))]
        try:
            self._process = self._tools.start(
                ["env", f"TMPDIR={_PLACE}", *self._command()],
                binds=[(directory, Path(_PLACE))],
                cwd=Path(_PLACE),
                confined=Confined(network=self._forward is not None),
                stdin=None if self._console else subprocess.DEVNULL,
                stdout=None if self._console else self._errors,
                stderr=self._errors,
                # With the console on this terminal Ctrl-C belongs to us, not to the appliance.
                start_new_session=not self._console,
                pass_fds=handed,
            )
        finally:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
        self._await_socket("qmp.sock")
        self._qmp = self._connect_qmp()
        if not self._console:
            serial = socket.socket(socket.AF_UNIX)
            with socket_path(directory / "serial.sock") as place:
                serial.connect(place)
            threading.Thread(target=self._read_serial, args=(serial,), name="serial", daemon=True).start()

    def _connect_qmp(self) -> QEMUMonitorProtocol:
        """QMP; a socket's name is there a moment before QEMU listens at it."""
        deadline = time.monotonic() + 30
        while True:
            with socket_path(self._directory / "qmp.sock") as path:
                client = QEMUMonitorProtocol(path)
                try:
                    client.connect()
                    return client
                except (QMPError, OSError) as error:
                    with suppress(Exception):
                        client.close()
                    if time.monotonic() > deadline or not self.alive():
                        what = f"QEMU does not answer: {error}; {self._said()}"
                        raise MachineError(what, "start it again") from error
            time.sleep(0.05)

    def _await_socket(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self._directory / name).exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(
                    f"QEMU did not start: {self._said()}", "see the message; `invoke clean` rebuilds the tools"
                )
            time.sleep(0.02)

    def _said(self) -> str:
        self._errors.seek(0)
        text = self._errors.read(1 << 20).decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"

    def _read_serial(self, serial: socket.socket) -> None:
        pending = ""
        with serial:
            log = open(self._log, "w", opener=_private) if self._log else None  # noqa: SIM115 - closed below
            try:
                while chunk := serial.recv(4096):
                    text = _ESCAPE.sub("", chunk.decode(errors="replace")).replace("\r", "")
                    if log:
                        log.write(text)
                        log.flush()
                    pending += text
                    *lines, pending = pending.split("\n")
                    with self._serial_lock:
                        self._serial_text += text
                        self._serial_lock.notify_all()
                    for line in lines:
                        self.on_line(line)
            except OSError:
                pass
            finally:
                if log:
                    log.close()

    def run(self) -> None:
        """Let the paused machine run: power-on."""
        if self._saved is not None:
            # Or QEMU itself would send frames in the port's name, as after a move to another switch.
            self.qmp("migrate-set-parameters", **{"announce-rounds": 0})
            self.qmp("migrate-incoming", uri=f"file:/dev/fdset/{_SETS['state']}")
            self._await("query-status", _LOADED, "loading the saved machine")
        self.powered_on_at = time.monotonic()
        self.qmp("cont")

    def _await(self, query: str, ends: frozenset[str], what: str, timeout: float = 60.0) -> dict[str, Any]:
        """Ask ``query`` until its status is one of ``ends``, and return that answer; `MachineError` if it never is."""
        deadline = time.monotonic() + timeout
        while (answer := self.qmp(query)).get("status") not in ends:
            if time.monotonic() > deadline:
                raise MachineError(
                    f"QEMU: {what} took more than {timeout:.0f} s; it says {answer}", "is the disk full or slow?"
                )
            time.sleep(0.02)
        return dict(answer)

    def qmp(self, command: str, **arguments: Any) -> Any:
        """One QMP command (QEMU docs/interop/qemu-qmp-ref).

        Raises:
            MachineError: QEMU refused it or is gone.
        """
        if self._qmp is None:
            raise MachineError("the machine is off", "start it first")
        try:
            return self._qmp.cmd(command, **arguments)
        except (QMPError, OSError) as error:
            raise MachineError(f"QEMU: {command}: {error}; {self._said()}", "start the machine again") from error

    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def serial(self) -> str:
        """All that the serial console said."""
        with self._serial_lock:
            return self._serial_text

    def wait_serial(self, pattern: str, timeout: float, *, start: int = 0) -> re.Match[str]:
        """Wait until the serial console says ``pattern`` (searched from character ``start``).

        Raises:
            MachineError: it has not after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._serial_lock:
            while True:
                if match := re.compile(pattern).search(self._serial_text, start):
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or not self.alive():
                    tail = "\n".join(self._serial_text.strip().splitlines()[-8:])
                    raise MachineError(
                        f"the serial console did not say {pattern!r} within {timeout:.0f} s; its last words:\n{tail}",
                        f"the whole log is in {self._log}" if self._log else "boot it with `invoke run --serial`",
                    )
                self._serial_lock.wait(min(left, 1.0))

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
        self._await("query-status", frozenset({"prelaunch"}), "a reset")
        self.qmp("cont")

    def hold_reboot(self) -> None:
        """Let a restart of the appliance's own end with the machine off; it goes on with `without_power`."""
        self.qmp("set-action", reboot="shutdown", shutdown="pause")

    def await_off(self, timeout: float = 60.0) -> None:
        """Wait until the appliance has shut down.

        Raises:
            MachineError: it has not in time.
        """
        self._await("query-status", frozenset({"shutdown"}), "the appliance's restart", timeout)

    def save(self, folder: Path) -> Saved:
        """Keep the whole machine in ``folder`` and leave it paused: whoever wants it makes another one of it.

        No virtual machine may run inside it at this moment: an emulated processor in guest mode cannot be loaded again
        (cpu_post_load in target/i386/machine.c of QEMU). What is inside is therefore stopped first (`rig`).

        Raises:
            MachineError: QEMU cannot.
        """
        if self._persist is None:
            raise MachineError("a machine that discards what it writes cannot be saved", "give it a disk to persist")
        place, saved = self._directory, Saved(folder / "state", self._persist, folder / "vars.fd")
        self.qmp("stop")  # flushes the disk, too
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp("migrate", uri=f"file:{_PLACE}/state")
        answer = self._await("query-migrate", _SAVED, "saving the machine")
        if answer["status"] != "completed":
            raise MachineError(f"QEMU could not save the machine: {answer.get('error-desc', answer)}")
        for path in (saved.state, saved.variables):
            take(place / path.name, path)
        return saved

    def connect(self, netdev: str, *, up: bool) -> None:
        """Plug in or pull out one of the port's peers: ``hub-wire``, ``hub-user`` or ``hub-tap``."""
        self.qmp("set_link", name=netdev, up=up)

    def stop(self) -> None:
        """End QEMU and remove what it needed; never raises."""
        if self._qmp is not None:
            # It may be gone already, and that is what we want.
            with suppress(Exception):
                self._qmp.settimeout(5)
                self._qmp.cmd("quit")
            with suppress(Exception):
                self._qmp.close()
            self._qmp = None
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    self._process.wait(timeout=5)
                    break
                except subprocess.TimeoutExpired:
                    os.kill(self._process.pid, number)
            self._process = None
            self._errors.close()
        shutil.rmtree(self._directory, ignore_errors=True)
