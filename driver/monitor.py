"""QMP, QEMU's monitor (QEMU docs/interop/qemu-qmp-ref), of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from driver.errors import MachineError
from rootfs.base.scratch import socket_path

CONNECT_TIMEOUT = 30.0
"""Seconds until QEMU must listen."""


class Monitor:
    """A QMP connection.

    Args:
        path: QEMU's socket.
        alive: whether QEMU still runs.
        said: QEMU's last line of error output, for errors.

    Raises:
        MachineError: QEMU ended, or did not answer in time.
    """

    def __init__(self, path: Path, alive: Callable[[], bool], said: Callable[[], str]) -> None:
        self._said = said
        self._client = self._connect(path, alive)

    def _connect(self, path: Path, alive: Callable[[], bool]) -> QEMUMonitorProtocol:
        """A socket's name is there a moment before QEMU listens at it, so try again."""
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while True:
            with socket_path(path) as short:
                client = QEMUMonitorProtocol(short)
                try:
                    client.connect()
                    return client
                except (QMPError, OSError) as error:
                    with suppress(Exception):
                        client.close()
                    if time.monotonic() > deadline or not alive():
                        what = f"QEMU does not answer at its monitor: {error}; its last error line: {self._said()}"
                        raise MachineError(what, "start it again") from error
            time.sleep(0.05)

    def command(self, command: str, **arguments: Any) -> Any:
        """Run one command and return its answer.

        Raises:
            MachineError: QEMU refused it or is gone.
        """
        try:
            return self._client.cmd(command, **arguments)
        except (QMPError, OSError) as error:
            raise MachineError(
                f"QEMU: command {command}: {error}; its last error line: {self._said()}", "start the machine again"
            ) from error

    def wait_status(self, query: str, ends: Collection[str], what: str, timeout: float = 60.0) -> dict[str, Any]:
        """Ask ``query`` until its ``status`` is one of ``ends``, and return that answer.

        Raises:
            MachineError: it is none of them after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (answer := self.command(query)).get("status") not in ends:
            if time.monotonic() > deadline:
                raise MachineError(
                    f"QEMU: {what} took more than {timeout:.0f} s; {query} answers {answer}",
                    "is the disk full or slow?",
                )
            time.sleep(0.02)
        return dict(answer)

    def quit(self) -> None:
        """End QEMU and the connection; never raises, as QEMU may be gone already."""
        with suppress(Exception):
            self._client.settimeout(5)
            self._client.cmd("quit")
        with suppress(Exception):
            self._client.close()
