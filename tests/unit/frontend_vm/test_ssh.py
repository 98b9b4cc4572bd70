"""The SSH command line: what it offers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import asyncssh
import msgspec
import pytest

from frontend_vm import cli, ssh
from frontend_vm.protocol.port import Fault, Ports
from frontend_vm.protocol.system import Storage
from tests.unit.frontend_vm.fake_backend import PASSWORD
from tests.unit.frontend_vm.rig import DEADLINE, expect, running, until


def test_one_command_each(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            result = await connection.run("status --json")
            assert result.exit_status == 0
            assert json.loads(str(result.stdout))["hostname"] == "sallyport"
            assert "Accelerator   kvm (" in str((await connection.run("status")).stdout)
            assert "Storage       ok\n" in str((await connection.run("status")).stdout)
            rig.backend.storage = Storage("temporary", "All is lost at the next start.")
            told = str((await connection.run("status")).stdout)
            assert "Storage       temporary: All is lost at the next start.\n" in told
            assert "Data path     mgmt0 -- ring -- vhost-user -- VM (up)" in str((await connection.run("ports")).stdout)
            assert (await connection.run("hostname edge-9")).exit_status == 0
            assert rig.backend.hostname == "edge-9"
            for bad in ("hostname -x", "hostname", "hostname a b", "nonsense", "status --yaml", "status 'x", "reboot",
                        "forwarder", "forwarder stop", "forwarder status x", "forwarder --json"):  # fmt: skip
                result = await connection.run(bad, timeout=DEADLINE)
                assert (result.exit_status, result.stdout) == (2, ""), bad
                assert result.stderr
            assert "SystemReboot" not in rig.instructions()
            assert (await connection.run("reboot --yes")).exit_status == 0
            assert "SystemReboot" in rig.instructions()

    asyncio.run(scenario())


def test_the_forwarder_is_told_in_short_in_full_and_for_programs(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            rig.backend.port_changes = {"vm_up": False, "faults": [Fault("chain_index", 3)]}
            short, full = [str((await connection.run(c)).stdout) for c in ("ports", "forwarder status")]
            for text in (short, full):
                assert "-- VM (down)" in text
                assert "3 x a descriptor index outside the table (chain_index)" in text
                assert re.search(r"^spoofed +0 +0 +2 +120$", text, re.MULTILINE)
            assert not re.search(r"^runt ", short, re.MULTILINE)
            assert re.search(r"^runt +0 +0 +0 +0$", full, re.MULTILINE)
            for command in ("ports --json", "forwarder status --json"):
                result = await connection.run(command)
                told = msgspec.json.decode(str(result.stdout).encode(), type=Ports).ports[0]
                assert (told.way, told.vm, told.vm_up) == ("ring", "vhost-user", False)
                assert told.faults == [Fault("chain_index", 3)]
                assert len(told.verdicts) == 28
            assert "forwarder status [--json]" in str((await connection.run("help")).stdout)
            result = await connection.run("forwarder")
            assert (result.exit_status, result.stderr) == (2, "usage: forwarder status [--json]\n")

    asyncio.run(scenario())


def test_session_lives_as_long_as_the_connection(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            async with await rig.ssh() as connection:
                assert len(rig.backend.tokens) == 1
                rig.backend.tokens.clear()
                result = await connection.run("status")
                assert (result.exit_status, result.stdout) == (1, "")
                assert "log in again" in str(result.stderr)
            async with await rig.ssh():
                assert len(rig.backend.tokens) == 1
            await until(lambda: not rig.backend.tokens)

    asyncio.run(scenario())


def test_backend_away(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            rig.backend.stop()
            await until(lambda: not rig.frontend.link.up)
            result = await connection.run("status")
            assert (result.exit_status, result.stderr) == (1, "The backend is not reachable.\n")

    asyncio.run(scenario())


def test_interactive(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            rig.backend.last_exit = "killed \x1b]0;owned\x07"
            async with connection.create_process(term_type="xterm", term_size=(200, 50)) as process:
                await expect(process, "sallyport> ")
                process.stdin.write("sta\t\n")
                seen = await expect(process, "sallyport> ")
                assert "killed ?]0;owned?" in seen
                assert "\x1b]" not in seen
                process.stdin.write("hostname gäte\n")
                assert "hostname gäte" in await expect(process, "sallyport> ")
                process.stdin.write("hostname gate\n")
                await expect(process, "gate> ")
                process.stdin.write("reboot\n")
                await expect(process, "Type yes: ")
                process.stdin.write("no\n")
                await expect(process, "gate> ")
                assert "SystemReboot" not in rig.instructions()
                process.stdin.write("password\n")
                shown = await expect(process, "Present password: ")
                process.stdin.write(rig.backend.password + "\n")
                shown += await expect(process, "New password: ")
                process.stdin.write("a better password\n")
                shown += await expect(process, "again: ")
                process.stdin.write("a better password\n")
                shown += await expect(process, "gate> ")
                assert rig.backend.password == "a better password"
                assert "better" not in shown
                process.stdin.write("\x1b[A\x1b[A\n")  # history: commands, neither answers nor passwords
                assert "better" not in await expect(process, "Type yes: ")
                process.stdin.write("\x03")
                await expect(process, "gate> ")
                process.stdin.write("exit\n")
                result = await asyncio.wait_for(process.wait(), DEADLINE)
                assert result.exit_status == 0

    asyncio.run(scenario())


PROMPTS = {
    "command": (),
    "reboot": ("reboot",),
    "present password": ("password",),
    "new password": ("password", PASSWORD),
    "new password again": ("password", PASSWORD, "a better password"),
}
LATER = {
    "command": "reboot --yes",
    "reboot": "yes",
    "present password": PASSWORD,
    "new password": "a better password",
    "new password again": "a better password",
}


@pytest.mark.parametrize("key", ["\x03", "\x1c", "\x07", "\x04", "INT", "BREAK"], ids=ascii)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_cancelled_prompt_does_nothing_whatever_is_typed_next(configuration: Path, prompt: str, key: str) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            async with connection.create_process(term_type="xterm", term_size=(200, 50)) as process:
                await expect(process, "sallyport> ")
                for line in PROMPTS[prompt]:
                    process.stdin.write(f"{line}\n")
                    await expect(process, ": ")
                if key == "INT":
                    process.stdin.write(LATER[prompt])
                    process.send_signal("INT")
                elif key == "BREAK":
                    process.stdin.write(LATER[prompt])
                    process.send_break(0)
                elif key == "\x04":  # Ctrl-D cancels where the line is empty
                    process.stdin.write(f"{LATER[prompt]}\x15{key}" if prompt != "command" else "x\x04\x7f")
                else:
                    process.stdin.write(LATER[prompt] + key)
                if (prompt, key) != ("command", "\x04"):
                    shown = await expect(process, "sallyport> ")
                    assert ("nothing was changed" in shown) == (prompt != "command")
                process.stdin.write("\nyes\nexit\n")
                assert "unknown command: yes" in str((await asyncio.wait_for(process.wait(), DEADLINE)).stdout)
            assert not {"SystemReboot", "PasswordSet"} & set(rig.instructions())
            assert rig.backend.password == PASSWORD

    asyncio.run(scenario())


def test_a_line_that_is_too_long_is_not_carried_out_in_part(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            long = "reboot --yes" + " " * 1100
            async with connection.create_process(term_type="xterm", term_size=(200, 50)) as process:
                await expect(process, "sallyport> ")
                process.stdin.write(f"{long}\n")
                assert "too long" in await expect(process, "sallyport> ")
                process.stdin.write("reboot\n")
                await expect(process, ": ")
                process.stdin.write(f"yes{' ' * 1100}\n")
                assert "too long" in await expect(process, "sallyport> ")
                process.stdin.write("exit\n")
            for result in (await connection.run(long), await connection.run(None, input=f"{long}\nexit")):
                assert result.exit_status in (0, 2)
                assert "too long" in str(result.stderr)
            assert "SystemReboot" not in rig.instructions()
            assert (await connection.run("reboot --yes ")).exit_status == 0, "the control"
            assert "SystemReboot" in rig.instructions()

    asyncio.run(scenario())


def test_lines_without_a_terminal(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            result = await connection.run(None, input="hostname gate\npassword\n")
            assert rig.backend.hostname == "gate"
            assert result.exit_status == 2
            assert "needs a terminal" in str(result.stderr)

    asyncio.run(scenario())


def test_wrong_password_and_other_methods(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            with pytest.raises(asyncssh.PermissionDenied):
                await rig.ssh(password="wrong")
            assert rig.instructions() == ["SessionOpen"]
            methods = await asyncssh.get_server_auth_methods(
                "127.0.0.1", rig.frontend.ssh_port, username="admin", config=None
            )
            assert list(methods) == ["password"]

    asyncio.run(scenario())


def test_tries_are_bounded(configuration: Path) -> None:
    class Guesser(asyncssh.SSHClient):
        tries = 0

        def password_auth_requested(self) -> str:
            self.tries += 1
            return f"guess {self.tries}"

    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.frontend.ssh_ready.wait()
            with pytest.raises((asyncssh.DisconnectError, ConnectionError)):
                await asyncssh.connect(
                    "127.0.0.1",
                    rig.frontend.ssh_port,
                    username="admin",
                    client_factory=Guesser,
                    known_hosts=None,
                    config=None,
                    client_keys=None,
                )
            assert rig.instructions() == ["SessionOpen"] * ssh.MAX_TRIES

    asyncio.run(scenario())


def test_forwarding_and_file_transfer_are_refused(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection("127.0.0.1", rig.backend.port)
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_unix_connection("/run/x")
            with pytest.raises(asyncssh.ChannelListenError):
                await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 9)
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.start_sftp_client()
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.create_process(subsystem="netconf")
            result = await connection.run("scp -t /tmp")
            assert result.exit_status == 2
            assert (await connection.run("help")).exit_status == 0, "the control"

    asyncio.run(scenario())


def test_channels_of_one_connection_are_bounded(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            shells = [await connection.create_process(term_type="xterm") for _ in range(ssh.MAX_CHANNELS)]
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run("help")
            shells[0].stdin.write("exit\n")
            await asyncio.wait_for(shells[0].wait(), DEADLINE)
            assert (await connection.run("help")).exit_status == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sta", ("status ", 7)),
        ("fo", ("forwarder status ", 17)),
        ("forwarder s", ("forwarder status ", 17)),
        ("p", False),
        ("", False),
        ("x", False),
        ("hostname e", False),
    ],
)
def test_completion(line: str, expected: object) -> None:
    assert cli.complete(line, len(line)) == expected


def test_figures_for_people() -> None:
    assert [cli.duration(s) for s in (5, 65, 3660, 90000)] == ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]
    assert [cli.size(b) for b in (7, 2048, 3 << 20, 5 << 30)] == ["7 B", "2 KiB", "3 MiB", "5.0 GiB"]
