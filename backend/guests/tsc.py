"""Measures the frequency of this processor's time stamp counter, which an x86 guest under TCG cannot find out itself.

QEMU's TCG passes this counter through to the guest (`cpu_get_host_ticks()`), but not its frequency: no CPUID leaf has
it, and microvm has no timer interrupt that Linux could measure it by. The only timer is that of the local APIC, which
Linux calibrates with the counter: without the frequency, the guest waits for its first tick for ever. A PIT
(``pit=on``) does not help: microvm's ACPI tables do not describe its interrupt, and on a slow host Linux discards its
polled readings. Linux does not report the frequency to processes, so it is measured here and passed to the guest's
kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable

_CODE = bytes.fromhex("0faee8 0f31 48c1e220 4809d0 c3")
"""lfence; rdtsc; shl rdx, 32; or rax, rdx; ret (Intel SDM volume 2; System V ABI: the answer is in rax)."""
_READ_EXECUTE = mmap.PROT_READ | mmap.PROT_EXEC
INTERVAL_S = 0.25
"""Seconds between the two readings: an error of half a microsecond in each makes 4 ppm, 0.3 s a day."""
TRIES = 200
"""How often each reading is taken; the one with the least delay counts."""
PLAUSIBLE_KHZ = range(100_000, 20_000_000)


def _reader() -> Callable[[], int]:
    """A function that reads the counter: machine code in a page that is never writable and executable at once.

    Raises:
        OSError: the kernel refuses such a page.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page.write(_CODE)
    held = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(held)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), _READ_EXECUTE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect: cannot make the code that reads the time stamp counter executable")
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    function.page = held  # type: ignore[attr-defined]  # or it would be unmapped before the first call
    return function


def _reading(read: Callable[[], int], clock: Callable[[], int]) -> tuple[int, int]:
    """Clock in ns and counter at the same moment, from the best of `TRIES` attempts."""
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
    """The counter's frequency in kHz, by CLOCK_MONOTONIC, which QEMU runs its guest's timers by. Takes `INTERVAL_S`.

    Raises:
        OSError: the counter cannot be read, or its frequency is not plausible.
    """
    read = read or _reader()
    first = _reading(read, clock)
    sleep(INTERVAL_S)
    second = _reading(read, clock)
    khz = round((second[1] - first[1]) * 1_000_000 / (second[0] - first[0]))
    if khz not in PLAUSIBLE_KHZ:
        raise OSError(f"the time stamp counter was measured at {khz} kHz, which is not a plausible frequency")
    return khz
