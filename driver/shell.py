"""Root shells of a test image: of the host over its second serial port, of the VM over SSH."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from pathlib import Path

import paramiko

from driver.errors import MachineError
from rootfs.base.scratch import socket_path
from rootfs.tree import qa_access

# Until the VM answers every attempt fails, and paramiko would log each.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class HostShell:
    """The root shell of a test image's host, on its second serial port; one command at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        with socket_path(path) as name:
            self._socket.connect(name)

    def run(self, command: str, timeout: float = 60.0) -> tuple[int, str]:
        """Run one command line and return its exit status and its output (standard output and error together).

        Raises:
            MachineError: it did not end within ``timeout`` seconds, or the machine has ended.
        """
        try:
            return self._run(command, timeout)
        except OSError as error:
            raise MachineError(f"the host's test shell is gone: {error}", "the machine has ended") from error

    def _run(self, command: str, timeout: float) -> tuple[int, str]:
        mark = secrets.token_hex(8)
        # The mark is put together by the shell, so that no echo of the command can be taken for its end.
        self._socket.sendall(
            f"\n{{ {command}\n}} </dev/null 2>&1; s=$?; echo; echo {mark[:8]}''{mark[8:]} $s\n".encode()
        )
        said, deadline = "", time.monotonic() + timeout
        while f"{mark} " not in said or not said.endswith("\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineError(
                    f"the host's test shell did not finish {command[:80]!r} in {timeout:.0f} s; it said {said[-300:]!r}"
                )
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                raise MachineError("the host's test shell is gone", "the machine has ended")
            said += chunk.decode(errors="replace").replace("\r", "")
        output, _, status = said.rpartition(mark)
        return int(status.split()[0]), output.strip("\n")

    def check(self, command: str, timeout: float = 60.0) -> str:
        """Run one command line that must succeed and return its output.

        Raises:
            MachineError: its exit status is not 0, or see `run`.
        """
        status, output = self.run(command, timeout)
        if status != 0:
            raise MachineError(f"on the host: {command!r} ended with status {status}: {output[-500:]}")
        return output

    def close(self) -> None:
        """Close the socket; the shell goes on."""
        self._socket.close()


def wait_host_shell(path: Path, timeout: float = 120.0) -> HostShell:
    """Return the root shell of a booted appliance's host as soon as it answers.

    Nothing may be sent before somebody reads. What waits for the driver when it opens a PL011 (Arm's UART) is to be
    emptied by it first (``pl011_enable_interrupts``, drivers/tty/serial/amba-pl011.c of Linux); if the sender is the
    faster one, no interrupt ever says that there is more, and the shell stays deaf.

    Raises:
        MachineError: it does not answer within ``timeout`` seconds.
    """
    shell, deadline = HostShell(path), time.monotonic() + timeout
    while True:
        try:
            if shell.run("echo here", timeout=3)[1].endswith("here"):
                return shell
        except MachineError:
            if time.monotonic() > deadline:
                raise


def vm_shell(port: int, timeout: float = 120.0) -> paramiko.SSHClient:
    """Return an SSH connection to the VM's root, by the key of this checkout's test images, as soon as it answers.

    Args:
        port: of 127.0.0.1 that is forwarded to the VM's test shell.
        timeout: seconds.

    Raises:
        MachineError: it does not answer in time.
    """
    key = paramiko.Ed25519Key.from_private_key_file(str(qa_access.KEY))
    deadline = time.monotonic() + timeout
    while True:
        client = paramiko.SSHClient()
        # The VM's test shell makes a new host key at every start; the connection does not leave this machine.
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507
        try:
            client.connect(
                "127.0.0.1", port, "root", pkey=key, timeout=10, banner_timeout=30, auth_timeout=30,
                allow_agent=False, look_for_keys=False,
            )  # fmt: skip
            return client
        except (paramiko.SSHException, OSError, EOFError) as error:
            client.close()
            if time.monotonic() > deadline:
                raise MachineError(f"no root shell in the VM on port {port}: {error}", "is it a test image?") from error
            time.sleep(0.5)
