"""Limits for clients of the web server: floods, and slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from frontend_vm import settings, web
from tests.unit.frontend_vm.rig import CLIENT, DEADLINE, running


async def tls_connection(port: int, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=CLIENT, local_addr=(source, 0))


def test_a_flood_of_connections_costs_the_flooder_his_own(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 6)

    async def scenario() -> None:
        async with running(configuration) as rig:
            quiet = await tls_connection(rig.frontend.web_port, "127.0.0.2")
            flood = [await tls_connection(rig.frontend.web_port, "127.0.0.66") for _ in range(20)]
            assert not quiet[0].at_eof()
            quiet[1].write(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await asyncio.wait_for(quiet[0].readline(), DEADLINE)
            ended = 0
            for reader, writer in flood:
                with contextlib.suppress(TimeoutError):
                    ended += await asyncio.wait_for(reader.read(1), 0.05) == b""
                writer.transport.abort()
            assert ended == 15, "the control: of 20 there was room for five"
            quiet[1].transport.abort()

    asyncio.run(scenario())


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte now and then, for ever."""
    with contextlib.suppress(OSError):
        while not writer.transport.is_closing():
            for byte in data:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)


SLOW = {
    "a TLS handshake": None,
    "headers": b"X-Slow: x\r\n",
    "a body": b"x",
    "the next request": b"",
}


@pytest.mark.parametrize("what", SLOW)
def test_whoever_is_slow_for_too_long_is_closed(
    configuration: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(web, "IDLE_TIMEOUT", 0.4)
    monkeypatch.setattr(web, "BODY_TIMEOUT", 0.4)

    async def scenario() -> None:
        async with running(configuration) as rig:
            if what == "a TLS handshake":
                reader, writer = await asyncio.open_connection("127.0.0.1", rig.frontend.web_port)
                data = b"\x16\x03\x01\x40\x00" + bytes(0x4000)  # a record that takes its time
            else:
                reader, writer = await tls_connection(rig.frontend.web_port)
                data = SLOW[what] or b""
            begun = {
                "headers": b"GET / HTTP/1.1\r\nHost: x\r\n",
                "a body": b"POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 4000\r\n\r\n",
                "the next request": b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
            }
            writer.write(begun.get(what, b""))
            dripping = asyncio.create_task(drip(writer, data)) if data else None
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await asyncio.wait_for(reader.read(), 3.0)
            if dripping:
                dripping.cancel()
            writer.transport.abort()

    asyncio.run(scenario())


@pytest.mark.parametrize("reads", [True, False])
def test_whoever_takes_nothing_of_his_answers_is_closed(
    configuration: Path, monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    monkeypatch.setattr(settings, "UNACKNOWLEDGED_MS", 300)

    async def scenario() -> None:
        async with running(configuration) as rig:
            reader, writer = await tls_connection(rig.frontend.web_port)
            number = 1000
            for _ in range(number):
                writer.write(b"GET /app.js HTTP/1.1\r\nHost: x\r\n\r\n")
            if not reads:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(2.5)
                writer.transport.resume_reading()  # type: ignore[attr-defined]
            answers, end = 0, b""
            with contextlib.suppress(OSError):
                while answers < number and (chunk := await asyncio.wait_for(reader.read(65536), DEADLINE)):
                    answers += (end + chunk).count(b"HTTP/1.1 200 OK")
                    end = chunk[-14:]
            assert (answers == number) == reads, answers
            writer.transport.abort()

    asyncio.run(scenario())
