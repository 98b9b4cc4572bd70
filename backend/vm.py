"""The front-end VM's QEMU: its command line, which is all that the VM has."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from backend.accelerator import Accelerator
from backend.instructions import FRONTEND_MAC

QEMU_KVM = "/usr/bin/qemu-system-x86_64-microvm"
"""Machine type microvm and KVM only: a quarter of the code of the full one."""
QEMU_TCG = "/usr/bin/qemu-system-x86_64"
FILES = Path("/usr/share/sallyport/frontend")
GUEST = Path("/run/sallyport/guest")
"""What the VM is handed at its start, by fw_cfg (QEMU docs/specs/fw_cfg.rst): its keys and settings."""
VM_MAC = Path("/run/sallyport/port/vm-mac")
RESOURCES = Path("/etc/sallyport/vm.json")
_COMMAND_LINE = (
    # A VM that panics ends QEMU at once (with -no-reboot), and the supervisor starts it anew.
    "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t "
    # Only for a quick start: nothing to calibrate, no grace periods to wait for, one serial port.
    "random.trust_cpu=on tsc=reliable no_timer_check rcupdate.rcu_expedited=1 audit=0 8250.nr_uarts=1"
)


@dataclass(frozen=True)
class Taps:
    """Open file descriptors of the VM's two NICs' host ends."""

    access: int
    link: int


def command(
    chosen: Accelerator, taps: Taps, *, memory_mib: int, cpus: int, access_mac: str, handed: list[str]
) -> list[str]:
    """QEMU's command line.

    Args:
        chosen: KVM or TCG.
        taps: the NICs' host ends.
        memory_mib: the VM's memory.
        cpus: its virtual CPUs.
        access_mac: its address on the management port.
        handed: names of the files in `GUEST`.
    """
    kvm = chosen.name == "kvm"
    words = [
        *(QEMU_KVM if kvm else QEMU_TCG, "-name", "frontend", "-nodefaults", "-no-user-config", "-no-reboot"),
        *(
            "-M",
            "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off,pcie=off,mem-merge=off,dump-guest-core=off",
        ),
        *(
            ("-accel", "kvm", "-cpu", "host,svm=off,vmx=off,pmu=off")
            if kvm
            else ("-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max")
        ),
        *("-m", str(memory_mib), "-smp", str(cpus), "-display", "none"),
        *("-kernel", str(FILES / "vmlinuz"), "-initrd", str(FILES / "initrd")),
        *(
            "-append",
            _COMMAND_LINE,
        ),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-drive", f"id=root,if=none,format=raw,readonly=on,file={FILES / 'root.squashfs'}"),
        *("-device", "virtio-blk-device,drive=root"),
        *("-netdev", f"tap,id=access,fd={taps.access}", "-device", f"virtio-net-device,netdev=access,mac={access_mac}"),
        *("-netdev", f"tap,id=link,fd={taps.link}", "-device", f"virtio-net-device,netdev=link,mac={FRONTEND_MAC}"),
        *("-device", "virtio-rng-device"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ]
    for name in handed:
        words += ["-fw_cfg", f"name=opt/sallyport/{name},file={GUEST / name}"]
    return words


def present(chosen: Accelerator, taps: Taps) -> list[str]:
    """`command` with what this host's image and this boot say.

    Raises:
        OSError: a file is missing.
    """
    resources = json.loads(RESOURCES.read_text())
    return command(
        chosen,
        taps,
        memory_mib=resources["memory_mib"],
        cpus=resources["cpus"],
        access_mac=VM_MAC.read_text().strip(),
        handed=sorted(path.name for path in GUEST.iterdir()),
    )


async def start(chosen: Accelerator, taps: Taps) -> asyncio.subprocess.Process:
    """Start the VM. Its serial console goes to our standard error, and so to the journal, which bounds it."""
    words = present(chosen, taps)
    return await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=2, stderr=2, pass_fds=(taps.access, taps.link)
    )
