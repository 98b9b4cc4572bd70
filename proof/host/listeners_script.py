"""Reads the socket tables of every network namespace of the host. See `proof.remote_script`.

Needs root and nothing but the standard library.
"""

import os
from typing import Any

from proof.host.namespaces_script import each

TABLES = "tcp tcp6 udp udp6 udplite udplite6 raw raw6 icmp icmp6 packet sctp/eps".split()  # noqa: SIM905 - short
"""Files below /proc/net with one socket a line (proc_pid_net(5))."""


def tables() -> dict[str, Any]:
    """Return the data lines of each table of this process's network namespace."""
    found = {}
    for name in TABLES:
        path = "/proc/thread-self/net/" + name
        if os.path.exists(path):
            with open(path) as file:
                found[name] = file.read().splitlines()[1:]
    return {"tables": found}


def namespaces_tables() -> dict[str, Any]:
    """Return the tables of every network namespace."""
    return each(tables)
