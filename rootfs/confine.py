"""A script that runs inside the tools tree: becomes root of 65,536 ids that nobody has outside, then runs a command.

The tools tree's Python runs it (3.13, for `os.unshare`), never the build machine's. Nothing of the project is seen
there, so it imports the standard library alone. user_namespaces(7), capabilities(7).

Usage: confine.py FIRST_ID CAPABILITIES COMMAND...
"""

from __future__ import annotations

import os
import sys

COUNT = 65_536
"""Ids of the namespace, as a file system's owners may be any of a 16-bit system's."""


def main() -> None:
    """Become root of the namespace, with no more than the named capabilities (setpriv(1)'s words) over its own ids."""
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
    bounding = ",".join(["-all", *(f"+{name}" for name in kept.split(",") if name)])
    limits = [f"--bounding-set={bounding}", "--inh-caps=-all", "--no-new-privs"]
    os.execv("/usr/bin/setpriv", ["setpriv", *limits, *command])  # noqa: S606


main()
