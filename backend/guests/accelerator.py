"""Chooses KVM or TCG for the front-end VM by running a trial guest: a device node that opens proves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.guests.machine_type import MachineType

DEADLINE_S = 5.0
"""Seconds for the trial guest. It takes tens of milliseconds on real KVM, and minutes on a KVM that is itself
emulated."""


@dataclass(frozen=True)
class Accelerator:
    """What runs the VM, and the reason as a sentence."""

    name: Literal["kvm", "tcg"]
    reason: str


async def choose(machine: MachineType, directory: Path) -> Accelerator:
    """Run the trial guest under KVM.

    Args:
        machine: the VM's machine type.
        directory: the trial guest's firmware is written there and removed again.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("tcg", "no usable /dev/kvm: no hardware virtualization, or it is off in the firmware")
    rom = directory / "trial.rom"
    rom.write_bytes(machine.trial_rom)
    started = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        *(
            machine.kvm.program,
            "-M",
            machine.kvm.options,
            "-accel",
            "kvm",
            "-cpu",
            machine.kvm.cpu,
            "-m",
            "16",
            "-bios",
            str(rom),
        ),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    output = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while b"K" not in output and (chunk := await child.stdout.read(4096)):
                output += chunk
    except TimeoutError:
        return Accelerator("tcg", f"a trial guest under KVM was not done after {DEADLINE_S:.0f} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        _, errors = await child.communicate()
        rom.unlink()
    if not output.endswith(b"K"):
        words = errors.decode(errors="replace").strip().splitlines()
        return Accelerator("tcg", f"a trial guest under KVM failed: {words[0] if words else 'QEMU printed no error'}")
    return Accelerator("kvm", f"a trial guest ran under KVM in {(time.monotonic() - started) * 1000:.0f} ms")
