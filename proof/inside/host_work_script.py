"""Does a fixed job on the host again and again and reports how often, while the VM floods. See `proof.remote_script`.

Usage: the duration in seconds, and the file to write. One job is the hash of 256 KiB, and a file of 16 KiB that is
written and renamed.
"""

import hashlib
import os
import sys
import time

INTERVAL = 0.5
"""Seconds that one entry of the answer covers."""


def work() -> list[tuple[float, int]]:
    """Return for each interval its end, in seconds since the start, and how many jobs were done in it."""
    seconds, target, data = float(sys.argv[1]), sys.argv[2], bytes(1 << 18)
    series: list[tuple[float, int]] = []
    jobs = 0
    start = begin = time.monotonic()
    while begin - start < seconds:
        hashlib.sha256(data).digest()
        with open(target, "wb") as file:
            file.write(data[: 1 << 14])
        os.rename(target, target + ".done")
        jobs += 1
        now = time.monotonic()
        if now - begin >= INTERVAL:
            series.append((now - start, jobs))
            jobs, begin = 0, now
    os.unlink(target + ".done")
    return series
