"""The appliance in QEMU as people and tests use it: off, booted, managed."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from typing import Any

from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.steps import step

PASSWORD = r"sallyport: first password for admin: (\S+)"  # noqa: S105 - where the console shows it
FINGERPRINTS = (
    r"web certificate, SHA-256:\s+((?:[0-9A-F]{2}:){16})\s+([0-9A-F:]{47})\s+sallyport: SSH host key: (SHA256:\S{43})"
)
BOOT_TIMEOUT = 240.0
"""Seconds; generous, because the machine may share its processors with a build."""


class Api:
    """The front-end's REST API; keeps the session's cookie."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        # The certificate is the appliance's own, made at its first boot; the way to it is this machine's loopback.
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float = 15.0
    ) -> tuple[int, Any]:
        """One request below ``/api/v1``; returns status and decoded body.

        Raises:
            OSError: nobody answers.
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
        """Whether the front-end answers within so many seconds, and has its backend."""
        try:
            status, body = self.request("GET", "/health", timeout=timeout)
        except (OSError, ValueError):
            return False
        return status == 200 and bool(body.get("backend"))

    def login(self, password: str) -> None:
        """Open a session.

        Raises:
            MachineError: refused.
        """
        status, body = self.request("POST", "/session", {"user": "admin", "password": password})
        if status not in (200, 201, 204):
            raise MachineError(f"login answered {status}: {body}")

    def get(self, path: str) -> Any:
        """The body of a GET that must succeed.

        Raises:
            MachineError: another status than 200.
        """
        status, body = self.request("GET", path)
        if status != 200:
            raise MachineError(f"GET {path} answered {status}: {body}")
        return body


def wait_managed(machine: QemuMachine, api: Api, timeout: float = BOOT_TIMEOUT, answer: float = 5.0) -> float:
    """Wait until the UI answers, within ``answer`` seconds, and has its backend; returns seconds since power-on.

    Raises:
        MachineError: it does not in time, or QEMU ended.
    """
    deadline = time.monotonic() + timeout
    with step("boot", machine.image.name):
        while not api.healthy(answer):
            if not machine.alive():
                raise MachineError("QEMU ended while the appliance booted", "boot it with `invoke run --serial`")
            if time.monotonic() > deadline:
                tail = "\n".join(machine.serial.strip().splitlines()[-8:])
                raise MachineError(f"no answer from the UI after {timeout:.0f} s; the console's last words:\n{tail}")
            time.sleep(0.2)
    return time.monotonic() - machine.powered_on_at


def first_password(machine: QemuMachine, timeout: float = 60.0, *, start: int = 0) -> str:
    """The password that the serial console shows.

    Raises:
        MachineError: it shows none in time.
    """
    return machine.wait_serial(PASSWORD, timeout, start=start).group(1)
