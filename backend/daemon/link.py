"""The backend's end of the link: a listening socket bound to one interface, and TLS for one peer."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from socket import (
    AF_INET,
    IPPROTO_TCP,
    SO_BINDTODEVICE,
    SO_KEEPALIVE,
    SO_RCVBUF,
    SO_REUSEADDR,
    SO_SNDBUF,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_USER_TIMEOUT,
    socket,
)

from backend.common import store
from backend.daemon.settings import Settings

CERTIFICATE_LIMIT = 16384
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (OpenSSL x509_vfy.h; the ssl module has no name for it)."""
BACKLOG = 8
SOCKET_BUFFER = 32768
"""Bytes; the kernel doubles it."""

# A VM that is killed does not close its connections; after its restart, its stack answers keepalives with a reset.
# Seconds, seconds, number of probes (tcp(7)).
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 5, 2, 3
UNACKNOWLEDGED_MS = 10_000


@dataclass(frozen=True)
class LinkKeys:
    """TLS for one boot.

    Attributes:
        context: TLS 1.3 only; requires a client certificate.
        peer: The only certificate that is accepted from the peer, DER.
    """

    context: ssl.SSLContext
    peer: bytes


def load_keys(folder: Path) -> LinkKeys:
    """Load `backend.crt`, `backend.key` and `frontend.crt`.

    The certificates are made at every boot and compared byte by byte. Their dates are not checked: a clock that jumps
    (NTP, empty battery) must not lock the operator out.

    Raises:
        OSError (also ssl.SSLError), ValueError: a file is missing or damaged.
    """
    peer = ssl.PEM_cert_to_DER_cert(store.read(folder / "frontend.crt", CERTIFICATE_LIMIT).decode("ascii").strip())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | NO_CHECK_TIME)
    context.num_tickets = 0
    context.load_cert_chain(folder / "backend.crt", folder / "backend.key", password="")
    context.load_verify_locations(cadata=peer)
    return LinkKeys(context, peer)


def listen(settings: Settings) -> socket:
    """The listening socket.

    Raises:
        OSError: the address is not configured, or the socket cannot be bound to the interface. The latter must fail:
            Linux delivers packets for this address from any interface to a socket that is not bound to one.
    """
    listener = socket(AF_INET, SOCK_STREAM)
    try:
        if settings.device:
            # Needs no privilege since Linux 5.7 while the socket is not bound to a device yet (socket(7)).
            listener.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, settings.device.encode() + b"\0")
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        # Accepted sockets inherit all of these.
        # Without fixed sizes, each connection's buffers could grow to megabytes of the host's memory (tcp(7)).
        listener.setsockopt(SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER)
        listener.setsockopt(SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER)
        listener.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        listener.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE)
        listener.setsockopt(IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        listener.setsockopt(IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT)
        listener.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        listener.bind((settings.address, settings.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
