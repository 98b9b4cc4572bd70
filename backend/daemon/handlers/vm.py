"""Handlers of `backend.protocol.vm`: what the front-end VM itself asks for."""

from __future__ import annotations

from backend.daemon.handlers.registry import Call, handles
from backend.protocol.base import Done
from backend.protocol.refusal import Refused
from backend.protocol.vm import Certificate, CertificateGet, Heartbeat


@handles(Heartbeat)
async def pass_heartbeat(_do: Heartbeat, call: Call) -> Done:
    """Pass the heartbeat on to the VM's supervisor."""
    call.services.heartbeats.beat(call.connected_at)
    return Done()


@handles(CertificateGet)
async def get_certificate(_do: CertificateGet, call: Call) -> Certificate:
    """Hand out the web page's certificate, and show its fingerprint on the console if it is a new one."""
    presented = call.services.presented
    public = presented.get()
    if public is None:
        raise Refused("failed", "there is no certificate that can be read")
    presented.announce([])  # for the operator to compare with what the browser then shows
    return Certificate(pem=public.certificate)
