"""A script that runs inside the tools tree: becomes root of 65,536 ids that nobody has outside, then runs a command.

The tools tree's Python runs it (3.13, for `os.unshare`), never the build machine's. Nothing of the project is seen
there, so it imports the standard library alone. user_namespaces(7), capabilities(7).

Usage: confine.py FIRST_ID CAPABILITIES COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import sys

CAPABILITIES = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "setfcap": 31}
"""Those that may be kept, with their numbers (linux/capability.h)."""
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
"""linux/prctl.h, as prctl(2) has them."""
COUNT = 65_536
"""Ids of the namespace, as a file system's owners may be any of a 16-bit system's."""


def main() -> None:
    """Become root of the namespace, with no more than the named capabilities over its own ids."""
    first, kept, *command = sys.argv[1:]
    made, maker = os.pipe()
    writer = os.fork()
    if writer == 0:
        # Ids of the parent's namespace can only be mapped by somebody who is still in it.
        os.close(maker)
        if os.read(made, 1) != b"x":
            os._exit(1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{os.getppid()}/{name}", "w") as file:
                file.write(f"0 {first} {COUNT}\n")
        os._exit(0)
    os.close(made)
    os.unshare(os.CLONE_NEWUSER)  # type: ignore[attr-defined,unused-ignore]
    os.write(maker, b"x")
    os.close(maker)
    if os.waitpid(writer, 0)[1] != 0:
        sys.exit("confine: the user namespace got no ids")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    limit({CAPABILITIES[name] for name in kept.split(",") if name})
    os.execvp(command[0], command)  # noqa: S606


def limit(kept: set[int]) -> None:
    """Let what is run have no other capability than these, for good: what root gains by execve(2) is bounded."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    calls = [(_PR_CAPBSET_DROP, number) for number in range(last + 1) if number not in kept]
    for option, argument in [*calls, (_PR_SET_NO_NEW_PRIVS, 1)]:
        if prctl(option, argument, 0, 0, 0) != 0:
            sys.exit(f"confine: prctl {option} {argument}: {os.strerror(ctypes.get_errno())}")


main()
