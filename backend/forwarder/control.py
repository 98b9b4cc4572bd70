"""The forwarder's own control socket: status and the capture switch, for whoever is root on the host."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.forwarder.capture import Capture
from backend.forwarder.errors import ForwarderError
from backend.protocol.port import Port

RUN = Path("/run/sallyport/port")
CAPTURE_NAME = "capture.pcapng"
CAPTURE_LIMIT = 4 << 20
"""Bytes of a capture whose request names no limit. The file is in /run, which is memory."""
MAX_CAPTURE = 32 << 20
LINE = 4096
DEADLINE_S = 5.0


class StatusAsk(Struct, frozen=True, forbid_unknown_fields=True, tag="status"):
    """Ask for the port's state and counters."""


class CaptureStart(Struct, frozen=True, forbid_unknown_fields=True, tag="capture.start"):
    """Write frames to a file of at most ``limit`` bytes, from now on."""

    limit: Annotated[int, Meta(ge=4096, le=MAX_CAPTURE)] = CAPTURE_LIMIT


class CaptureStop(Struct, frozen=True, forbid_unknown_fields=True, tag="capture.stop"):
    """End the capture."""


class Answer(Struct, frozen=True):
    """What the forwarder answers. ``problem`` says why it did not do what was asked; empty if it did."""

    problem: str = ""
    port: Port | None = None
    capture: dict[str, int] = {}
    file: str = ""


Ask = StatusAsk | CaptureStart | CaptureStop
_decoder = msgspec.json.Decoder(Ask)


class Control:
    """Answers one line of JSON per connection."""

    def __init__(self, capture: Capture, status: Callable[[], Awaitable[Port]], run: Path = RUN) -> None:
        self._capture = capture
        self._status = status
        self._file = run / CAPTURE_NAME

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                line = await reader.readline()
            writer.write(msgspec.json.encode(await self._carry_out(_decoder.decode(line))))
            await writer.drain()
        except (OSError, ValueError, ForwarderError, msgspec.DecodeError) as error:
            writer.write(msgspec.json.encode(Answer(problem=str(error) or type(error).__name__)))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _carry_out(self, ask: Ask) -> Answer:
        match ask:
            case CaptureStart():
                self._start(ask.limit)
            case CaptureStop() if not self._capture.capture_stop():
                return Answer(problem="no capture is running")
        file = str(self._file) if self._file.exists() else ""
        return Answer(port=await self._status(), capture=self._capture.capture_state(), file=file)

    def _start(self, limit: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        new = self._file.with_suffix(".new")
        descriptor = os.open(new, flags, 0o600)
        try:
            self._capture.capture_start(descriptor, limit)
            new.rename(self._file)
        finally:
            os.close(descriptor)
            new.unlink(missing_ok=True)


async def ask(request: Ask, run: Path = RUN) -> Answer:
    """Ask the running forwarder.

    Raises:
        ForwarderError: none is running, or this user may not connect to its socket.
    """
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(run / "control.sock")
            writer.write(msgspec.json.encode(request) + b"\n")
            answer = await reader.read()
            writer.close()
        return msgspec.json.decode(answer, type=Answer)
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        raise ForwarderError(
            f"no forwarder answers at {run / 'control.sock'}: {error or type(error).__name__}",
            "is sallyport-port.service running, and are you root?",
        ) from error
