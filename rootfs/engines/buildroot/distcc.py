"""Other machines that compile for a build (distcc(1)), each in a build sandbox of its own.

The sandbox is made of locked packages, so all machines have the same compiler, and it does not matter which of them
compiles a file. distcc's protocol has no authentication: everybody who reaches a node can run programs on it. So a node
runs in a read-only sandbox, as user nobody if root started it, and answers only the named addresses. Use it only in a
network that you trust.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from rootfs.base.errors import SallyportError

SETTING = "SALLYPORT_FARM"
"""Environment variable: the machines that help to compile, ``ADDRESS[:PORT][/JOBS]`` for each, with blanks between."""
PORT = 3632
"""TCP port of distcc(1)."""
JOBS = 4
"""Compilers at the same time on a node without a number."""
_WIDEST = 16
"""Shortest prefix of a network that a node may answer."""
_NODE = re.compile(r"(?P<address>\d+\.\d+\.\d+\.\d+)(?::(?P<port>\d{1,5}))?(?:/(?P<jobs>\d{1,3}))?")


@dataclass(frozen=True)
class Node:
    """A machine that runs ``jobs`` compilers at the same time."""

    address: str
    port: int = PORT
    jobs: int = JOBS


@dataclass(frozen=True)
class Farm:
    """The other machines that compile for this one."""

    nodes: tuple[Node, ...] = ()

    @property
    def jobs(self) -> int:
        """Compilers that run at the same time, those of this machine included."""
        return (os.cpu_count() or 1) + sum(node.jobs for node in self.nodes)

    def environment(self) -> dict[str, str]:
        """Variables that make ccache call distcc for files that it does not have."""
        if not self.nodes:
            return {}
        hosts = [f"localhost/{os.cpu_count() or 1}", *(f"{n.address}:{n.port}/{n.jobs}" for n in self.nodes)]
        return {"CCACHE_PREFIX": "distcc", "DISTCC_HOSTS": " ".join(hosts), "DISTCC_DIR": "/tmp"}  # noqa: S108 - inside


def read(setting: str) -> Farm:
    """Read ``ADDRESS[:PORT][/JOBS]``, one for each node, with blanks between them.

    Raises:
        SallyportError: a word is not of that form; names it.
    """
    nodes = []
    for word in setting.split():
        match = _NODE.fullmatch(word)
        try:
            if match is None:
                raise ValueError("not ADDRESS[:PORT][/JOBS]")
            node = Node(
                str(ipaddress.IPv4Address(match["address"])), int(match["port"] or PORT), int(match["jobs"] or JOBS)
            )
            if not (0 < node.port < 65536 and node.jobs):
                raise ValueError("want a port from 1 to 65535 and at least one job")
        except ValueError as error:
            raise SallyportError(
                f"{SETTING}: {word!r}: {error}", "write it as 192.168.1.7/8 or 192.168.1.8:3632/4"
            ) from error
        nodes.append(node)
    return Farm(tuple(nodes))


def command(listen: str, allow: str, port: int, jobs: int) -> list[str]:
    """The command line of the compile server, distccd(1).

    Args:
        listen: the address of this machine.
        allow: the address or network whose machines may use it.
        port: TCP port.
        jobs: compilers at the same time.

    Raises:
        SallyportError: an address, port or number of jobs is out of range, or the network is too large.
    """
    try:
        address, network = ipaddress.IPv4Address(listen), ipaddress.IPv4Network(allow)
    except ValueError as error:
        raise SallyportError(
            f"{error}", "give this machine's address as --listen, and the other machines' as --allow"
        ) from error
    if network.prefixlen < _WIDEST:
        raise SallyportError(
            f"--allow {network}: the network is too large", f"name one with a prefix of at least /{_WIDEST}"
        )
    if not (0 < port < 65536 and jobs > 0):
        raise SallyportError(f"--port {port}, --jobs {jobs}: out of range", "want --port 1 to 65535, --jobs at least 1")
    return [
        *("distccd", "--no-detach", "--daemon", "--log-stderr", "--log-level", "notice"),
        *("--listen", str(address), "--port", str(port), "--allow", str(network), "--jobs", str(jobs)),
        # Otherwise distccd only runs compilers of one directory, which is not that of our toolchain.
        "--enable-tcp-insecure",
    ]
