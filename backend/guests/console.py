"""Passes what QEMU prints on to the host's journal: the VM's serial console and QEMU's own messages.

Whoever controls the VM controls both. Each line becomes one entry of the journal, by its native protocol
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) and under an identifier of its own, so no content can look like another
program's entry, another priority or a second entry. Everything but printable ASCII is escaped, long lines are cut, and
a token bucket bounds their number. The supervisor logs under its own name how many were dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from pathlib import Path

from backend.protocol.rate_limit import Bucket, Clock

log = logging.getLogger("console")

JOURNAL = Path("/run/systemd/journal/socket")
VM_CONSOLE, QEMU = "vm-console", "vm-qemu"
"""Identifiers: ``journalctl -t vm-console``."""
WIDTH = 200
"""Characters of a line at most, after escaping."""
BURST, RATE = 300.0, 1 / 20
"""Lines at once, and per second. An entry takes some 600 bytes of the journal's 16 MiB, so the console alone needs days
to push other entries out. It never uses up the hourly limit of its unit (LogRateLimitBurst=), which it shares with the
supervisor."""
REPORT_BURST, REPORT_RATE = 10.0, 1 / 300
"""Reports of dropped lines: at once, and per second."""
_CHUNK = 65536
_CUT = " ..."


def escape(line: bytes) -> str:
    """A line in printable ASCII, at most `WIDTH` characters: no control character, escape sequence or line break."""
    # One byte more than fits, so that a longer line is seen to be cut; the rest could not be shown anyway.
    text = line[: WIDTH + 1].decode("latin-1").replace("\\", "\\\\")
    text = "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= WIDTH else text[: WIDTH - len(_CUT)] + _CUT


class Console:
    """One pipe that a VM writes to; it stays open while the VM is restarted.

    Attributes:
        write_end: for QEMU.
    """

    def __init__(self, name: str, journal: Path = JOURNAL, clock: Clock = time.monotonic) -> None:
        self._name = name
        self._journal = str(journal)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._bucket = Bucket(RATE, BURST, clock)
        self._reports = Bucket(REPORT_RATE, REPORT_BURST, clock)
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
        """Take bytes that were printed."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._add(piece)
            self.end_line()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        # One byte more than is shown, so that a cut is seen; a line without an end takes no more memory than that.
        self._line += piece[: WIDTH + 1 - len(self._line)]

    def end_line(self) -> None:
        """Send the line so far: it is complete, or its VM has exited."""
        line = bytes(self._line).rstrip(b"\r")
        self._line.clear()
        if not line:
            return
        if self._bucket.take() > 0.0:
            self._dropped += 1
            return
        self.report_dropped()
        fields = f"PRIORITY=6\nSYSLOG_IDENTIFIER={self._name}\nMESSAGE={escape(line)}\n"
        try:
            self._socket.sendto(fields.encode("ascii"), self._journal)
        except OSError:
            self._dropped += 1

    def report_dropped(self) -> None:
        """Log how many lines were dropped since the last report, if any; at most at `REPORT_RATE`."""
        if self._dropped and self._reports.take() == 0.0:
            log.warning("%s: %d lines dropped", self._name, self._dropped)
            self._dropped = 0

    def close(self) -> None:
        """Close the pipe and the socket."""
        self.end_line()
        self.report_dropped()
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.write_end)
        self._socket.close()
