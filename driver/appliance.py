"""The appliance in QEMU as operators use it: its REST API, its first password, and waiting until it is managed."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from typing import Any

from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.steps import step

PASSWORD = r"sallyport: first password for admin: (\S+)"  # noqa: S105 - a pattern
"""What the serial console prints until somebody has logged in."""
FINGERPRINTS = (
    r"web certificate, SHA-256:\s+((?:[0-9A-F]{2}:){16})\s+([0-9A-F:]{47})\s+sallyport: SSH host key: (SHA256:\S{43})"
)
"""What the serial console prints of certificate (in two halves) and SSH host key."""
BOOT_TIMEOUT = 240.0
"""Seconds. A boot takes about 45 on an idle machine; other machines and builds may run beside it."""


class Api:
    """A client of the front-end's REST API at a port of 127.0.0.1; keeps the session's cookie."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        # The appliance signs its certificate itself; the connection does not leave this machine, so it is not checked.
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float = 15.0
    ) -> tuple[int, Any]:
        """Send one request below ``/api/v1`` and return status and decoded body.

        Args:
            method: of HTTP.
            path: below ``/api/v1``.
            body: sent as JSON.
            timeout: seconds for each read and write.

        Raises:
            OSError: nobody answers, or not in HTTP.
        """
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._tls, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json"} | ({"Cookie": self.cookie} if self.cookie else {})
            connection.request(method, f"/api/v1{path}", json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read(65536)
            if cookie := answer.getheader("Set-Cookie"):
                self.cookie = cookie.split(";", 1)[0]
            return answer.status, json.loads(text) if text else None
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether the front-end answers ``GET /health`` within ``timeout`` seconds and is connected to its backend."""
        try:
            status, body = self.request("GET", "/health", timeout=timeout)
        except (OSError, ValueError):
            return False
        return status == 200 and bool(body.get("backend"))

    def login(self, password: str) -> None:
        """Open a session as ``admin``.

        Raises:
            MachineError: the appliance refused it.
        """
        status, body = self.request("POST", "/session", {"user": "admin", "password": password})
        if status not in (200, 201, 204):
            raise MachineError(f"login answered {status}: {body}")

    def get(self, path: str) -> Any:
        """Return the body of a GET request that must succeed.

        Raises:
            MachineError: the status was not 200.
        """
        status, body = self.request("GET", path)
        if status != 200:
            raise MachineError(f"GET {path} answered {status}: {body}")
        return body


def wait_managed(machine: QemuMachine, api: Api, timeout: float = BOOT_TIMEOUT, answer: float = 5.0) -> float:
    """Wait until the front-end is healthy (`Api.healthy`) and return the seconds since power-on.

    Args:
        machine: the booting machine.
        api: its REST API.
        timeout: seconds until the front-end must be healthy.
        answer: seconds within which each request must be answered.

    Raises:
        MachineError: it is not healthy in time, or QEMU ended.
    """
    deadline = time.monotonic() + timeout
    with step("boot", machine.image.name):
        while not api.healthy(answer):
            if not machine.alive():
                raise MachineError("QEMU ended while the appliance booted", "boot it with `invoke run --serial`")
            if time.monotonic() > deadline:
                tail = "\n".join(machine.serial.strip().splitlines()[-8:])
                raise MachineError(
                    f"the front-end is not healthy after {timeout:.0f} s; the serial console's last lines:\n{tail}"
                )
            time.sleep(0.2)
    return time.monotonic() - machine.powered_on_at


def first_password(machine: QemuMachine, timeout: float = 60.0, *, start: int = 0) -> str:
    """Return the password that the serial console prints (searched from character ``start``).

    Raises:
        MachineError: it prints none within ``timeout`` seconds.
    """
    return machine.wait_serial(PASSWORD, timeout, start=start).group(1)
