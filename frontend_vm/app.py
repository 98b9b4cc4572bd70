"""The front-end: web page, REST API and SSH command line in one process and one event loop.

    python3 -m frontend_vm.app [--config DIR]

The same loop sends the heartbeat, so the host's supervisor watches exactly what operators use. The web server listens
as soon as its libraries are loaded; those of SSH, the larger half, load in a thread meanwhile, and connections to port
22 wait in its backlog.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from frontend_vm.settings import DEFAULT_DIRECTORY, Settings, is_listening, load_settings, open_listeners

if TYPE_CHECKING:
    from frontend_vm.ssh import SecureShell

log = logging.getLogger("app")

CERTIFICATE_INTERVAL = 10.0
"""Seconds between two checks for a new certificate. The host makes one when the present one expires soon, and when the
host name has changed."""


class Frontend:
    """All of the front-end.

    Args:
        directory: keys, certificates and settings that the host made for this start.
        settings: the contents of its ``settings.json``.
    """

    def __init__(self, directory: Path, settings: Settings) -> None:
        from frontend_vm.api import make_application
        from frontend_vm.link import Link, client_context
        from frontend_vm.web import BoundedServer, server_context

        self._directory = directory
        self._web = open_listeners(settings, settings.web_port)
        self._ssh = open_listeners(settings, settings.ssh_port)
        self.web_port: int = self._web[0].getsockname()[1]
        self.ssh_port: int = self._ssh[0].getsockname()[1]
        self.ssh_ready = asyncio.Event()
        self.link = Link(client_context(directory), (settings.backend_address, settings.backend_port), self._alive)
        self._server = BoundedServer(make_application(self.link), tls=server_context(directory))
        self._shell: SecureShell | None = None

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: keys or certificates are missing or damaged.
            RuntimeError: a part ended unexpectedly.
        """
        self._server.add_sockets(self._web)
        log.info("web listens on port %d", self.web_port)
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self.link.run())
                parts.create_task(self._serve_ssh())
                parts.create_task(self._follow_certificate())
        finally:
            self._server.stop()
            if self._shell is not None:
                self._shell.close()
            for listener in self._ssh:
                listener.close()

    async def _follow_certificate(self) -> None:
        from frontend_vm.link import Unreachable
        from frontend_vm.protocol.refusal import Refused
        from frontend_vm.protocol.vm import Certificate, CertificateGet
        from frontend_vm.web import server_context

        used = self._directory / "web.crt"
        while True:
            await asyncio.sleep(CERTIFICATE_INTERVAL)
            try:
                pem = (await self.link.ask(CertificateGet(), Certificate)).pem
                if pem == used.read_text("ascii"):
                    continue
                new = used.with_name("renewed.crt")
                new.write_text(pem, "ascii")
                self._server.renew(server_context(self._directory, new))
                new.replace(used)  # used at the next start of this process
            except (Refused, Unreachable) as error:
                log.warning("cannot check for a new certificate: %s", error)
            except (OSError, ValueError) as error:
                log.error("the new certificate cannot be used: %s", error)
            else:
                log.info("a new certificate is in use")

    def _alive(self) -> bool:
        return all(is_listening(listener) for listener in self._web)

    async def _serve_ssh(self) -> None:
        shell_type = await asyncio.to_thread(_import_ssh)
        self._shell = shell_type(self._directory / "ssh.key", self.link)
        await self._shell.listen(self._ssh)
        log.info("ssh listens on port %d", self.ssh_port)
        self.ssh_ready.set()


def _import_ssh() -> type[SecureShell]:
    from frontend_vm.ssh import SecureShell

    return SecureShell


async def serve(directory: Path, settings: Settings) -> None:
    """Run the front-end until SIGTERM or SIGINT."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await Frontend(directory, settings).run()
    except asyncio.CancelledError:
        log.info("ended by a signal")


def main() -> int:
    """Entry point; the exit status is 1 if the configuration cannot be used."""
    import argparse

    from frontend_vm.log import start_log

    parser = argparse.ArgumentParser(prog="frontend", description="Web and SSH front-end of the appliance.")
    parser.add_argument("--config", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="default: %(default)s")
    # Tornado loads all public certification authorities at import, and this process needs none of them.
    os.environ["SSL_CERT_FILE"] = os.devnull
    directory: Path = parser.parse_args().config
    start_log()
    try:
        asyncio.run(serve(directory, load_settings(directory)))
    except* (OSError, ValueError) as errors:
        for error in errors.exceptions:
            log.critical("%s", error)
        return_code = 1
    else:
        return_code = 0
    return return_code


if __name__ == "__main__":
    sys.exit(main())
