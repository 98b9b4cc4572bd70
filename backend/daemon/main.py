"""The backend daemon: ``python3 -m backend.daemon.main``.

A systemd service (Type=notify) of an unprivileged user. Its log goes to standard error. Standard output is the serial
console, which shows the first password or why nobody can log in, and the fingerprints of the front-end's keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from backend.common.heartbeat import Heartbeats
from backend.common.notify import feed_watchdog, notify
from backend.daemon import storage
from backend.daemon.audit import CHANGES, KINDS, SYSTEM, Audit
from backend.daemon.credential import Passwords
from backend.daemon.executor import Executor
from backend.daemon.handlers.registry import Services
from backend.daemon.host_status import HostStatus
from backend.daemon.link import listen, load_keys
from backend.daemon.port_status import PortStatus
from backend.daemon.public_identity import PresentedIdentity
from backend.daemon.reboot import Reboot
from backend.daemon.ring import Rings
from backend.daemon.server import LinkServer
from backend.daemon.sessions import Sessions
from backend.daemon.settings import Settings
from backend.daemon.throttle import Throttle
from backend.daemon.validator import RequestValidator
from backend.daemon.vm_binding import VmBinding
from backend.daemon.vm_watch import VmWatch
from backend.daemon.worker import Worker
from backend.protocol.fields import OPERATOR

log = logging.getLogger("daemon")

POLL_S = 1.0
"""Seconds between two checks for events that no request causes."""
STDOUT = 1
"""File descriptor of the console. Written directly: unbuffered, and without encoding."""


def to_console(lines: list[str]) -> None:
    """Show lines on the serial console.

    In a thread of its own, which nobody waits for: a terminal that is stopped (XOFF, no cable) must not block the
    daemon.
    """
    # In one write, so that no kernel messages appear in between; \r for a console in raw mode.
    text = "".join(f"\r\n{line}" for line in ["", *lines, "", ""]).encode()

    def show() -> None:
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[os.write(STDOUT, rest) :]
        except OSError as error:
            log.error("cannot write to the console: %s", error)

    threading.Thread(target=show, name="console", daemon=True).start()


def first_password_lines(password: str) -> list[str]:
    """Lines for the console. Programs read the third line: its form must not change."""
    bar = "=" * 64
    return [
        bar,
        "First password of this appliance, shown on this console only:",
        f"sallyport: first password for {OPERATOR}: {password}",
        "A restart replaces it, until somebody has logged in with it.",
        bar,
    ]


class Daemon:
    """The running service: started when entered, stopped when left."""

    def __init__(
        self,
        settings: Settings,
        *,
        console: Callable[[list[str]], None] = to_console,
        hostname: Callable[[], str] = socket.gethostname,
    ) -> None:
        self._settings = settings
        self._console = console
        self._hostname = hostname
        self._stack = contextlib.AsyncExitStack()
        self.port = 0
        """TCP port that it listens on."""
        self.serving: asyncio.Task[None] | None = None
        """Ends only if the server fails."""

    async def __aenter__(self) -> Daemon:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        keys = load_keys(settings.link)
        rings = Rings(settings.data / "audit", KINDS)
        # When the disk is full, any write deletes old audit files first, so that operators can still store settings.
        disk, cpu = Worker("disk", rings.make_room), Worker("cpu")
        stack.callback(disk.stop)
        stack.callback(cpu.stop)
        presented = PresentedIdentity(settings.identity, self._console)
        host = HostStatus(settings, presented, self._hostname)
        audit = Audit(rings, disk, host.boot_id)
        stack.push_async_callback(audit.close)
        throttle = Throttle(settings.password_rates)
        passwords = Passwords(settings.data / "credential.json", disk, cpu, throttle)
        first_password = await passwords.start()
        left = [entry.budget for entry in await audit.recent(CHANGES) if entry.budget is not None]
        sessions = Sessions(settings.sessions, settings.session_idle_s, settings.session_life_s)
        reboot = Reboot(settings.request / "reboot", settings.reboot_delay_s)
        services = Services(
            settings=settings,
            audit=audit,
            passwords=passwords,
            sessions=sessions,
            vm=VmBinding(settings.vm_state, sessions, throttle),
            host=host,
            presented=presented,
            ports=PortStatus(settings.port_status),
            heartbeats=Heartbeats(settings.heartbeat),
            reboot=reboot,
            disk=disk,
            hostname=self._hostname,
        )
        executor = Executor(services, changes=left[-1] if left else None)
        stack.push_async_callback(executor.close)
        watch = VmWatch(settings.vm_state, audit)
        await watch.start()
        listener = stack.enter_context(listen(settings))
        self.port = listener.getsockname()[1]
        validator = RequestValidator(settings.request_rate, settings.request_burst)
        server = LinkServer(settings, keys, listener, validator, executor, audit)
        await audit.record(
            "backend.start", kind=SYSTEM, outcome="failed" if passwords.problem else "ok", detail=passwords.problem
        )
        if text := storage.TEXTS[host.storage]:
            await audit.record("storage", kind=SYSTEM, outcome=host.storage, detail=text)
        self.serving = asyncio.create_task(server.serve())
        stack.push_async_callback(_end, self.serving)
        stack.push_async_callback(_end, asyncio.create_task(self._refuse_second_disk(audit, reboot)))
        stack.push_async_callback(_end, asyncio.create_task(_poll(watch, executor, audit)))
        presented.announce([] if first_password is None else first_password_lines(first_password))
        if passwords.problem:
            self._console(
                [
                    f"sallyport: logins are refused: {passwords.problem}.",
                    "Restore that file, or erase the data partition to begin anew, then reboot.",
                ]
            )

    async def _refuse_second_disk(self, audit: Audit, reboot: Reboot) -> None:
        """Reboot as soon as a second disk with an appliance's partitions appears; the initramfs then refuses to start.

        It is not known which of the two the firmware booted, and /data is that of the disk that was found first.
        """
        while not storage.second_slot(self._settings.block_devices):  # noqa: ASYNC110 - the kernel's, no event of ours
            await asyncio.sleep(self._settings.disks_s)
        text = storage.TEXTS["second-disk"]
        log.error(text)
        self._console([f"sallyport: {text}"])
        reboot.schedule()
        await audit.record("storage", kind=SYSTEM, outcome="second-disk", detail=text)


async def _poll(watch: VmWatch, executor: Executor, audit: Audit) -> None:
    """Record events that no request causes, once a second."""
    checking = asyncio.create_task(audit.check())
    try:
        while True:
            try:
                await watch.poll()
                await executor.poll()
                await audit.flush()
            except Exception:
                log.exception("cannot record what happened in the audit log")
            await asyncio.sleep(POLL_S)
    finally:
        await _end(checking)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Daemon(settings) as daemon:
        log.info("listening on %s:%d %s", settings.address, daemon.port, settings.device)
        notify("READY=1")
        watchdog = asyncio.create_task(feed_watchdog())
        stopped = asyncio.create_task(stop.wait())
        assert daemon.serving is not None
        await asyncio.wait({stopped, daemon.serving}, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        failed = daemon.serving.done()
        if failed and (error := daemon.serving.exception()):
            log.error("the server failed; the service ends and is restarted", exc_info=error)
        for task in (watchdog, stopped):
            task.cancel()
    return 1 if failed else 0


def main(settings: Settings | None = None) -> int:
    """Entry point. Returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    try:
        return asyncio.run(serve(settings or Settings()))
    except (OSError, ValueError) as error:
        log.error("the backend cannot start: %s", error)
        to_console([f"sallyport: the backend cannot start, so nobody can log in: {str(error)!a}."])
        return 1


if __name__ == "__main__":
    sys.exit(main())
