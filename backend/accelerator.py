"""Chooses KVM or TCG for the front-end VM by running a trial guest: a device node that opens proves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEADLINE_S = 5.0
"""Trial guest to its last word. It is done in tens of milliseconds on real KVM; a KVM that crawls takes minutes."""
_SIZE = 0x10000


@dataclass(frozen=True)
class Accelerator:
    """What runs the VM, and a sentence that says why."""

    name: Literal["kvm", "tcg"]
    reason: str


def trial_rom() -> bytes:
    """A 64 KiB firmware that computes, leaves the guest a thousand times, and says K on the serial port.

    16-bit code at the reset vector (Intel SDM volume 3, section 11.1.4): counts two million down, writes a thousand
    dots to port 0x3f8 (each one an exit to QEMU), then ``K``, then halts.
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


async def choose(qemu: str, directory: Path) -> Accelerator:
    """Run the trial guest under KVM.

    Args:
        qemu: the QEMU that would run the VM under KVM.
        directory: where the trial's firmware may be written.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("tcg", "no usable /dev/kvm: no hardware virtualization, or it is off in the firmware")
    rom = directory / "trial.rom"
    rom.write_bytes(trial_rom())
    started = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        *(qemu, "-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "16", "-bios", str(rom)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while b"K" not in said and (chunk := await child.stdout.read(4096)):
                said += chunk
    except TimeoutError:
        return Accelerator("tcg", f"a trial guest under KVM was not done after {DEADLINE_S:.0f} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        _, errors = await child.communicate()
        rom.unlink()
    if not said.endswith(b"K"):
        words = errors.decode(errors="replace").strip().splitlines()
        return Accelerator("tcg", f"a trial guest under KVM failed: {words[0] if words else 'no word from it'}")
    return Accelerator("kvm", f"a trial guest ran under KVM in {(time.monotonic() - started) * 1000:.0f} ms")
