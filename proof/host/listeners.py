"""The listening sockets of the host in every network namespace: the backend's port, and nothing else."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proof.remote_script import RemoteScript, RemoteScriptError, RunOnHost, assemble
from proof.result import Result, Verdict
from rootfs.spec.profile import Forwarder

_TCP_LISTEN, _CONNECTED = "0A", "01"  # include/net/tcp_states.h


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A socket that accepts unsolicited data or connections.

    ``port`` is the IP protocol of a raw socket, the EtherType of a packet socket.
    """

    kind: str
    address: str
    port: int
    netns: str = ""

    def __str__(self) -> str:
        where = f" in {self.netns}" if self.netns else ""
        return f"{self.kind} {self.address}:{self.port}{where}"


BACKEND = Listener("tcp", "169.254.254.1", 7000)
_FORWARDER = 902
"""User id of the forwarder: overlays/host/etc/passwd."""
_ETH_P_ALL = 3
_INTERFACES = {("ring", "vhost-user"): (2,), ("ring", "tap"): (2, 3)}
"""Interface numbers in the port's namespace: 2 is mgmt0, 3 is access0."""


def expected(forwarder: Forwarder) -> frozenset[Listener]:
    """Return the listeners of a host with this datapath: the backend, and the forwarder's packet sockets."""
    numbers = _INTERFACES.get((forwarder.port, forwarder.vm), ())
    rings = {Listener("packet", f"interface {number} of user {_FORWARDER}", _ETH_P_ALL) for number in numbers}
    return frozenset({BACKEND} | rings)


class _Namespace(msgspec.Struct, forbid_unknown_fields=True):
    """The socket tables of one network namespace; ``error`` says why they could not be read."""

    path: str
    error: str = ""
    tables: dict[str, list[str]] = {}


_FOLDER = Path(__file__).parent
SCRIPT = RemoteScript(
    assemble(_FOLDER / "namespaces_script.py", _FOLDER / "listeners_script.py", main="answer(namespaces_tables())"),
    dict[str, _Namespace],
)


def _address(text: str) -> tuple[str, int]:
    """Decode ``0100007F:1B58`` of /proc/net: 32-bit words in host order (little endian here), port in hex."""
    raw, port = text.split(":")
    data = bytes.fromhex(raw)
    words = struct.unpack(f"<{len(data) // 4}I", data)
    return str(ipaddress.ip_address(struct.pack(f">{len(words)}I", *words))), int(port, 16)


def listeners(file: str, lines: list[str], netns: str) -> Iterator[Listener]:
    """Return the listeners among the data lines of one /proc/net file; `ValueError` for a line not understood."""
    for line in lines:
        fields = line.split()
        if file == "packet":  # sk RefCnt Type Proto Iface R Rmem User Inode
            # One that is not running (packet(7): protocol 0) only sends.
            if fields[5] != "0":
                yield Listener("packet", f"interface {fields[4]} of user {int(fields[7])}", int(fields[3], 16), netns)
        elif file == "sctp/eps":
            yield Listener("sctp", fields[-1], int(fields[5]), netns)
        else:
            state = fields[3]
            address, port = _address(fields[1])
            # A connected UDP socket receives only from its one peer.
            if state == _TCP_LISTEN if file.startswith("tcp") else state != _CONNECTED:
                yield Listener(file, address, port, netns)


def run_host(run: RunOnHost, *, allowed: frozenset[Listener] = frozenset({BACKEND})) -> list[Result]:
    """Require that nothing listens on the host but ``allowed`` (whose ``netns`` is ignored); return one result.

    ``run`` needs a root shell on the host. The control is that every allowed listener is seen.
    """
    began = time.monotonic()
    tried = "every socket in all network namespaces of the host that accepts unsolicited data or connections"
    trouble, spaces = "", dict[str, _Namespace]()
    try:
        spaces = SCRIPT.run_on_host(run)
    except RemoteScriptError as error:
        trouble = str(error)
    found: list[Listener] = []
    blind: list[str] = []
    for name, space in spaces.items():
        if space.error:
            blind.append(f"{name}: {space.error}")
        elif not {"tcp", "udp", "raw"} <= space.tables.keys():
            blind.append(f"{name}: its socket tables are missing")
        for file, lines in space.tables.items():
            try:
                found += listeners(file, lines, name)
            except (ValueError, IndexError, struct.error) as error:
                blind.append(f"{name}: /proc/net/{file} cannot be parsed: {error}")
    wanted = {(item.kind, item.address, item.port) for item in allowed}
    extra = sorted(item for item in found if (item.kind, item.address, item.port) not in wanted)
    seen = {(item.kind, item.address, item.port) for item in found} & wanted
    evidence = f"{len(spaces)} network namespaces, {len(found)} listeners"
    if extra:
        verdict, evidence = Verdict.HOLE, f"{evidence}; unexpected: {', '.join(map(str, extra[:8]))}"
    elif trouble or blind or seen != wanted:
        reason = trouble or "; ".join(blind[:4]) or "an expected listener is missing"
        verdict, evidence = Verdict.NOT_TESTED, f"{evidence}; {reason}"
    else:
        verdict = Verdict.SEALED
    control = (
        f"{len(seen)} of {len(wanted)} expected listeners seen: {', '.join(f'{k} {a}:{p}' for k, a, p in sorted(seen))}"
    )
    frames = tuple(str(item) for item in extra[:20])
    return [Result("listeners", "host-sockets", tried, verdict, evidence, control, time.monotonic() - began, frames)]
