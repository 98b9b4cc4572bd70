"""Part of the scripts that run on the host: reads files, and does work in every network namespace.

Needs root and nothing but the standard library. See `proof.remote_script`.
"""

import ctypes
import glob
import json
import os
from collections.abc import Callable
from typing import Any

NEWNET = 0x40000000
"""CLONE_NEWNET of linux/sched.h."""
libc = ctypes.CDLL(None, use_errno=True)


def text(path: str, limit: int = 1 << 18) -> str:
    """Return the first ``limit`` bytes of a file; for one that cannot be read ``!`` and the reason."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(limit).decode(errors="replace")
    except OSError as error:
        return f"!{error.strerror}"


def link(path: str) -> str:
    """Return the target of a symbolic link, empty if it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def namespaces() -> dict[str, str]:
    """Return every network namespace by name (``net:[inode]``) with a path to it.

    Found are those of processes and threads, those that are mounted, and those that are only held open.
    """
    found: dict[str, str] = {}
    held = glob.glob("/proc/[0-9]*/ns/net") + glob.glob("/proc/[0-9]*/task/*/ns/net") + glob.glob("/proc/[0-9]*/fd/*")
    for path in held:
        if link(path)[:5] == "net:[":
            found.setdefault(link(path), path)
    for line in text("/proc/self/mountinfo").splitlines():
        if " - nsfs " in line:
            path = line.split()[4]
            found.setdefault(f"net:[{os.stat(path).st_ino}]", path)
    return found


def child(work: Callable[[], Any]) -> Any:
    """Return the JSON value of ``work``, called in a process of its own, which may change its namespaces.

    An exception in it becomes the value ``{"error": ...}``.
    """
    here, there = os.pipe()
    if os.fork() == 0:
        try:
            answer = work()
        except Exception as error:
            answer = {"error": repr(error)}
        with os.fdopen(there, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as pipe:
        answer = json.load(pipe)
    os.wait()
    return answer


def each(work: Callable[[], Any]) -> dict[str, Any]:
    """Call ``work`` in every network namespace; return its values by the namespace's name, ``host`` for init's.

    Each value is an object; ``path``, a path to the namespace, is added to it.
    """

    def inside(path: str) -> Any:
        if libc.setns(os.open(path, os.O_RDONLY), NEWNET):
            raise OSError("setns")
        return work()

    mine = link("/proc/1/ns/net")
    return {
        ("host" if name == mine else name): {"path": path, **child(lambda path=path: inside(path))}  # type: ignore[misc]
        for name, path in namespaces().items()
    }
