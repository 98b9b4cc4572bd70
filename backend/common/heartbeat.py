"""Passes the front-end's heartbeats on to the supervisor of the VM."""

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
    """The whole datagram: the supervisor's unix(7) datagram socket learns that the VM lives, and nothing else.

    Args:
        connected_at: when the connection that the beat came over was accepted, in seconds of CLOCK_MONOTONIC. Beats may
            wait on their way while their VM ends and the next one starts; this tells whose they are.
    """
    return _DATAGRAM.pack(_MARK, connected_at)


def decode(datagram: bytes) -> float | None:
    """What `encode` was given; None when it did not make this."""
    if len(datagram) != DATAGRAM_BYTES:
        return None
    mark, connected_at = _DATAGRAM.unpack(datagram)
    return float(connected_at) if mark == _MARK else None


class Heartbeats:
    """A datagram socket to the supervisor that never blocks; a supervisor that is not there misses beats."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._warned = False

    def beat(self, connected_at: float) -> None:
        """Send one beat that came over a connection accepted then, in seconds of CLOCK_MONOTONIC."""
        # FileNotFoundError: not started; ConnectionRefusedError: gone; BlockingIOError: its queue is full.
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            try:
                self._socket.sendto(encode(connected_at), self._path)
            except PermissionError as error:
                if not self._warned:
                    log.error("%s: %s", self._path, error.strerror)
                self._warned = True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
