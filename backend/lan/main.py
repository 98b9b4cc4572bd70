"""The guest LAN: virtual NICs that exchange IP datagrams in memory; the physical port has no part in it.

``python3 -m backend.lan.main FILE`` is the process. FILE is JSON: the ports by name, each with its MAC address and
the IP addresses that it owns. Nothing else is ever an address of the LAN: nothing is learnt, nothing is flooded
(``core/lan.c`` and ``core/lan_frame.c`` say what passes). SIGHUP reads the table anew while frames move, SIGTERM ends
it.

    {"ports": [{"name": "vm-a", "kind": "vhost-user", "socket": "/run/lan/vm-a.sock",
                "mac": "02:5a:11:00:01:01", "addresses": ["10.77.0.1", "fd77::1"]},
               {"name": "host", "kind": "tap", "interface": "lan0",
                "mac": "02:5a:11:00:01:02", "addresses": ["10.77.0.2", "fd77::2"]}]}
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.common import tap
from backend.forwarder import errors
from backend.forwarder.config import Limit
from backend.forwarder.counters import VERDICTS
from backend.forwarder.data_path import DataPath
from backend.forwarder.errors import ConfigError, ForwarderError
from backend.forwarder.policy import bucket, parse_mac
from backend.forwarder.process import listen
from backend.lan import _lan

MAX_PORTS = 64
FROM_VM = 1
Entry = tuple[bytes, int, bytes]
"""IP address, index of the port, MAC address, as the core takes them."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

log = logging.getLogger("lan")
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}$")]


class Port(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """A virtual NIC and what it owns."""

    name: Name
    mac: str
    addresses: Annotated[list[str], Meta(min_length=1, max_length=4096)]
    limit: Limit | None = None
    """Of all frames from here."""
    question_limit: Limit | None = None
    """Of ARP requests by broadcast and neighbour solicitations by multicast from here."""


class VhostUserPort(Port, frozen=True, tag="vhost-user"):
    """The NIC of a VM whose front-end (QEMU) connects to a unix socket."""

    socket: Annotated[str, Meta(pattern=r"^/", max_length=107)]
    memory_mib: Annotated[int, Meta(ge=16, le=65536)] = 1024
    """Most memory of the VM that is mapped."""


class TapPort(Port, frozen=True, tag="tap"):
    """This host, by an interface of its own."""

    interface: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,14}$")]


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """A guest LAN."""

    ports: Annotated[list[VhostUserPort | TapPort], Meta(min_length=1, max_length=MAX_PORTS)]
    max_frame: Annotated[int, Meta(ge=60, le=65549)] = 9014
    """Bytes on the wire, Ethernet header included, frame check sequence not."""


def read(path: Path) -> Config:
    """Read a LAN's file and check it, the table included.

    Raises:
        ConfigError: absent, not JSON, a field is unknown, missing or out of range, or two ports claim the same.
    """
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
        entries(config)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}", "mend the file") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.args[0]}", "mend the file") from error
    return config


def link_local(mac: bytes) -> ipaddress.IPv6Address:
    """The link-local address that a NIC gives itself (RFC 4291, appendix A)."""
    return ipaddress.IPv6Address(
        bytes.fromhex("fe80000000000000") + bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))
    )


def _address(text: str, field: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from error
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    if address.is_multicast or address.is_unspecified or address.is_loopback or mapped or int(address) == 0xFFFFFFFF:
        raise ConfigError(f"{field}: {text} cannot be the address of one station")
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ConfigError(f"{field}: {text} has a zone; leave it off")
    return address


class _Claims:
    """What belongs to one port only."""

    def __init__(self) -> None:
        self._fields: dict[object, str] = {}

    def add(self, field: str, value: object, text: str) -> None:
        if value in self._fields:
            raise ConfigError(f"{field}: {text} belongs to {self._fields[value]}")
        self._fields[value] = field


def entries(config: Config) -> list[Entry]:
    """The table: every address of every port, and the link-local one of ports that have an IPv6 address.

    Raises:
        ConfigError: names the field: something belongs to two ports or is there twice, or is no address of a station.
    """
    claims = _Claims()
    table: list[Entry] = []
    for index, port in enumerate(config.ports):
        field = f"ports[{index}]"
        try:
            mac = parse_mac(port.mac)
        except ValueError as error:
            raise ConfigError(f"{field}.mac: {error}") from error
        claims.add(f"{field}.name", port.name, port.name)
        claims.add(f"{field}.mac", mac, port.mac)
        match port:
            case VhostUserPort():
                claims.add(f"{field}.socket", ("socket", port.socket), port.socket)
            case TapPort():
                claims.add(f"{field}.interface", ("interface", port.interface), port.interface)
        addresses: list[Address] = []
        for number, text in enumerate(port.addresses):
            address = _address(text, f"{field}.addresses[{number}]")
            claims.add(f"{field}.addresses[{number}]", address, text)
            addresses.append(address)
        own = link_local(mac)
        if own not in addresses and any(address.version == 6 for address in addresses):
            claims.add(f"{field}.mac (link-local address)", own, str(own))
            addresses.append(own)
        table += [(address.packed, index, mac) for address in addresses]
    return table


def open_tap(name: str) -> int:
    """Open this host's end of a tap with the virtio header that ``_lan.tap`` wants; made if the process may.

    Raises:
        ForwarderError: no /dev/net/tun, no permission, or somebody else has it open.
    """
    try:
        return tap.open_tap(name, header=True)
    except OSError as error:
        raise errors.from_os(error, f"tap {name}") from error


class GuestLan:
    """A LAN with its ports open; opening needs privileges, nothing after that does.

    Raises:
        ForwarderError: a socket or a tap cannot be opened.
    """

    def __init__(self, config: Config) -> None:
        self._ports = [self._identity(port) for port in config.ports]
        self._names = [port.name for port in config.ports]
        self._listeners: list[socket.socket] = []
        limits = tuple((*bucket(port.limit), *bucket(port.question_limit)) for port in config.ports)
        self._endpoints = [self._open(port) for port in config.ports]
        self._lan = _lan.Lan(self._endpoints, config.max_frame, limits)
        self.run, self.stop = self._lan.run, self._lan.stop
        self.provision(config)

    def provision(self, config: Config) -> None:
        """Use another table; on return the old one is out of use. From any thread.

        Raises:
            ConfigError: its ports are not those that are open, or `entries` refuses it.
        """
        if [self._identity(port) for port in config.ports] != self._ports:
            raise ConfigError(
                "ports: only addresses and MAC addresses can change while the LAN runs", "restart it for other ports"
            )
        self._lan.provision(entries(config))

    def counters(self) -> dict[str, dict[str, dict[str, int]]]:
        """By name of the port that frames came from and by verdict, ``frames`` and ``bytes``; zeros are left out."""
        return {
            name: {
                verdict: {"frames": frames, "bytes": length}
                for verdict, (frames, length) in zip(VERDICTS, verdicts, strict=True)
                if frames
            }
            for name, verdicts in zip(self._names, self._lan.counters(), strict=True)
        }

    def up(self) -> dict[str, bool]:
        """Whether each port's other side is there."""
        return {name: endpoint.up() for name, endpoint in zip(self._names, self._endpoints, strict=True)}

    @staticmethod
    def _identity(port: VhostUserPort | TapPort) -> tuple[str, str]:
        return port.name, port.socket if isinstance(port, VhostUserPort) else port.interface

    def _open(self, port: VhostUserPort | TapPort) -> _lan.Endpoint:
        if isinstance(port, TapPort):
            descriptor = open_tap(port.interface)
            try:
                return _lan.tap(descriptor, FROM_VM)
            finally:
                os.close(descriptor)
        try:
            listener = listen(Path(port.socket))
            self._listeners.append(listener)
            return _lan.vhost_user(listener.fileno(), port.memory_mib << 20, True, FROM_VM)
        except OSError as error:
            raise errors.from_os(error, port.socket) from error


async def serve(path: Path) -> None:
    """Be the LAN until SIGTERM. SIGHUP: read the table anew. SIGUSR1: counters to standard output, as JSON.

    Raises:
        ForwarderError: it cannot start.
        OSError: the data path broke.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    lan = GuestLan(read(path))

    def reload() -> None:
        try:
            lan.provision(read(path))
        except ForwarderError as error:
            log.error("the new table is refused, the old one stays in use: %s", error)

    def show() -> None:
        print(msgspec.json.encode({"up": lan.up(), "counters": lan.counters()}).decode(), flush=True)

    for number, action in (
        (signal.SIGTERM, ended.set),
        (signal.SIGINT, ended.set),
        (signal.SIGHUP, reload),
        (signal.SIGUSR1, show),
    ):
        loop.add_signal_handler(number, action)
    thread = DataPath(lan.run, ended)
    thread.begin()
    log.info("the guest LAN runs with %d ports", len(lan.up()))
    await ended.wait()
    lan.stop()
    thread.join(2.0)
    if thread.problem is not None:
        raise thread.problem


def main(words: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0, or 1 with a sentence and a remedy on standard error."""
    parser = argparse.ArgumentParser(prog="lan", description="Guest LAN: virtual NICs joined in memory.")
    parser.add_argument("file", type=Path, help="JSON: the ports and their addresses")
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(options.file))
    except ForwarderError as error:
        print(f"error: {error.args[0]}\nwhat to do: {error.remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
