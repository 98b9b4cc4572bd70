"""The daemon as systemd starts it: a process of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from backend.daemon.settings import Settings
from backend.protocol.base import Error
from backend.protocol.session import Session
from tests.unit.backend.rig import DEADLINE_S, Rig, read_audit, run, until

START = """
import sys
from pathlib import Path
from backend.daemon.main import main
from backend.daemon.settings import Settings
sys.exit(main(Settings.under(Path(sys.argv[1]), link=Path(sys.argv[2]), port=int(sys.argv[3]), device=sys.argv[4])))
"""
MARKER = b"sallyport: first password for admin: "


class Process:
    """One run of the daemon; standard output is the console."""

    def __init__(self, settings: Settings, device: str = "") -> None:
        self.settings = settings
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind("")
        self._systemd.settimeout(DEADLINE_S)
        name = self._systemd.getsockname()
        arguments = [str(settings.data.parent), str(settings.link), str(self.port), device]
        self.child = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"NOTIFY_SOCKET": "@" + name[1:].decode(), "WATCHDOG_USEC": "200000"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.communicate()
        self._systemd.close()

    def told(self, message: bytes) -> None:
        """Wait until systemd was told so."""
        while self._systemd.recv(100) != message:
            pass

    def first_password(self) -> str:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith(MARKER):
                assert line.endswith(b"\r\n")
                return line.removeprefix(MARKER).decode().strip()
        raise AssertionError("no first password on the console")

    def rig(self) -> Rig:
        rig = Rig(self.settings)
        rig.daemon.port = self.port
        return rig


def test_ready_watchdog_console_and_a_clean_stop(settings: Settings) -> None:
    with Process(settings, "lo") as process:
        process.told(b"READY=1")
        process.told(b"WATCHDOG=1")
        process.told(b"WATCHDOG=1")
        password = process.first_password()
        run(_login(process, password))
        process.child.terminate()
        console, log = process.child.communicate(timeout=DEADLINE_S)
        assert process.child.returncode == 0
        assert password.encode() not in log
        assert b"Traceback" not in log
        assert b"\n" not in console.replace(b"\r\n", b"")
    events = [entry["event"] for entry in read_audit(settings.data)]
    assert events == ["backend.start", "instruction", "session.end", "backend.stop"]


async def _login(process: Process, password: str) -> None:
    client = await process.rig().connect()
    assert isinstance(await client.login(password), Session)
    client.writer.transport.abort()


def test_kill_9_before_and_after_the_first_login(settings: Settings) -> None:
    with Process(settings) as unread:
        unread.told(b"READY=1")
        first = unread.first_password()
    with Process(settings) as process:
        process.told(b"READY=1")
        second = process.first_password()
        assert second != first
        run(_login(process, second))
        # At once: what was answered has to be durable.
        process.child.kill()
        process.child.wait()
    with Process(settings) as process:
        process.told(b"READY=1")
        run(_login(process, second))
        process.child.terminate()
        console, _ = process.child.communicate(timeout=DEADLINE_S)
        assert MARKER not in console
    events = [(entry["event"], entry["outcome"]) for entry in read_audit(settings.data)]
    assert events.count(("instruction", "ok")) == 2
    assert first not in "".join(path.read_text() for path in settings.data.rglob("*.json*"))


def test_a_damaged_credential_is_told_on_the_console_and_the_daemon_stays(settings: Settings) -> None:
    (settings.data / "credential.json").write_bytes(b"{}")

    async def refused(process: Process) -> None:
        client = await process.rig().connect()
        result = await client.login("anything")
        assert isinstance(result, Error)
        assert result.code == "failed"
        client.writer.transport.abort()

    with Process(settings) as process:
        process.told(b"READY=1")
        run(refused(process))
        process.child.terminate()
        console, log = process.child.communicate(timeout=DEADLINE_S)
    assert b"logins are refused" in console
    assert b"erase the data partition" in console
    assert b"logins are refused" in log
    assert MARKER not in console
    assert (settings.data / "credential.json").read_bytes() == b"{}"


def test_a_console_that_nobody_reads_holds_nothing_up(settings: Settings, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, bytes(4096))
    arguments = [str(tmp_path), str(settings.link), "0", ""]
    with subprocess.Popen([sys.executable, "-c", START, *arguments], stdout=write_end, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        try:
            assert any(b"listening" in line for line in child.stderr)
            child.terminate()
            assert child.wait(DEADLINE_S) == 0
        finally:
            child.kill()
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("device", "link", "says"), [("nosuch0", "link", b"cannot start"), ("", "none", b"cannot start")]
)
def test_what_it_cannot_do_without_is_one_sentence(settings: Settings, device: str, link: str, says: bytes) -> None:
    folder = settings.link if link == "link" else settings.data / "none"
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", START, str(settings.data.parent), str(folder), "0", device],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert b"Traceback" not in done.stderr
    assert time.monotonic() - begin < DEADLINE_S


def test_the_import_is_light() -> None:
    heavy = {"cryptography", "tornado", "asyncssh", "argparse", "xml", "email", "http", "pydantic", "multiprocessing"}
    code = "import backend.daemon.main, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); {code}"],
        capture_output=True,
        check=True,
    )
    assert not heavy & set(done.stdout.decode().split())


def test_leaving_the_daemon_leaves_no_task(settings: Settings) -> None:
    async def test() -> None:
        before = asyncio.all_tasks()
        rig = Rig(settings)
        async with rig.daemon:
            client, _ = await rig.operator()
            silent = await rig.plain()
            await until(lambda: len(asyncio.all_tasks()) == len(before) + 4)
        assert asyncio.all_tasks() == before
        for one in client, silent:
            one.writer.transport.abort()

    run(test())
