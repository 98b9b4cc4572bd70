"""Datapaths between the port and the VM, behind one small interface."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Protocol

from backend.forwarder import errors
from backend.forwarder.capture import Capture, NoCapture
from backend.forwarder.config import Config
from backend.forwarder.counters import Counts
from backend.protocol.link_plan import LINK_NETWORK

PORT, TAP = "mgmt0", "access0"
FROM_PORT, FROM_VM = 0, 1
BPF_OBJECT = Path(__file__).with_name("kernel.bpf.o")


class Datapath(Capture, Protocol):
    """What moves frames. Opening one needs privileges; nothing after that does."""

    def run(self) -> None:
        """Move frames until `stop`; blocks, without the GIL."""

    def stop(self) -> None:
        """Make `run` return; from any thread."""

    def counters(self) -> Counts:
        """Frames and bytes of every verdict."""

    def beat(self) -> int:
        """A number that grows while the data path is alive."""

    def vm_up(self) -> bool:
        """Whether the VM's end is there."""

    def faults(self) -> dict[str, int]:
        """How often the VM's end was stopped for what it did, by reason."""


class RingDatapath:
    """A packet ring at the port; at the VM another one over its tap, or vhost-user.

    Args:
        config: the settings.
        policy: `policy.pack`.
        vm_mac: the VM's address, which the port shall take frames for.
        listener: the listening unix socket of vhost-user; None: the VM has a tap.
        port: the port's interface.
        tap: the VM's tap.

    Raises:
        ForwarderError: an interface is missing, or the kernel refused.
    """

    def __init__(
        self,
        config: Config,
        policy: bytes,
        vm_mac: bytes,
        listener: socket.socket | None,
        *,
        port: str = PORT,
        tap: str = TAP,
    ) -> None:
        # Here and not above: where the module was not built, only this datapath is missing.
        from backend.forwarder import _core

        subject = port
        try:
            outer = _core.ring(port, vm_mac, FROM_PORT)
            subject = tap if listener is None else "vhost-user"
            if listener is None:
                self._vm = _core.ring(tap, None, FROM_VM)
            else:
                self._vm = _core.vhost_user(listener.fileno(), config.vm_memory_mib << 20, True, FROM_VM)
        except OSError as error:
            raise errors.from_os(error, subject) from error
        self._path = _core.Path(outer, self._vm, policy)
        self._vhost = listener is not None
        self._names = port if self._vhost else f"{port} or {tap}"

    def run(self) -> None:
        """Move frames until `stop`; blocks, without the GIL.

        Raises:
            InterfaceMissingError: an interface vanished and another one has its name: who opens that needs privileges.
        """
        try:
            self._path.run()
        except OSError as error:
            raise errors.from_os(error, self._names) from error

    def stop(self) -> None:
        """See `Datapath`."""
        self._path.stop()

    def counters(self) -> Counts:
        """See `Datapath`."""
        return self._path.counters()

    def beat(self) -> int:
        """See `Datapath`."""
        return sum(self._path.pace().values())

    def vm_up(self) -> bool:
        """See `Datapath`."""
        return self._vm.up()

    def faults(self) -> dict[str, int]:
        """See `Datapath`."""
        if not self._vhost:
            return {}
        from backend.forwarder import _core

        return dict(_core.vhost_user_state(self._vm)["faults"])

    def capture_start(self, file: int, limit: int) -> None:
        """See `Datapath`."""
        self._path.capture_start(file, limit)

    def capture_stop(self) -> bool:
        """See `Datapath`."""
        return self._path.capture_stop()

    def capture_state(self) -> dict[str, int]:
        """See `Datapath`."""
        return self._path.capture_state()


class KernelDatapath(NoCapture):
    """The tc-BPF programs between the port and the VM's tap; they vanish with the process.

    Raises:
        ForwarderError: an interface is missing, or the kernel refused.
    """

    CHECK_S = 0.25

    def __init__(self, policy: bytes, *, port: str = PORT, tap: str = TAP) -> None:
        from backend.forwarder.kernel_programs import KernelPrograms

        super().__init__("kernel")
        self._names = (port, tap)
        self._indexes = self._look_up()
        self._programs = KernelPrograms(*self._indexes, policy, BPF_OBJECT)
        self._stopped = threading.Event()
        self._beats = 0

    def _look_up(self) -> tuple[int, int]:
        try:
            return socket.if_nametoindex(self._names[0]), socket.if_nametoindex(self._names[1])
        except OSError as error:
            raise errors.InterfaceMissingError(
                f"{' or '.join(self._names)}: no such network interface in this network namespace"
            ) from error

    def run(self) -> None:
        """Wait; the kernel moves the frames.

        Raises:
            InterfaceMissingError: an interface vanished, and the program on it.
        """
        while not self._stopped.wait(self.CHECK_S):
            self._beats += 1
            if self._look_up() != self._indexes:
                raise errors.InterfaceMissingError(
                    f"{' or '.join(self._names)} was removed, and another interface has its name"
                )

    def stop(self) -> None:
        """See `Datapath`."""
        self._stopped.set()

    def counters(self) -> Counts:
        """See `Datapath`."""
        return self._programs.counters()

    def beat(self) -> int:
        """See `Datapath`."""
        return self._beats

    def vm_up(self) -> bool:
        """See `Datapath`."""
        return True

    def faults(self) -> dict[str, int]:
        """See `Datapath`."""
        return {}


def open_datapath(config: Config, vm_mac: str, listener: socket.socket | None) -> Datapath:
    """Open the datapath that the configuration names.

    Raises:
        ForwarderError: it cannot be opened here.
    """
    from backend.forwarder import policy

    try:
        mac = policy.parse_mac(vm_mac)
    except ValueError as error:
        raise errors.ConfigError(str(error), "sallyport-network.service writes vm-mac; restart that") from error
    packed = policy.pack(config, mac, LINK_NETWORK)
    if config.port == "kernel":
        return KernelDatapath(packed)
    return RingDatapath(config, packed, mac, listener)
