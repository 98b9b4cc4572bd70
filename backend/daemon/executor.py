"""Carries instructions out: enforces each one's policy around its handler, and writes the audit log.

Everything that happens before and after a handler follows from the `Policy` that the instruction's type declares; what
an instruction does is in its handler (`backend.daemon.handlers`). Whatever goes wrong becomes an `Error`: no exception
leaves `Executor.execute`.
"""

from __future__ import annotations

import logging
import time

from backend.daemon.audit import BY_NAME, REJECTED
from backend.daemon.handlers import handler_of
from backend.daemon.handlers.registry import Call, Services
from backend.protocol.base import Error, Instruction
from backend.protocol.codec import Request
from backend.protocol.instructions import AnyResult
from backend.protocol.rate_limit import Bucket, Clock
from backend.protocol.refusal import Refused

log = logging.getLogger("executor")


class Executor:
    """Carries out requests that the `RequestValidator` admitted: who may send them, what they do, the audit log."""

    def __init__(self, services: Services, clock: Clock = time.monotonic, *, changes: int | None = None) -> None:
        """Take over the daemon's parts.

        Args:
            services: what handlers work with.
            clock: of the limit on changes.
            changes: how many may be made at once now; None: `Settings.change_burst`.
        """
        self._services = services
        settings = services.settings
        self._changes = Bucket(settings.change_rate, settings.change_burst, clock, tokens=changes)

    async def execute(self, request: Request, connected_at: float) -> AnyResult:
        """Carry out one request and return the answer to it.

        Args:
            request: what the front-end wants.
            connected_at: when its connection was accepted, in seconds of CLOCK_MONOTONIC.
        """
        do = request.do
        policy = do.policy
        call = Call(self._services, connected_at)
        peer = do.audit_peer()
        admitted = False
        result: AnyResult
        try:
            self._admit(request, call)
            admitted = True
            if call.session is not None:
                peer = call.session.where
            if policy.mutating:
                await self._record(do, call, peer, "begun")
            result = await handler_of(type(do))(do, call)
        except Refused as refused:
            result = refused.error
        except Exception:
            # The details may hold paths and more: they are for the host's log, not for the VM.
            log.exception("%s failed", do.name())
            result = Error("failed", "internal error; the appliance's log has the details")
        if isinstance(result, Error):
            if admitted and policy.mutating:
                await self._record(do, call, peer, result.code, result.message)
            else:
                # Anybody can cause any number of these, so they go into the log that may leave entries out.
                await self._services.audit.reject(
                    "instruction", instruction=do.name(), peer=peer, outcome=result.code, detail=result.message
                )
        elif policy.audit != REJECTED.name:
            await self._record(do, call, peer, "ok", do.audit_detail())
        await self._record_ended_sessions()
        return result

    async def poll(self) -> None:
        """Audit sessions that ended without a request; to be called now and then."""
        self._services.vm.follow()
        self._services.sessions.expire()
        await self._record_ended_sessions()

    async def close(self) -> None:
        """End all sessions and close the sockets; a reboot that was promised is requested now."""
        self._services.sessions.close_all("stop")
        await self._record_ended_sessions()
        self._services.heartbeats.close()
        self._services.reboot.close()

    def _admit(self, request: Request, call: Call) -> None:
        policy = request.do.policy
        # What the VM asks for itself depends on no session; `poll` follows for it within a second.
        if policy.who != "vm":
            self._services.vm.follow()
        if policy.who == "session":
            call.session = self._services.sessions.find(request.token)
            call.operator()
        if policy.rate == "changes" and (wait := self._changes.take()) > 0.0:
            raise Refused("limited", "too many changes", retry_after_s=wait)

    async def _record(self, do: Instruction, call: Call, peer: str, outcome: str, detail: str = "") -> None:
        await self._services.audit.record(
            "instruction",
            kind=BY_NAME[do.policy.audit],
            instruction=do.name(),
            peer=peer,
            session=call.session.name if call.session else "",
            outcome=outcome,
            detail=detail,
            budget=int(self._changes.level()) if do.policy.rate == "changes" else None,
        )

    async def _record_ended_sessions(self) -> None:
        ended = self._services.sessions.ended
        while ended:
            session, reason = ended.popleft()
            await self._services.audit.record(
                "session.end", kind=BY_NAME["sessions"], peer=session.where, session=session.name, outcome=reason
            )
