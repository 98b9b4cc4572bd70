"""Facts about a network interface that need no privilege: netdevice(7), proc_net(5)."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS = 0x8913
_SIOCGIFHWADDR = 0x8927
_IFF_RUNNING = 0x40
_IFNAMSIZ = 16
STATISTICS = Path("/proc/thread-self/net/dev")


@dataclass(frozen=True)
class Facts:
    """One interface now. ``rx`` and ``tx`` are (frames, bytes) since it exists."""

    mac: str
    carrier: bool
    rx: tuple[int, int]
    tx: tuple[int, int]


class Interface:
    """One network interface of this process' network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def _ask(self, request: int) -> bytes:
        return fcntl.ioctl(self._socket, request, struct.pack(f"{_IFNAMSIZ}s24x", self.name.encode()))

    def facts(self) -> Facts:
        """Ask the kernel.

        Raises:
            OSError: there is no such interface (ENODEV), or /proc cannot be read.
        """
        (flags,) = struct.unpack_from("=H", self._ask(_SIOCGIFFLAGS), _IFNAMSIZ)
        mac = self._ask(_SIOCGIFHWADDR)[_IFNAMSIZ + 2 : _IFNAMSIZ + 8].hex(":")
        for line in STATISTICS.read_text().splitlines():
            name, colon, numbers = line.partition(":")
            if colon and name.strip() == self.name:
                # bytes packets errs drop fifo frame compressed multicast, and again for what was sent
                columns = [int(number) for number in numbers.split()]
                return Facts(mac, bool(flags & _IFF_RUNNING), (columns[1], columns[0]), (columns[9], columns[8]))
        raise OSError(f"{STATISTICS} has no {self.name}")

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
