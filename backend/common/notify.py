"""What a service and systemd tell each other: its state (sd_notify(3)), files that were opened for it
(sd_listen_fds(3)).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

_LISTEN_FDS_START = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3): the first descriptor that systemd hands over."""


def notify(message: str) -> None:
    """Send one message such as ``READY=1``; does nothing without systemd or where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(message.encode(), address)


def watchdog_interval() -> float | None:
    """Seconds between two ``WATCHDOG=1``, half of what systemd allows; None if its watchdog is off for this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() and int(text) > 0 else None


async def feed_watchdog() -> None:
    """Send ``WATCHDOG=1`` until cancelled, so a blocked event loop gets the service restarted; without one, return."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def given(name: str) -> int:
    """Descriptor, close-on-exec, of the file that systemd opened for this service under that name (``OpenFile=``).

    Raises:
        OSError: systemd opened none of that name.
    """
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or name not in names:
        raise OSError(f"systemd opened no file {name!r} for this service")
    descriptor = _LISTEN_FDS_START + names.index(name)
    os.set_inheritable(descriptor, False)
    return descriptor
