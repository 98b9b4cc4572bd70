"""Logging in to the whole chain, front-end, link and backend as they are, while somebody else floods it."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import asyncssh

from backend.daemon.main import Daemon
from backend.daemon.settings import Settings as HostSettings
from frontend_vm import ssh
from frontend_vm.app import Frontend
from frontend_vm.settings import Settings
from tests.unit.backend.conftest import started
from tests.unit.frontend_vm.keys import make_configuration
from tests.unit.frontend_vm.rig import CLIENT, until

FLOODER, OPERATOR = "127.0.0.66", "127.0.0.2"
MARKER = "sallyport: first password for admin: "
TYPING_S = 2.0


class Chain:
    """A host and its VM in this process."""

    def __init__(self, daemon: Daemon, frontend: Frontend, console: list[str]) -> None:
        self.daemon = daemon
        self.frontend = frontend
        self.password = next(line for line in console if line.startswith(MARKER)).removeprefix(MARKER)

    async def web_login(self, source: str, password: str) -> int:
        """Log in over the API from an address; the status."""
        body = json.dumps({"user": "admin", "password": password}).encode()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.frontend.web_port, ssl=CLIENT, local_addr=(source, 0)
        )
        writer.write(
            b"POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        try:
            return int((await reader.readline()).split()[1])
        finally:
            writer.transport.abort()

    async def ssh_login(self, source: str, password: str, typing_s: float = 0.0) -> asyncssh.SSHClientConnection:
        class Typist(asyncssh.SSHClient):
            async def password_auth_requested(self) -> str:
                await asyncio.sleep(typing_s)
                return password

        return await asyncssh.connect(
            "127.0.0.1", self.frontend.ssh_port, username="admin", client_factory=Typist, known_hosts=None, config=None,
            client_keys=None, local_addr=(source, 0),
        )  # fmt: skip


@asynccontextmanager
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    for name in "link", "data", "request", "vm":
        (tmp_path / name).mkdir()
    make_configuration(tmp_path / "vm")
    for name, there in (("backend.key", "backend.key"), ("backend.crt", "backend.crt"), ("link.crt", "frontend.crt")):
        shutil.copy(tmp_path / "vm" / name, tmp_path / "link" / there)
    started(tmp_path / "state.json")
    console: list[str] = []
    async with Daemon(HostSettings.under(tmp_path), console=console.extend) as daemon:
        settings = Settings(
            addresses=("127.0.0.1",), access_interface="", web_port=0, ssh_port=0, backend_address="127.0.0.1",
            backend_port=daemon.port,
        )  # fmt: skip
        frontend = Frontend(tmp_path / "vm", settings)
        task = asyncio.create_task(frontend.run())
        try:
            await until(lambda: frontend.link.up)
            await frontend.ssh_ready.wait()
            yield Chain(daemon, frontend, console)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_the_right_password_opens_both_doors_at_once_while_another_address_floods_them(tmp_path: Path) -> None:
    """Some twenty wrong passwords and SSH connections a second: more than the one and three that kept everybody out."""

    async def scenario() -> None:
        async with chain(tmp_path) as here, AsyncExitStack() as stack:
            answers: list[int] = []
            held: list[asyncio.StreamWriter] = []
            guesses: set[asyncio.Task[None]] = set()

            async def guess() -> None:
                with suppress(OSError, IndexError):  # without a place
                    answers.append(await here.web_login(FLOODER, "wrong password"))

            async def flood() -> None:
                while True:
                    guesses.add(asyncio.create_task(guess()))
                    _, writer = await asyncio.open_connection(
                        "127.0.0.1", here.frontend.ssh_port, local_addr=(FLOODER, 0)
                    )
                    held.append(writer)
                    await asyncio.sleep(0.05)

            flooding = asyncio.create_task(flood())
            stack.callback(lambda: [task.cancel() for task in (flooding, *guesses)])
            await until(lambda: answers.count(401) > 3 and len(held) > 2 * ssh.MAX_UNAUTHENTICATED)
            for _ in range(3):
                began = time.monotonic()
                assert await here.web_login(OPERATOR, here.password) == 200
                async with await here.ssh_login(OPERATOR, here.password, TYPING_S) as connection:
                    result = await connection.run("help")
                    assert result.exit_status == 0
                assert time.monotonic() - began < TYPING_S + 5.0
            # The control: it is a flood, and it is slowed.
            assert answers.count(401) < 12
            assert len(guesses) > 100
            for writer in held:
                writer.transport.abort()

    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def test_what_was_set_at_the_prompt_is_what_the_host_keeps(tmp_path: Path) -> None:
    """One password, in another Unicode form and with another space, by both ways, checked by the host itself."""

    async def scenario() -> None:
        async with chain(tmp_path) as here:
            typed, elsewhere = "a\u0308rger\u00a0🐎 סיסמה²", "ärger 🐎 סיסמה²"
            async with (
                await here.ssh_login(OPERATOR, here.password) as connection,
                connection.create_process(term_type="xterm", term_size=(200, 50)) as process,
            ):
                for prompt, answer in (
                    ("> ", "password"), (": ", here.password), (": ", typed), (": ", typed), ("> ", "exit"),
                ):  # fmt: skip
                    seen = ""
                    while not seen.endswith(prompt):
                        seen += await process.stdout.read(1)
                    process.stdin.write(f"{answer}\n")
                assert "was changed." in seen
            for password in typed, elsewhere:
                assert await here.web_login(OPERATOR, password) == 200
                async with await here.ssh_login(OPERATOR, password):
                    pass
            assert await here.web_login(OPERATOR, elsewhere.replace("²", "2")) == 401, "the control"

    asyncio.run(asyncio.wait_for(scenario(), 60.0))
