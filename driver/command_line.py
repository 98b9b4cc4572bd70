"""QEMU's command line: the hardware of the profiles ``qemu`` and ``qemu-aarch64``, disk, ports, network.

Virtualization is nested (the emulated processor has SVM, or EL2), so the appliance runs its VM under real KVM as on
hardware. QEMU runs confined (`rootfs.base.tools_tree`): it sees one directory, its own, as `PLACE`, and every file
outside of it is opened by the caller and handed over as a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from driver.ports import Forward
from rootfs.artifact.imagefile import ImageFile

PORT_MAC = "52:54:00:5a:11:01"
"""Burned-in address of the emulated management port."""
PLACE = "/machine"
"""Where QEMU sees its directory: a path outside may have a comma, which parts options, or be too long for a socket."""
SHELL_SOCKET = "shell.sock"
"""Name of the second serial port's socket in QEMU's directory: the root shell of a test image."""
SERIAL_SOCKET = "serial.sock"
QMP_SOCKET = "qmp.sock"
FD_SETS = {"disk": 1, "disk to write": 1, "state": 2}
"""Numbers of descriptor sets (qemu(1), -add-fd), by what is in them."""
FIRST_SHOWN = 10
"""Number of the first set that has a file which the caller shows to QEMU."""
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny"
"""QEMU's own filter of system calls (qemu(1), -sandbox)."""


@dataclass(frozen=True)
class Hardware:
    """What QEMU emulates of one architecture, with nested virtualization."""

    program: str
    type: str
    """Argument of ``-M``."""
    cpu: str
    """Argument of ``-cpu``."""
    processors: str
    """Argument of ``-smp``."""
    firmware: str
    """UEFI, path in the tools tree."""
    variables: str
    """Initial UEFI variables, path in the tools tree."""


HARDWARE = {
    "x86_64": Hardware(
        "qemu-system-x86_64",
        "q35,smm=off",
        "qemu64,+svm,+npt",
        # Two threads per core, as many devices have: the host must keep the second ones off.
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


@dataclass(frozen=True)
class CommandLine:
    """Everything that decides QEMU's arguments.

    Args:
        image: what is booted; its profile names the architecture, the port's address and the disk's sectors.
        descriptors: inherited file descriptors: keys of `FD_SETS` and of ``shown``, and ``wire``.
        shown: numbers of the descriptor sets of further files, by their key in ``descriptors``.
        forward: user network with these ports, or None.
        tap: inherited descriptor of a tap that is joined to the port, too; only with a wire and ``forward``.
        persist: whether the disk keeps what is written; else QEMU discards it at its end.
        console: whether the serial console is QEMU's standard input and output instead of a socket.
        incoming: whether QEMU waits for the state of a saved machine.
        cpu: another processor than the architecture's, or empty.
        extra: further arguments.
    """

    image: ImageFile
    descriptors: Mapping[str, int]
    shown: Mapping[str, int] = field(default_factory=dict)
    forward: Forward | None = None
    tap: int | None = None
    persist: bool = False
    console: bool = False
    incoming: bool = False
    cpu: str = ""
    extra: Sequence[str] = ()

    def words(self) -> list[str]:
        """Return program and arguments."""
        hardware = HARDWARE[self.image.profile.arch]
        return [
            *(hardware.program, "-name", self.image.name, "-nodefaults", "-no-user-config", "-display", "none", "-S"),
            *("-sandbox", _SANDBOX),
            *("-M", hardware.type, "-cpu", self.cpu or hardware.cpu, "-smp", hardware.processors, "-m", "1024"),
            *("-accel", "tcg,thread=multi,tb-size=512"),
            *("-drive", f"if=pflash,format=raw,readonly=on,file=/{hardware.firmware}"),
            *("-drive", f"if=pflash,format=raw,file={PLACE}/vars.fd"),
            *self._disk(),
            *("-device", "virtio-rng-pci"),
            *self._sockets(),
            *self._network(),
            *(("-incoming", "defer") if self.incoming else ()),
            *self.extra,
        ]

    def _disk(self) -> list[str]:
        sets = FD_SETS | dict(self.shown)
        snapshot = "off" if self.persist else "on"
        size = self.image.profile.disk.sector_bytes
        sectors = f",logical_block_size={size},physical_block_size={size}" if size != 512 else ""
        return [
            *(
                word
                for name in sets
                if name in self.descriptors
                for word in ("-add-fd", f"fd={self.descriptors[name]},set={sets[name]}")
            ),
            *("-drive", f"id=disk,if=none,format=raw,file=/dev/fdset/{FD_SETS['disk']},snapshot={snapshot}"),
            *("-device", f"virtio-blk-pci,drive=disk,bootindex=0{sectors}"),
        ]

    def _sockets(self) -> list[str]:
        """Both serial ports and QMP."""

        def listening(name: str, socket: str) -> str:
            return f"socket,id={name},path={PLACE}/{socket},server=on,wait=off"

        serial = "stdio,id=serial,signal=off" if self.console else listening("serial", SERIAL_SOCKET)
        return [
            *("-chardev", serial, "-serial", "chardev:serial"),
            *("-chardev", listening("shell", SHELL_SOCKET), "-serial", "chardev:shell"),
            *("-chardev", listening("qmp", QMP_SOCKET), "-mon", "chardev=qmp,mode=control"),
        ]

    def _network(self) -> list[str]:
        interface = self.image.profile.management.interface
        network = interface.network
        gateway = network[-2] if interface.ip != network[-2] else network[-3]
        # The NIC passes every VLAN on: what is dropped is dropped by the appliance, not by the emulation.
        nic = ["-device", f"virtio-net-pci,netdev=port,mac={PORT_MAC},ctrl_vlan=off,romfile="]
        user = f"user,id=%s,restrict=on,net={network},host={gateway}"
        if "wire" in self.descriptors:
            stream = f"stream,id=%s,server=off,addr.type=fd,addr.str={self.descriptors['wire']}"
            if self.forward is None:
                return ["-netdev", stream % "port", *nic]
            # A hub joins the port, the wire, the user network and the tap.
            hub = [("port", ""), ("hub-wire", "wire"), ("hub-user", "user")]
            words = ["-netdev", stream % "wire"]
            words += ["-netdev", user % "user" + self.forward.rules(str(interface.ip))]
            if self.tap is not None:
                words += ["-netdev", f"tap,id=tap,fd={self.tap}"]
                hub.append(("hub-tap", "tap"))
            for name, peer in hub:
                words += ["-netdev", f"hubport,id={name},hubid=0" + (f",netdev={peer}" if peer else "")]
            return [*words, *nic]
        rules = self.forward.rules(str(interface.ip)) if self.forward else ""
        return ["-netdev", user % "port" + rules, *nic]
