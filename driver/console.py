"""The appliance's serial console: read in a thread, logged, searched."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from driver.errors import MachineError

_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?!=]*[ -/]*[@-~]|[()][A-Z0-9]|[^\[])")
"""Control sequences of a terminal (ECMA-48 section 5.4)."""


def _private(path: str, flags: int) -> int:
    """Open for the owner alone: the console shows the first password."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


class SerialConsole:
    """What the serial console has printed so far, without terminal control sequences.

    Args:
        log: file that gets it, too, or None.
    """

    def __init__(self, log: Path | None) -> None:
        self._log, self._text, self._lock = log, "", threading.Condition()
        self.on_line: Callable[[str], None] = lambda line: None
        """Called with each line, in the reading thread."""

    @property
    def text(self) -> str:
        """All of it."""
        with self._lock:
            return self._text

    def start(self, serial: socket.socket) -> None:
        """Read from a connected socket until it ends, in a thread."""
        threading.Thread(target=self._read, args=(serial,), name="serial", daemon=True).start()

    def _read(self, serial: socket.socket) -> None:
        pending = ""
        with serial:
            log = open(self._log, "w", opener=_private) if self._log else None  # noqa: SIM115 - closed below
            try:
                while chunk := serial.recv(4096):
                    text = _ESCAPE.sub("", chunk.decode(errors="replace")).replace("\r", "")
                    if log:
                        log.write(text)
                        log.flush()
                    pending += text
                    *lines, pending = pending.split("\n")
                    with self._lock:
                        self._text += text
                        self._lock.notify_all()
                    for line in lines:
                        self.on_line(line)
            except OSError:
                pass
            finally:
                if log:
                    log.close()

    def wait(self, pattern: str, timeout: float, alive: Callable[[], bool], *, start: int = 0) -> re.Match[str]:
        """Wait until the text matches ``pattern`` (searched from character ``start``).

        Raises:
            MachineError: it does not after ``timeout`` seconds, or the machine is not ``alive``.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                if match := re.compile(pattern).search(self._text, start):
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or not alive():
                    tail = "\n".join(self._text.strip().splitlines()[-8:])
                    raise MachineError(
                        f"the serial console did not print {pattern!r} within {timeout:.0f} s; its last lines:\n{tail}",
                        f"the whole log is in {self._log}" if self._log else "boot it with `invoke run --serial`",
                    )
                self._lock.wait(min(left, 1.0))
