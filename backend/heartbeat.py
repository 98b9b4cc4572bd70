"""Passes the front-end's heartbeats on to the supervisor of the VM."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

log = logging.getLogger("heartbeat")

BEAT = b"beat"
"""The whole datagram: the supervisor's unix(7) datagram socket learns that the VM lives, and nothing else."""


class Heartbeats:
    """A datagram socket to the supervisor that never blocks; a supervisor that is not there misses beats."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._warned = False

    def beat(self) -> None:
        """Send one beat."""
        # FileNotFoundError: not started; ConnectionRefusedError: gone; BlockingIOError: its queue is full.
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            try:
                self._socket.sendto(BEAT, self._path)
            except PermissionError as error:
                if not self._warned:
                    log.error("%s: %s", self._path, error.strerror)
                self._warned = True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
