"""Requests the reboot of the host, by a file that starts a root unit (``sallyport-reboot.path``)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from backend.common import store

log = logging.getLogger("reboot")


class Reboot:
    """The one reboot that may be pending.

    Args:
        request: the file that starts the root unit.
        delay_s: seconds between the promise and the request, in which the reply is sent.
    """

    def __init__(self, request: Path, delay_s: float) -> None:
        self._request_file = request
        self._delay_s = delay_s
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self) -> None:
        """Request the reboot after the delay; a second call changes nothing."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._request)

    def close(self) -> None:
        """Request a reboot that was promised now, as the loop is about to end."""
        if self._timer is not None:
            self._timer.cancel()
            self._request()

    def _request(self) -> None:
        self._timer = None
        try:
            store.replace(self._request_file, b"reboot\n", durable=False)
        except OSError as error:
            log.error("cannot request the reboot: %s", error)
