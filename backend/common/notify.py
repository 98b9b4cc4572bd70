"""What a service and systemd tell each other: how it does (sd_notify(3)), what it was given (sd_listen_fds(3))."""

from __future__ import annotations

import contextlib
import os
import socket

_FIRST = 3
"""SD_LISTEN_FDS_START."""


def notify(message: str) -> None:
    """Send one message such as ``READY=1``; without systemd, or where it does not listen, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(message.encode(), address)


def watchdog_interval() -> float | None:
    """Seconds between two ``WATCHDOG=1``, half of what systemd allows; None: it does not ask for any."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() and int(text) > 0 else None


def given(name: str) -> int:
    """The file that systemd opened for this service (``OpenFile=``) under that name: its descriptor, close-on-exec.

    Raises:
        OSError: it gave none of that name.
    """
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or name not in names:
        raise OSError(f"systemd opened no file {name!r} for this service")
    descriptor = _FIRST + names.index(name)
    os.set_inheritable(descriptor, False)
    return descriptor
