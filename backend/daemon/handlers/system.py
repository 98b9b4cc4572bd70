"""Handlers of `backend.protocol.system`: state, host name, reboot."""

from __future__ import annotations

import asyncio

from backend.common import store
from backend.daemon.handlers.registry import Call, handles
from backend.protocol.base import Done
from backend.protocol.refusal import Refused
from backend.protocol.system import HostnameSet, Status, StatusGet, SystemReboot

POLL_S = 0.05
"""How often to check whether a host name is in force."""


@handles(StatusGet)
async def get_status(_do: StatusGet, call: Call) -> Status:
    """Collect the state of the appliance."""
    return call.services.host.get(call.services.audit.state())


@handles(HostnameSet)
async def set_hostname(do: HostnameSet, call: Call) -> Done:
    """Store the name, have the root unit ``sallyport-hostname.service`` set it, and wait until it is in force."""
    services, name = call.services, do.hostname
    content = name.encode("ascii") + b"\n"
    # One at a time: of two at once, each would wait for its own name.
    async with services.changing:
        await services.disk.run(lambda: store.replace(services.settings.data / "hostname", content))
        store.replace(services.settings.request / "hostname", content, durable=False)
        try:
            async with asyncio.timeout(services.settings.hostname_s):
                while services.hostname() != name:  # noqa: ASYNC110 - another process sets it, there is no event
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise Refused("failed", "the name is stored but not in force yet; a reboot will do it") from None
    return Done()


@handles(SystemReboot)
async def reboot(_do: SystemReboot, call: Call) -> Done:
    """Request the reboot once the reply is on its way."""
    call.services.reboot.schedule()
    return Done()
