"""QEMU's machine type for the front-end VM: the smallest for the host's architecture, with a trial guest for it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, replace
from pathlib import Path

_KVM = Path("/dev/kvm")
_CHECK_EXTENSION, _ARM_PMU_V3 = 0xAE03, 126
"""KVM_CHECK_EXTENSION and KVM_CAP_ARM_PMU_V3 (linux/kvm.h)."""
_SIZE = 0x10000
_PLAIN = "usb=off,mem-merge=off,dump-guest-core=off"


@dataclass(frozen=True)
class QemuInvocation:
    """How QEMU is started for one accelerator."""

    program: str
    """Path of the QEMU binary."""
    options: str
    """Value of ``-M``."""
    cpu: str
    """Value of ``-cpu``."""


@dataclass(frozen=True)
class MachineType:
    """A machine type of QEMU."""

    kvm: QemuInvocation
    tcg: QemuInvocation
    command_line: str
    """The guest kernel's command line: its console, and what makes it boot quickly."""
    hands_tsc_through: bool
    """Under TCG the guest reads this processor's time stamp counter, and must be given its frequency (`tsc`)."""
    trial_rom: bytes
    """A firmware of 64 KiB that computes, leaves the guest a thousand times, and says K on the serial port."""


def _microvm_trial() -> bytes:
    """16-bit code at the reset vector (Intel SDM volume 3, section 11.1.4).

    It counts two million down, writes a thousand dots to port 0x3f8 (each one an exit to QEMU), then ``K``, then halts.
    """
    code = bytes.fromhex(
        "66b980841e00"  # mov  ecx, 2000000
        "6649"  # dec  ecx
        "75fc"  # jnz  -4
        "baf803"  # mov  dx, 0x3f8
        "b9e803"  # mov  cx, 1000
        "b02e"  # mov  al, '.'
        "ee"  # out  dx, al
        "49"  # dec  cx
        "75fc"  # jnz  -4 (to out)
        "b04b"  # mov  al, 'K'
        "ee"  # out  dx, al
        "f4"  # hlt
        "ebfd"  # jmp  -3
    )
    rom = bytearray(b"\xf4" * _SIZE)
    rom[0xF000 : 0xF000 + len(code)] = code
    rom[0xFFF0:0xFFF3] = b"\xe9" + (0xF000 - 0xFFF3 & 0xFFFF).to_bytes(2, "little")  # jmp 0xf000
    return bytes(rom)


def _virt_trial() -> bytes:
    """A64 code at address 0, where the flash is, for a PL011 UART at 0x09000000 (QEMU hw/arm/virt.c).

    It counts two million down, writes a thousand dots (each one an exit to QEMU), then ``K``, then waits for ever.
    """
    words = (
        0xD2909000,  # mov   x0, #0x8480
        0xF2A003C0,  # movk  x0, #0x1e, lsl #16
        0xF1000400,  # subs  x0, x0, #1
        0x54FFFFE1,  # b.ne  -4
        0xD2A12001,  # mov   x1, #0x09000000
        0x52806023,  # mov   w3, #0x301
        0xB9003023,  # str   w3, [x1, #0x30]  (UARTCR: on, receives, sends)
        0x52807D00,  # mov   w0, #1000
        0x528005C2,  # mov   w2, #'.'
        0xB9000022,  # str   w2, [x1]
        0x71000400,  # subs  w0, w0, #1
        0x54FFFFC1,  # b.ne  -8 (to str)
        0x52800962,  # mov   w2, #'K'
        0xB9000022,  # str   w2, [x1]
        0xD503207F,  # wfi
        0x17FFFFFF,  # b     -4
    )
    return b"".join(word.to_bytes(4, "little") for word in words).ljust(_SIZE, b"\0")


_QUIET = (
    # A panic ends QEMU at once (with -no-reboot), and the supervisor restarts the VM.
    "quiet loglevel=3 panic=-1 "
    # For a quick boot only.
    "random.trust_cpu=on rcupdate.rcu_expedited=1 audit=0"
)
_MICROVM = f"microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,pcie=off,{_PLAIN}"
MICROVM = MachineType(
    # This program has machine type microvm and KVM only: a quarter of the code of the full one.
    kvm=QemuInvocation("/usr/bin/qemu-system-x86_64-microvm", _MICROVM, "host,svm=off,vmx=off,pmu=off"),
    tcg=QemuInvocation("/usr/bin/qemu-system-x86_64", _MICROVM, "max,svm=off"),
    # Nothing to calibrate, one serial port.
    command_line=f"console=ttyS0 reboot=t tsc=reliable no_timer_check 8250.nr_uarts=1 {_QUIET}",
    hands_tsc_through=True,
    trial_rom=_microvm_trial(),
)
# No ACPI: the device tree alone says what there is.
_VIRT = f"virt,acpi=off,gic-version=%s,its=off,{_PLAIN}"
VIRT = MachineType(
    kvm=QemuInvocation("/usr/bin/qemu-system-aarch64", _VIRT % "host", "host,pmu=off"),
    tcg=QemuInvocation("/usr/bin/qemu-system-aarch64", _VIRT % "3", "cortex-a72"),
    command_line=f"console=ttyAMA0 {_QUIET}",
    # Its timer has a register that tells its frequency (CNTFRQ_EL0).
    hands_tsc_through=False,
    trial_rom=_virt_trial(),
)
ALL = {"x86_64": MICROVM, "aarch64": VIRT}
"""By the host's architecture, as uname(2) says it."""


def _has_pmu() -> bool:
    """Whether KVM has a performance monitoring unit to give to an Arm guest."""
    try:
        with _KVM.open("rb", buffering=0) as kvm:
            return fcntl.ioctl(kvm, _CHECK_EXTENSION, _ARM_PMU_V3) > 0
    except OSError:
        return True  # the trial guest will fail and say why


def for_this_host() -> MachineType:
    """The machine type for this host's architecture and KVM."""
    machine = ALL[os.uname().machine]
    if machine is VIRT and not _has_pmu():
        # There is none to take from the guest, and QEMU then refuses the option `pmu` (target/arm/cpu.c).
        return replace(machine, kvm=replace(machine.kvm, cpu="host"))
    return machine
