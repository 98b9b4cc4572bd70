"""The front-end VM's QEMU: its command line, which is all that the VM has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from backend.guests import machine_type, tsc
from backend.guests.accelerator import Accelerator
from backend.guests.machine_type import Machine
from backend.protocol.link_plan import FRONTEND_MAC

FILES = Path("/usr/share/sallyport/frontend")
GUEST = Path("/run/sallyport/guest")
"""What the VM is handed at its start, by fw_cfg (QEMU docs/specs/fw_cfg.rst): its keys and settings."""
VM_MAC = Path("/run/sallyport/port/vm-mac")
RESOURCES = Path("/etc/sallyport/vm.json")
VHOST_USER = Path("/run/sallyport/port/vhost-user.sock")
"""Where the forwarder listens for QEMU."""


@dataclass(frozen=True)
class Ends:
    """Host ends of the VM's two NICs: open descriptors of taps; without ``access`` it is the forwarder's vhost-user."""

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
    """What the device profile says of the VM.

    Raises:
        OSError: the file is missing.
        msgspec.DecodeError: it is not what it should be.
    """
    return msgspec.json.decode(RESOURCES.read_bytes(), type=Resources)


def _access(ends: Ends, memory_mib: int) -> list[str]:
    """The access NIC's host end. For vhost-user the forwarder maps the VM's memory, which must not shrink under it."""
    if ends.access is not None:
        return ["-netdev", f"tap,id=access,fd={ends.access}"]
    return [
        *("-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on,seal=on"),
        # Whichever of the two ends first, the other waits for it.
        *("-chardev", f"socket,id=forwarder,path={VHOST_USER},reconnect-ms=100"),
        *("-netdev", "vhost-user,id=access,chardev=forwarder"),
    ]


def command(
    kind: Machine,
    chosen: Accelerator,
    ends: Ends,
    *,
    memory_mib: int,
    cpus: int,
    access_mac: str,
    handed: list[str],
    tsc_khz: int = 0,
) -> list[str]:
    """QEMU's command line.

    Args:
        kind: what machine it is.
        chosen: KVM or TCG.
        ends: the NICs' host ends.
        memory_mib: the VM's memory.
        cpus: its virtual CPUs.
        access_mac: its address on the management port.
        handed: names of the files in `GUEST`.
        tsc_khz: frequency of the time stamp counter, for a guest that cannot find it out; 0 for one that can.
    """
    way, accelerator = (kind.kvm, "kvm") if chosen.name == "kvm" else (kind.tcg, "tcg,thread=multi,tb-size=64")
    words = [
        *(way.qemu, "-name", "frontend", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-M", way.options + (",memory-backend=memory" if ends.access is None else "")),
        # Virtio 1: the forwarder takes nothing older.
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-accel", accelerator, "-cpu", way.cpu),
        *("-m", str(memory_mib), "-smp", str(cpus), "-display", "none"),
        *("-kernel", str(FILES / "vmlinuz"), "-initrd", str(FILES / "initrd")),
        *("-append", kind.command_line + (f" tsc_early_khz={tsc_khz}" if tsc_khz else "")),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-drive", f"id=root,if=none,format=raw,readonly=on,file={FILES / 'root.squashfs'}"),
        *("-device", "virtio-blk-device,drive=root"),
        *_access(ends, memory_mib),
        # Which tags pass is the forwarder's to say; QEMU would drop VLAN 0, which the VM's kernel does not ask for.
        *("-device", f"virtio-net-device,netdev=access,mac={access_mac},ctrl_vlan=off"),
        *("-netdev", f"tap,id=link,fd={ends.link}", "-device", f"virtio-net-device,netdev=link,mac={FRONTEND_MAC}"),
        *("-device", "virtio-rng-device"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ]
    for name in handed:
        words += ["-fw_cfg", f"name=opt/sallyport/{name},file={GUEST / name}"]
    return words


def present(chosen: Accelerator, ends: Ends) -> list[str]:
    """`command` with what this host's image, its processor and this boot say.

    Raises:
        OSError: a file is missing, or the processor's counter cannot be measured.
        msgspec.DecodeError: the resources are not what they should be.
    """
    resources = read_resources()
    kind = machine_type.own()
    return command(
        kind,
        chosen,
        ends,
        memory_mib=resources.memory_mib,
        cpus=resources.cpus,
        access_mac=VM_MAC.read_text().strip(),
        handed=sorted(path.name for path in GUEST.iterdir() if not path.name.startswith(".")),
        tsc_khz=tsc.measure() if kind.hands_tsc_through and chosen.name == "tcg" else 0,
    )


async def start(chosen: Accelerator, ends: Ends, console: int, messages: int) -> asyncio.subprocess.Process:
    """Start the VM. Its serial console and QEMU's own messages go to two descriptors, neither of which is our log."""
    words = present(chosen, ends)
    return await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=console, stderr=messages, pass_fds=ends.descriptors
    )
