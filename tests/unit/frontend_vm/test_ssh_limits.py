"""Limits for SSH clients: floods before login, idle operators, channels without a request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import asyncssh
import paramiko
import pytest

from frontend_vm import ssh
from tests.unit.frontend_vm.fake_backend import PASSWORD
from tests.unit.frontend_vm.rig import DEADLINE, Rig, paramiko_login, running, until


async def stranger(port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))


class Typist(asyncssh.SSHClient):
    """Takes a while to type his password, and a flood that nobody waits for meanwhile."""

    port = 0
    flood: list[asyncio.StreamWriter]

    async def password_auth_requested(self) -> str:
        for _ in range(3 * ssh.MAX_UNAUTHENTICATED):  # more than three a second for four seconds
            self.flood.append((await stranger(self.port, "127.0.0.66"))[1])
            await asyncio.sleep(0.005)
        return PASSWORD


@pytest.mark.parametrize("flooded_before", [False, True])
def test_who_types_slowly_is_not_cut_off_by_a_flood(configuration: Path, *, flooded_before: bool) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.frontend.ssh_ready.wait()
            Typist.port, Typist.flood = rig.frontend.ssh_port, []
            if flooded_before:
                for _ in range(2 * ssh.MAX_UNAUTHENTICATED):
                    Typist.flood.append((await stranger(Typist.port, "127.0.0.66"))[1])
            async with await rig.ssh(password=None, client_factory=Typist, local_addr=("127.0.0.2", 0)) as connection:
                assert (await connection.run("help")).exit_status == 0
            for writer in Typist.flood:
                writer.transport.abort()

    asyncio.run(scenario())


def test_a_login_takes_the_place_of_who_was_idle_longest(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            held = [await rig.ssh() for _ in range(ssh.MAX_OPERATORS)]
            assert (await held[0].run("help")).exit_status == 0
            async with await rig.ssh() as ninth:
                assert (await ninth.run("help")).exit_status == 0
                with pytest.raises((asyncssh.ConnectionLost, asyncssh.DisconnectError, asyncssh.ChannelOpenError)):
                    await held[1].run("help", check=True)
                for other in (held[0], *held[2:]):
                    assert (await other.run("help")).exit_status == 0
                await until(lambda: len(rig.backend.tokens) == ssh.MAX_OPERATORS)
            for connection in held:
                connection.abort()

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["no channel", "a channel without a command", "a prompt", "a prompt that is typed at",
                                  "a question", "keepalives", "lines that nobody ends"])  # fmt: skip
def test_idle_ends_everywhere(configuration: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(ssh, "IDLE_TIMEOUT", 0.3)

    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as busy:
            idle = await rig.ssh(keepalive_interval=0.1 if what == "keepalives" else 0)

            async def keys() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        process.stdin.write("x")
                        await asyncio.sleep(0.05)

            typing = None
            if what == "a channel without a command":
                idle.abort()
                # asyncssh's client has no such channel.
                held = await asyncio.to_thread(paramiko_login, rig.frontend.ssh_port, PASSWORD)
                await asyncio.to_thread(held.get_transport().open_session)  # type: ignore[union-attr]
            elif what in ("a prompt", "a prompt that is typed at", "a question", "lines that nobody ends"):
                term = None if what == "lines that nobody ends" else "xterm"
                process = await idle.create_process(term_type=term)
                if what == "a question":
                    process.stdin.write("reboot\n")
                elif what != "a prompt":
                    typing = asyncio.create_task(keys())
            began = time.monotonic()
            while time.monotonic() < began + 0.8:
                assert (await busy.run("help")).exit_status == 0, "the control: who does something is not idle"
                await asyncio.sleep(0.05)
            await asyncio.wait_for(idle.wait_closed(), DEADLINE)
            await until(lambda: len(rig.backend.tokens) == 1)
            if typing:
                typing.cancel()

    asyncio.run(scenario())


def test_channels_that_ask_for_nothing_count(configuration: Path) -> None:
    def attempt(port: int) -> None:
        with paramiko_login(port, PASSWORD) as client:
            transport = client.get_transport()
            assert transport is not None
            channels = [transport.open_session() for _ in range(ssh.MAX_CHANNELS)]
            with pytest.raises(paramiko.ChannelException):
                transport.open_session()
            channels[0].close()
            time.sleep(0.2)
            channels[0] = transport.open_session()

    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.frontend.ssh_ready.wait()
            await asyncio.to_thread(attempt, rig.frontend.ssh_port)

    asyncio.run(scenario())


def test_stranger_cannot_make_us_collect_a_huge_packet(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.frontend.ssh_ready.wait()
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.frontend.ssh_port)
            assert await reader.readline() == b"SSH-2.0-Sallyport\r\n"
            writer.write(b"SSH-2.0-x\r\n" + (1 << 30).to_bytes(4, "big"))
            await flood(rig, writer)

    async def flood(rig: Rig, writer: asyncio.StreamWriter) -> None:
        for _ in range(64):
            if writer.transport.is_closing():
                return
            writer.write(b"\0" * ssh.MAX_UNAUTHENTICATED_BYTES)
            await asyncio.sleep(0.01)
        pytest.fail("4 MiB of a first packet were taken")

    asyncio.run(scenario())
