"""Does a fixed job on the host again and again and reports how often, while the VM floods. See `proof.remote_script`.

Usage of `begin`: the longest duration in seconds, and the path that names all its files; it returns at once. Usage of
`end`: the path. One job is the hash of 256 KiB, and a file of 16 KiB that is written and renamed.
"""

import contextlib
import hashlib
import json
import os
import sys
import time

INTERVAL = 0.5
"""Seconds that one entry of the answer covers."""
END_TIMEOUT = 30.0
"""Seconds within which a loop that is told to end must have written its series, however starved it is."""


def work(seconds: float, target: str, ready: int) -> list[tuple[float, int]]:
    """Return for each interval its end, in seconds since the start, and how many jobs were done in it.

    Ends after ``seconds``, or when the file ``target.stop`` appears. ``ready`` is written to at the start.
    """
    data = bytes(1 << 18)
    series: list[tuple[float, int]] = []
    jobs = 0
    start = begin = time.monotonic()
    os.write(ready, b"1")
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
            if os.path.exists(target + ".stop"):
                break
    return series


def clean(target: str) -> None:
    """Remove the files of a loop."""
    for end in (".done", ".stop", ".json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + end)


def begin() -> bool:
    """Start `work` in a process of its own; whether it has begun."""
    seconds, target = float(sys.argv[1]), sys.argv[2]
    clean(target)
    here, there = os.pipe()
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        series = work(seconds, target, there)
        with open(target + ".new", "w") as file:
            json.dump(series, file)
        os.rename(target + ".new", target + ".json")
        os._exit(0)
    os.close(there)
    return os.read(here, 1) == b"1"


def end() -> list[tuple[float, int]]:
    """End the loop and return its series."""
    target = sys.argv[1]
    with open(target + ".stop", "w"):
        pass
    deadline = time.monotonic() + END_TIMEOUT
    while not os.path.exists(target + ".json") and time.monotonic() < deadline:
        time.sleep(0.05)
    with open(target + ".json") as file:
        series: list[tuple[float, int]] = json.load(file)
    clean(target)
    return series
