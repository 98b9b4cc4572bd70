"""Heartbeats of the front-end, passed on from the backend to the VM's supervisor over a unix datagram socket."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from pathlib import Path

log = logging.getLogger("heartbeat")

_DATAGRAM = struct.Struct("=4sd")
_MARK = b"beat"
DATAGRAM_BYTES = _DATAGRAM.size


def encode(connected_at: float) -> bytes:
    """The datagram for one heartbeat.

    Args:
        connected_at: when the connection that the heartbeat came over was accepted, in seconds of CLOCK_MONOTONIC. It
            tells which start of the VM sent it: a heartbeat may be queued while the VM is restarted.
    """
    return _DATAGRAM.pack(_MARK, connected_at)


def decode(datagram: bytes) -> float | None:
    """The time that `encode` was given; None if the datagram has another form."""
    if len(datagram) != DATAGRAM_BYTES:
        return None
    mark, connected_at = _DATAGRAM.unpack(datagram)
    return float(connected_at) if mark == _MARK else None


class Heartbeats:
    """The backend's end: never blocks. Heartbeats are dropped while the supervisor does not run or does not read."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._warned = False

    def beat(self, connected_at: float) -> None:
        """Send one heartbeat that came over a connection accepted at that time, in seconds of CLOCK_MONOTONIC."""
        # The supervisor has not started; it has ended; its queue is full.
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            try:
                self._socket.sendto(encode(connected_at), self._path)
            except PermissionError as error:
                if not self._warned:
                    log.error(
                        "cannot pass heartbeats on, so the VM will be restarted: %s: %s", self._path, error.strerror
                    )
                self._warned = True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
