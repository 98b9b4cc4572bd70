"""The front-end VM's QEMU: the command line gives it all its devices and files; there is no configuration file."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from backend.guests import machine_type, tsc
from backend.guests.accelerator import Accelerator
from backend.guests.machine_type import MachineType
from backend.protocol.link_plan import FRONTEND_MAC

FILES = Path("/usr/share/sallyport/frontend")
GUEST = Path("/run/sallyport/guest")
"""What the VM is handed at its start, by fw_cfg (QEMU docs/specs/fw_cfg.rst): its keys and settings."""
VM_MAC = Path("/run/sallyport/port/vm-mac")
RESOURCES = Path("/etc/sallyport/vm.json")
VHOST_USER = Path("/run/sallyport/port/vhost-user.sock")
"""Where the forwarder listens for QEMU."""


@dataclass(frozen=True)
class TapDescriptors:
    """Open descriptors of the taps behind the VM's two NICs; ``access`` is None if that NIC is vhost-user."""

    access: int | None
    link: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that QEMU inherits."""
        return (self.link,) if self.access is None else (self.access, self.link)


class Resources(Struct, frozen=True, forbid_unknown_fields=True):
    """``/etc/sallyport/vm.json``, rendered from the device profile."""

    memory_mib: int
    cpus: int
    access: Literal["vhost-user", "tap"]


def read_resources() -> Resources:
    """The VM's share of the device, from the device profile.

    Raises:
        OSError: the file is missing.
        msgspec.DecodeError: it does not match `Resources`.
    """
    return msgspec.json.decode(RESOURCES.read_bytes(), type=Resources)


def _access(taps: TapDescriptors, memory_mib: int) -> list[str]:
    """QEMU's options for the access NIC's back end. With vhost-user the forwarder maps the VM's memory: it is
    sealed."""
    if taps.access is not None:
        return ["-netdev", f"tap,id=access,fd={taps.access}"]
    return [
        *("-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on,seal=on"),
        # Forwarder and QEMU may be restarted in any order: QEMU connects again.
        *("-chardev", f"socket,id=forwarder,path={VHOST_USER},reconnect-ms=100"),
        *("-netdev", "vhost-user,id=access,chardev=forwarder"),
    ]


def command(
    machine: MachineType,
    chosen: Accelerator,
    taps: TapDescriptors,
    *,
    memory_mib: int,
    cpus: int,
    access_mac: str,
    handed: list[str],
    tsc_khz: int = 0,
) -> list[str]:
    """QEMU's command line.

    Args:
        machine: QEMU's machine type.
        chosen: KVM or TCG.
        taps: descriptors behind the NICs.
        memory_mib: the VM's memory.
        cpus: its virtual CPUs.
        access_mac: its address on the management port.
        handed: names of the files in `GUEST` that the VM gets.
        tsc_khz: frequency of the time stamp counter, for a guest that cannot measure it; 0 for one that can.
    """
    qemu, accelerator = (machine.kvm, "kvm") if chosen.name == "kvm" else (machine.tcg, "tcg,thread=multi,tb-size=64")
    words = [
        *(qemu.program, "-name", "frontend", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-M", qemu.options + (",memory-backend=memory" if taps.access is None else "")),
        # Virtio 1: the forwarder accepts no older version.
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-accel", accelerator, "-cpu", qemu.cpu),
        *("-m", str(memory_mib), "-smp", str(cpus), "-display", "none"),
        *("-kernel", str(FILES / "vmlinuz"), "-initrd", str(FILES / "initrd")),
        *("-append", machine.command_line + (f" tsc_early_khz={tsc_khz}" if tsc_khz else "")),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-drive", f"id=root,if=none,format=raw,readonly=on,file={FILES / 'root.squashfs'}"),
        *("-device", "virtio-blk-device,drive=root"),
        *_access(taps, memory_mib),
        # VLAN tags are filtered by the forwarder; QEMU's filter would drop VLAN 0, which the VM's kernel does not
        # enable.
        *("-device", f"virtio-net-device,netdev=access,mac={access_mac},ctrl_vlan=off"),
        *("-netdev", f"tap,id=link,fd={taps.link}", "-device", f"virtio-net-device,netdev=link,mac={FRONTEND_MAC}"),
        *("-device", "virtio-rng-device"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ]
    for name in handed:
        words += ["-fw_cfg", f"name=opt/sallyport/{name},file={GUEST / name}"]
    return words


def command_for_this_host(chosen: Accelerator, taps: TapDescriptors) -> list[str]:
    """`command` with the values of this host: its image, its processor and this boot.

    Raises:
        OSError: a file is missing, or the processor's counter cannot be measured.
        msgspec.DecodeError: ``vm.json`` does not match `Resources`.
    """
    resources = read_resources()
    machine = machine_type.for_this_host()
    return command(
        machine,
        chosen,
        taps,
        memory_mib=resources.memory_mib,
        cpus=resources.cpus,
        access_mac=VM_MAC.read_text().strip(),
        handed=sorted(path.name for path in GUEST.iterdir() if not path.name.startswith(".")),
        tsc_khz=tsc.measure() if machine.hands_tsc_through and chosen.name == "tcg" else 0,
    )


async def start(chosen: Accelerator, taps: TapDescriptors, console: int, messages: int) -> asyncio.subprocess.Process:
    """Start the VM. Its serial console and QEMU's own messages go to these two descriptors, not to our log."""
    words = command_for_this_host(chosen, taps)
    return await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=console, stderr=messages, pass_fds=taps.descriptors
    )
