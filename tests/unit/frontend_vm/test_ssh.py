"""The SSH command line: what it offers, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
import unicodedata
from pathlib import Path

import asyncssh
import msgspec
import paramiko
import pytest

from backend import opaque
from frontend_vm import cli, ssh
from frontend_vm.instructions import Fault, Ports
from tests.unit.frontend_vm.fake_backend import PASSWORD
from tests.unit.frontend_vm.rig import DEADLINE, Rig, running, until


def test_one_command_each(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            result = await connection.run("status --json")
            assert result.exit_status == 0
            assert json.loads(str(result.stdout))["hostname"] == "sallyport"
            assert "Accelerator   kvm (" in str((await connection.run("status")).stdout)
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


async def expect(process: asyncssh.SSHClientProcess[str], text: str) -> str:
    """Read until a text has come."""
    seen = ""
    async with asyncio.timeout(DEADLINE):
        while text not in seen:
            chunk = await process.stdout.read(4096)
            assert chunk, f"ended after {seen!r}"
            seen += chunk
    return seen


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


async def stranger(port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))


class Typist(asyncssh.SSHClient):
    """Takes a while to type his password, and a flood that nobody waits for meanwhile."""

    port = 0
    flood: list[asyncio.StreamWriter]

    async def password_auth_requested(self) -> str:
        for _ in range(3 * ssh.MAX_STRANGERS):  # more than three a second for four seconds
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
                for _ in range(2 * ssh.MAX_STRANGERS):
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


PASSWORDS = [
    "correct horse²", "corre\u0301ct horse", "corréct horse", "correct\u00a0horse\u3000x", "correct horse 🐎🔋",
    "סיסמה ארוכה 123", "abc كلمة السر def", "₹₽ẞ correct horse", "ﬁsh ①②③ Ⅳ ㎏ \uff46\uff55\uff4c\uff4c",
    "\u1100\u1161\u11a8 correct horse", "  spaces at ends  ", "q\u0307\u0323 correct horse", "\u0130stanbul \u0131Ii ß",
    "".join(map(chr, range(33, 127))), "\U0001f40e" * 128,
]  # fmt: skip


def some_passwords(number: int) -> list[str]:
    """Random strings of all planes that may be set, beside those above."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    found: list[str] = []
    planes = [char for char in map(chr, range(0x20000)) if not opaque.objection(f"correct horse{char}")]
    while len(found) < number:
        text = "".join(rng.choices(planes, k=rng.randrange(12, 60)))
        if not opaque.objection(text):
            found.append(text)
    return found


def test_a_password_set_by_one_way_works_by_all(configuration: Path) -> None:
    """Set over the API or at the prompt; log in over the API, by asyncssh and by paramiko, in either Unicode form."""

    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            for number, password in enumerate([*PASSWORDS, *some_passwords(25)]):
                if number % 2:
                    change = {"old": rig.backend.password, "new": password}
                    assert (await rig.call("PUT", "/api/v1/password", change)).code == 200, ascii(password)
                else:
                    async with await rig.ssh(rig.backend.password) as connection:
                        said = await set_password(connection, rig.backend.password, password)
                        assert "Changed." in said, ascii(password)
                assert rig.backend.password == password
                for form in {password, *(unicodedata.normalize(form, password) for form in ("NFC", "NFD"))}:
                    assert (await rig.log_in(form)).code == 200, ascii(form)
                    async with await rig.ssh(form):
                        pass
                    (await asyncio.to_thread(paramiko_login, rig.frontend.ssh_port, form)).close()
            for wrong in "correct horse2", "correct horse\ufffd", "x" * 300:
                assert (await rig.log_in(wrong)).code == 401, "the control"
                with pytest.raises(asyncssh.PermissionDenied):
                    await rig.ssh(wrong)
                with pytest.raises(paramiko.AuthenticationException):
                    await asyncio.to_thread(paramiko_login, rig.frontend.ssh_port, wrong)

    asyncio.run(scenario())


async def set_password(connection: asyncssh.SSHClientConnection, old: str, new: str) -> str:
    """Change the password at the prompt; gives what was said about it."""
    async with connection.create_process(term_type="xterm", term_size=(200, 50)) as process:
        await expect(process, "> ")
        process.stdin.write("password\n")
        for answer in (old, new, new):
            await expect(process, ": ")
            process.stdin.write(f"{answer}\n")
        said = await expect(process, "> ")
        process.stdin.write("exit\n")
    return said


def paramiko_login(port: int, password: str) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", port, "admin", password, allow_agent=False, look_for_keys=False)
    return client


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "12 to 128"),
        (f"correct horse{chr(0x200D)}", "U+200D"),
        ("e\u0301" * 8, "this one has 8"),
        ("x" * 300, "12 to 128"),
    ],
)
def test_a_password_that_cannot_be_is_refused_with_the_same_reason(
    configuration: Path, password: str, why: str
) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            said = await set_password(connection, PASSWORD, password)
            assert why in said
            assert "nothing was changed" in said
            await rig.log_in()
            response = await rig.call("PUT", "/api/v1/password", {"old": PASSWORD, "new": password})
            assert response.code == 400
            assert why in json.loads(response.body)["error"]["message"]
            assert rig.backend.password == PASSWORD

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
            writer.write(b"\0" * ssh.MAX_STRANGER_BYTES)
            await asyncio.sleep(0.01)
        pytest.fail("4 MiB of a first packet were taken")

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
