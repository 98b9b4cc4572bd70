"""A bounded pcapng file of everything that crossed a wire (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

LINKTYPE_ETHERNET = 1
INBOUND, OUTBOUND = 1, 2  # epb_flags, bits 0-1


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


class Capture:
    """Writes frames with direction and wall-clock time in nanoseconds; stops at ``limit`` bytes and says so."""

    def __init__(self, path: Path, limit: int = 256 << 20) -> None:
        self.path = path
        self.limit = limit
        self.skipped = 0
        """Frames that no longer fitted."""
        self._size = 0
        self._lock = threading.Lock()
        self._file = path.open("wb")
        self._write(_block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
        resolution = struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)  # if_tsresol = 10^-9 s, opt_endofopt
        self._write(_block(1, struct.pack("<HHI", LINKTYPE_ETHERNET, 0, 0) + resolution))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)

    def add(self, raw: bytes, direction: int) -> None:
        """Append one frame; safe from any thread, and a no-op once closed or full."""
        now = time.time_ns()
        body = struct.pack("<IIIII", 0, now >> 32, now & 0xFFFFFFFF, len(raw), len(raw)) + raw + bytes(-len(raw) % 4)
        block = _block(6, body + struct.pack("<HHIHH", 2, 4, direction, 0, 0))
        with self._lock:
            if self._file.closed:
                return
            if self._size + len(block) > self.limit:
                self.skipped += 1
            else:
                self._write(block)

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        with self._lock:
            self._file.close()
