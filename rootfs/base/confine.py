"""A script inside the tools tree: makes a user namespace of 65,536 ids that no account has, then runs a command.

The tools tree's Python runs it (3.13, for `os.unshare`), never the build machine's. The project is not visible there,
so it imports the standard library alone. See user_namespaces(7) and capabilities(7).

Usage: confine.py FIRST_ID CAPABILITIES COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import sys

CAPABILITIES = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "setfcap": 31}
"""Capabilities that may be kept, with their numbers (linux/capability.h)."""
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
"""linux/prctl.h, as prctl(2) has them."""
COUNT = 65_536
"""Number of ids in the namespace: owners in a file system may have any 16-bit id."""


def main() -> None:
    """Become root of a new user namespace with no other capabilities than the named ones, and run the command."""
    first, kept, *command = sys.argv[1:]
    made, maker = os.pipe()
    writer = os.fork()
    if writer == 0:
        # Only a process that is still in the parent's namespace may map its ids.
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
    """Drop all other capabilities from the bounding set, so that execve(2) as root cannot gain them either."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    calls = [(_PR_CAPBSET_DROP, number) for number in range(last + 1) if number not in kept]
    for option, argument in [*calls, (_PR_SET_NO_NEW_PRIVS, 1)]:
        if prctl(option, argument, 0, 0, 0) != 0:
            sys.exit(f"confine: prctl {option} {argument}: {os.strerror(ctypes.get_errno())}")


main()
