"""Handler of `backend.protocol.port`: the management port's counters."""

from __future__ import annotations

import logging

from backend.daemon.handlers.registry import Call, handles
from backend.protocol.port import Ports, PortsList
from backend.protocol.refusal import Refused

log = logging.getLogger("ports")


@handles(PortsList)
async def list_ports(_do: PortsList, call: Call) -> Ports:
    """Ask the process that holds the port."""
    try:
        return await call.services.ports.get()
    except OSError as error:
        log.warning("port status: %s", ascii(str(error) or type(error).__name__))
        raise Refused("failed", "the port's counters cannot be read now") from None
