"""A compile farm: other machines that compile for a build (distcc(1)), each in a sandbox of its own.

The sandbox is made of locked packages, so the compiler of each is the same, and it does not matter where a file was
compiled. Whoever reaches a node can run programs there (distcc's protocol has no secret): hence a node runs in a
sandbox that it can only read, as nobody if root started it, and answers only the addresses that it was told. It is for
a network that you trust.
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
JOBS = 4
"""Of a node that does not say how many."""
_WIDEST = 16
"""Prefix length of a network that a node may answer."""
_NODE = re.compile(r"(?P<address>\d+\.\d+\.\d+\.\d+)(?::(?P<port>\d{1,5}))?(?:/(?P<jobs>\d{1,3}))?")


@dataclass(frozen=True)
class Node:
    """A machine that compiles: ``jobs`` at the same time."""

    address: str
    port: int = PORT
    jobs: int = JOBS


@dataclass(frozen=True)
class Farm:
    """The nodes besides this machine; none is no farm."""

    nodes: tuple[Node, ...] = ()

    @property
    def jobs(self) -> int:
        """How many compilers run at the same time, those of this machine included."""
        return (os.cpu_count() or 1) + sum(node.jobs for node in self.nodes)

    def environment(self) -> dict[str, str]:
        """What tells ccache, which asks first what was compiled before, to ask distcc for the rest."""
        if not self.nodes:
            return {}
        hosts = [f"localhost/{os.cpu_count() or 1}", *(f"{n.address}:{n.port}/{n.jobs}" for n in self.nodes)]
        return {"CCACHE_PREFIX": "distcc", "DISTCC_HOSTS": " ".join(hosts), "DISTCC_DIR": "/tmp"}  # noqa: S108 - inside


def read(setting: str) -> Farm:
    """Read ``ADDRESS[:PORT][/JOBS]``, one for each node, with blanks between them.

    Raises:
        SallyportError: one of them is none; names it.
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
                raise ValueError("no such port, or no job")
        except ValueError as error:
            raise SallyportError(f"{SETTING}: {word!r}: {error}", "such as 192.168.1.7/8 192.168.1.8:3632/4") from error
        nodes.append(node)
    return Farm(tuple(nodes))


def command(listen: str, allow: str, port: int, jobs: int) -> list[str]:
    """The daemon's command line.

    Args:
        listen: the address of this machine.
        allow: the address, or network, that may ask.
        port: TCP port.
        jobs: how many at the same time.

    Raises:
        SallyportError: not an address; or a port or number of jobs that cannot be.
    """
    try:
        address, network = ipaddress.IPv4Address(listen), ipaddress.IPv4Network(allow)
    except ValueError as error:
        raise SallyportError(f"{error}", "name this machine's address by --listen, who may ask by --allow") from error
    if network.prefixlen < _WIDEST:
        raise SallyportError(f"--allow {network}: so many machines are nobody's own", f"at least /{_WIDEST}")
    if not (0 < port < 65536 and jobs > 0):
        raise SallyportError(f"no port {port}, or no {jobs} jobs", "--port 1 to 65535, --jobs at least 1")
    return [
        *("distccd", "--no-detach", "--daemon", "--log-stderr", "--log-level", "notice"),
        *("--listen", str(address), "--port", str(port), "--allow", str(network), "--jobs", str(jobs)),
        # It would else know compilers in one directory alone, and ours stands elsewhere.
        "--enable-tcp-insecure",
    ]
