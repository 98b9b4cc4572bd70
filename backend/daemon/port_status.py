"""Asks the process that holds the management port for its counters."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from backend.protocol.port import Ports
from backend.protocol.rate_limit import Clock

LIMIT = 65536
"""Bytes of one answer."""
DEADLINE_S = 3.0
FRESH_S = 0.5
"""Seconds for which an answer is reused: a flood of ``ports.list`` must not cause a flood of netlink dumps."""

_decoder = msgspec.json.Decoder(Ports)


class PortStatus:
    """Client of the status socket of the forwarder: connects, and reads one `Ports` in JSON until the end.

    The forwarder faces the management network, so its answer is not trusted: its size and time are limited, and it is
    decoded into types.
    """

    def __init__(self, path: Path, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ports: Ports | None = None
        self._read_at = 0.0

    async def get(self) -> Ports:
        """The counters, at most `FRESH_S` seconds old.

        Raises:
            OSError: nobody answers (TimeoutError is one).
            ValueError, msgspec.DecodeError: the answer is too long or not a `Ports`.
        """
        async with self._lock:
            if self._ports is None or self._clock() - self._read_at >= FRESH_S:
                self._ports = None
                self._ports = _decoder.decode(await self._read())
                self._read_at = self._clock()
            return self._ports

    async def _read(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(self._path, limit=LIMIT)
            try:
                answer = bytearray()
                while chunk := await reader.read(LIMIT):
                    answer += chunk
                    if len(answer) > LIMIT:
                        raise ValueError(f"the answer is longer than {LIMIT} bytes")
                return bytes(answer)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
