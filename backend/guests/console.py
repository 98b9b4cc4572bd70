"""What QEMU prints, to the host's journal: the VM's serial console and QEMU's own messages.

Both come from whoever holds the VM. Each line enters the journal as an entry of its own, by the journal's native
protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) and under its own identifier, so no content can look like another
program's entry, another priority or a second entry; what is no printable ASCII is escaped, long lines are cut, and a
token bucket bounds how many there are. The supervisor says under its own name how many were left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from pathlib import Path

from backend.common.limits import Bucket, Clock

log = logging.getLogger("console")

JOURNAL = Path("/run/systemd/journal/socket")
VM_CONSOLE, QEMU = "vm-console", "vm-qemu"
"""Identifiers: ``journalctl -t vm-console``."""
WIDTH = 200
"""Characters of a line at most, after escaping."""
BURST, RATE = 300.0, 1 / 20
"""Lines at once, and per second. An entry takes some 600 bytes of the journal's 16 MiB, so at its worst the console
alone would need days to push out what others said; and in no hour does it use up what its unit may say
(LogRateLimitBurst=), so that the supervisor is always heard beside it."""
MENTIONS, MENTION_RATE = 10.0, 1 / 300
"""How often it is said that lines were dropped: at once, and per second."""
_CHUNK = 65536
_CUT = " ..."


def harmless(line: bytes) -> str:
    """A line in printable ASCII, at most `WIDTH` characters: no control character, escape sequence or line break."""
    # More of it is never shown, however little it is escaped.
    text = line[: WIDTH + 1].decode("latin-1").replace("\\", "\\\\")
    text = "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= WIDTH else text[: WIDTH - len(_CUT)] + _CUT


class Console:
    """One pipe whose other end a VM writes to; it stays open while VMs come and go.

    Attributes:
        write_end: for QEMU.
    """

    def __init__(self, name: str, journal: Path = JOURNAL, clock: Clock = time.monotonic) -> None:
        self._name = name
        self._journal = str(journal)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._bucket = Bucket(RATE, BURST, clock)
        self._mentions = Bucket(MENTION_RATE, MENTIONS, clock)
        self._line = bytearray()
        self._dropped = 0
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    def start(self) -> None:
        """Read from now on, in the running event loop."""
        asyncio.get_running_loop().add_reader(self._read_end, self._ready)

    def _ready(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.feed(os.read(self._read_end, _CHUNK))

    def feed(self, data: bytes) -> None:
        """Take what was printed."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._add(piece)
            self.end_line()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        # One character more than is shown, so that it shows that it was cut; who never ends his line gets no memory.
        self._line += piece[: WIDTH + 1 - len(self._line)]

    def end_line(self) -> None:
        """Send what is there of a line: it has ended, or its VM has."""
        line = bytes(self._line).rstrip(b"\r")
        self._line.clear()
        if not line:
            return
        if self._bucket.take() > 0.0:
            self._dropped += 1
            return
        self.tell_dropped()
        fields = f"PRIORITY=6\nSYSLOG_IDENTIFIER={self._name}\nMESSAGE={harmless(line)}\n"
        try:
            self._socket.sendto(fields.encode("ascii"), self._journal)
        except OSError:
            self._dropped += 1

    def tell_dropped(self) -> None:
        """Say how many lines were left out, if any were, and not more often than now and then."""
        if self._dropped and self._mentions.take() == 0.0:
            log.warning("%s: %d lines dropped", self._name, self._dropped)
            self._dropped = 0

    def close(self) -> None:
        """Close the pipe and the socket."""
        self.end_line()
        self.tell_dropped()
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.write_end)
        self._socket.close()
