"""How fast the time stamp counter of this processor runs: what an emulated x86 machine cannot find out for itself.

QEMU's TCG hands this counter through to its guest (`cpu_get_host_ticks()`), but not its frequency: no CPUID leaf tells
it, and microvm has no timer whose interrupt Linux could measure it by. There is none until the local APIC's timer is
set up, which in turn is measured by the counter: without its frequency the guest waits for its first tick for ever. A
PIT (``pit=on``) does not help: microvm's ACPI tables do not say where its interrupt arrives, and on a slow host Linux
does not believe its polled readings. Linux tells its own processes the frequency nowhere, so it is measured here, and
handed to the guest's kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable

_CODE = bytes.fromhex("0faee8 0f31 48c1e220 4809d0 c3")
"""lfence; rdtsc; shl rdx, 32; or rax, rdx; ret (Intel SDM volume 2; System V ABI: the answer is in rax)."""
_READ_EXECUTE = mmap.PROT_READ | mmap.PROT_EXEC
APART_S = 0.25
"""Between the two readings: half a microsecond's doubt about each is 4 ppm then, 0.3 s a day."""
TRIES = 200
"""How often each reading is taken; the one that was interrupted least counts."""
PLAUSIBLE_KHZ = range(100_000, 20_000_000)


def _reader() -> Callable[[], int]:
    """A function that reads the counter: four instructions in a page that is never writable and executable at once.

    Raises:
        OSError: the kernel refuses such a page.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page.write(_CODE)
    held = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(held)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), _READ_EXECUTE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect: no page for four instructions")
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    function.page = held  # type: ignore[attr-defined]  # or it would be unmapped before the first call
    return function


def _reading(read: Callable[[], int], clock: Callable[[], int]) -> tuple[int, int]:
    """The clock in ns and the counter at the same moment, as nearly as `TRIES` tries come to that."""
    best = (0, 0, 0)
    for attempt in range(TRIES):
        before = clock()
        ticks = read()
        after = clock()
        if attempt == 0 or after - before < best[0]:
            best = (after - before, (before + after) // 2, ticks)
    return best[1:]


def measure(
    read: Callable[[], int] | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """The counter's frequency in kHz, by CLOCK_MONOTONIC, which QEMU runs its guest's timers by. Takes `APART_S`.

    Raises:
        OSError: the counter cannot be read, or does not run like one.
    """
    read = read or _reader()
    first = _reading(read, clock)
    sleep(APART_S)
    second = _reading(read, clock)
    khz = round((second[1] - first[1]) * 1_000_000 / (second[0] - first[0]))
    if khz not in PLAUSIBLE_KHZ:
        raise OSError(f"the time stamp counter runs at {khz} kHz, which is none's frequency")
    return khz
