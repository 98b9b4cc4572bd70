"""The real front-end beside a fake backend, and clients for it."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from frontend_vm.app import Frontend
from frontend_vm.settings import Settings
from tests.unit.frontend_vm.fake_backend import PASSWORD, FakeBackend

DEADLINE = 5.0

CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT.check_hostname = False
CLIENT.verify_mode = ssl.CERT_NONE


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@dataclass
class Rig:
    backend: FakeBackend
    frontend: Frontend
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request."""

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.frontend.web_port}"

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> HTTPResponse:
        """One request; bytes are sent as they are, everything else as JSON."""
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookie:
            sent["Cookie"] = self.cookie
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if payload is None and method in ("POST", "PUT", "PATCH"):
            payload = b""  # else Tornado's client makes a chunked body out of nothing
        if payload:
            sent.setdefault("Content-Type", "application/json")
        return await AsyncHTTPClient().fetch(
            self.origin + path,
            method=method,
            headers=sent,
            body=payload,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            raise_error=False,
            ssl_options=CLIENT,
            request_timeout=DEADLINE,
        )

    async def log_in(self, password: str = PASSWORD, user: str = "admin") -> HTTPResponse:
        response = await self.call("POST", "/api/v1/session", {"user": user, "password": password})
        if response.code == 200:
            self.cookie = response.headers["Set-Cookie"].partition(";")[0]
        return response

    async def ssh(self, password: str | None = PASSWORD, **options: Any) -> asyncssh.SSHClientConnection:
        await asyncio.wait_for(self.frontend.ssh_ready.wait(), DEADLINE)
        return await asyncssh.connect(
            "127.0.0.1",
            self.frontend.ssh_port,
            username="admin",
            password=password,
            known_hosts=None,
            config=None,
            client_keys=None,
            **options,
        )

    def instructions(self) -> list[str]:
        return [type(request).__name__ for request in self.backend.requests]


def error_code(response: HTTPResponse) -> str:
    return str(json.loads(response.body)["error"]["code"])


@asynccontextmanager
async def running(configuration: Path, backend_up: bool = True) -> AsyncIterator[Rig]:
    """Run both, with the link up unless there is to be no backend yet."""
    backend = FakeBackend(configuration)
    await backend.start()
    if not backend_up:
        backend.stop()
    settings = Settings(
        addresses=("127.0.0.1",),
        access_interface="",
        web_port=0,
        ssh_port=0,
        backend_address="127.0.0.1",
        backend_port=backend.port,
    )
    frontend = Frontend(configuration, settings)
    task = asyncio.create_task(frontend.run())
    try:
        if backend_up:
            await until(lambda: frontend.link.up)
        yield Rig(backend, frontend)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        backend.stop()
        assert task.cancelled(), f"the front-end ended by itself: {task.exception()!r}"


async def expect(process: asyncssh.SSHClientProcess[str], text: str) -> str:
    """Read until a text has come."""
    seen = ""
    async with asyncio.timeout(DEADLINE):
        while text not in seen:
            chunk = await process.stdout.read(4096)
            assert chunk, f"ended after {seen!r}"
            seen += chunk
    return seen


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
