"""The front-end's settings, which the host hands to the VM at every start, and its listening sockets."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from frontend_vm.protocol.link_plan import BACKEND_ADDRESS, BACKEND_PORT
from frontend_vm.protocol.peers import UNKNOWN, Peer

DEFAULT_DIRECTORY = Path("/run/frontend")
BACKLOG = 64
"""Connections that the kernel queues while the event loop is busy (listen(2))."""
UNACKNOWLEDGED_MS = 30_000
"""TCP_USER_TIMEOUT (tcp(7)): milliseconds until a connection ends whose peer acknowledges nothing."""
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 30, 10, 3
"""TCP keepalive, for peers that disappear: seconds, seconds, number of probes (tcp(7))."""

TcpPort = Annotated[int, Meta(ge=0, le=65535)]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of ``settings.json``; the defaults are what the appliance uses."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] = ("::",)
    """Numeric addresses to listen on; ``::`` also takes IPv4."""
    access_interface: Annotated[str, Meta(max_length=15)] = "access"
    """Connections are accepted on this interface only, never on the link; empty: on any (tests)."""
    web_port: TcpPort = 443
    ssh_port: TcpPort = 22
    """0 lets the kernel choose (tests)."""
    backend_address: str = BACKEND_ADDRESS
    backend_port: TcpPort = BACKEND_PORT


def load_settings(directory: Path) -> Settings:
    """Read ``settings.json`` of a configuration directory; a missing file means the defaults.

    Raises:
        ValueError: the file is not what `Settings` says; the message names file and field.
    """
    path = directory / "settings.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except FileNotFoundError:
        return Settings()
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error


def open_listeners(settings: Settings, port: int) -> list[socket.socket]:
    """Open one listening, non-blocking TCP socket for each address.

    Raises:
        OSError: an address is not configured here, or the port is in use; the message names both.
    """
    listeners: list[socket.socket] = []
    for address in settings.addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listeners.append(listener)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
            if settings.access_interface:
                # Needs no privilege since Linux 5.7 while the socket is not bound to a device yet.
                device = settings.access_interface.encode() + b"\0"
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            # Accepted sockets inherit all of these.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            listener.bind((address, port))
            listener.listen(BACKLOG)
        except OSError as error:
            for opened in listeners:
                opened.close()
            where = f"[{address}]:{port} on {settings.access_interface or 'any interface'}"
            raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error
    return listeners


def is_listening(listener: socket.socket) -> bool:
    """Whether the kernel still accepts connections for this socket."""
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False


def load_identity(context: ssl.SSLContext, directory: Path, stem: str, certificate: Path | None = None) -> None:
    """Give a TLS context a certificate, by default ``stem.crt``, and its key ``stem.key``.

    Raises:
        OSError: a file is missing or damaged, or they do not belong together; the message names them.
    """
    certificate, key = certificate or directory / f"{stem}.crt", directory / f"{stem}.key"
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError too, which names no file
        raise OSError(f"{certificate}, {key}: {error}") from error


def peer_at(address: object) -> Peer:
    """The peer of a connection, from the numeric address that the kernel reports; a zone is dropped."""
    try:
        return Peer.parse(str(address).partition("%")[0])
    except ValueError:
        return UNKNOWN
