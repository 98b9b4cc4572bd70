"""What each instruction does. Whatever goes wrong in here becomes an `Error`; nothing gets out as an exception."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable

import msgspec

from backend.common import store, vm_state
from backend.common.heartbeat import Heartbeats
from backend.common.limits import Bucket, Clock
from backend.daemon.audit import CHANGES, SESSIONS, Audit
from backend.daemon.credential import Passwords
from backend.daemon.host_status import HostStatus
from backend.daemon.identity import Presented
from backend.daemon.port_status import PortStatus
from backend.daemon.sessions import OpenSession, Sessions, session_name
from backend.daemon.settings import Settings
from backend.daemon.throttle import Throttle
from backend.daemon.worker import Worker
from backend.protocol.base import Done, Error
from backend.protocol.codec import Request
from backend.protocol.instructions import AnyInstruction
from backend.protocol.peers import Peer
from backend.protocol.port import Ports, PortsList
from backend.protocol.refusal import Refused
from backend.protocol.session import PasswordSet, Session, SessionClose, SessionOpen
from backend.protocol.system import HostnameSet, Status, StatusGet, SystemReboot
from backend.protocol.vm import Certificate, CertificateGet, Heartbeat

log = logging.getLogger("actions")

AnyResult = Done | Session | Status | Ports | Certificate | Error

POLL_S = 0.05
"""How often to look whether a host name is in force."""
BEGUN = (HostnameSet, PasswordSet, SystemReboot)
"""Also audited before they are carried out, so that a power cut in the middle leaves a trace."""


class Actions:
    """Carries requests out that the gate admitted: who may, then what, then the audit log."""

    def __init__(
        self,
        settings: Settings,
        audit: Audit,
        passwords: Passwords,
        throttle: Throttle,
        host: HostStatus,
        disk: Worker,
        presented: Presented,
        *,
        hostname: Callable[[], str] = socket.gethostname,
        clock: Clock = time.monotonic,
        changes: int | None = None,
    ) -> None:
        """Take over what there is.

        Args:
            settings: places and limits.
            audit: the log.
            passwords: who may log in.
            host: facts about the host.
            disk: for what touches flash.
            hostname: the name that is in force.
            clock: of sessions and limits.
            changes: that may be made at once now; None: as many as ever.
        """
        self._settings = settings
        self._audit = audit
        self._passwords = passwords
        self._throttle = throttle
        self._host = host
        self._disk = disk
        self._presented = presented
        self._hostname = hostname
        self._clock = clock
        self._sessions = Sessions(settings.sessions, settings.session_idle_s, settings.session_life_s, clock)
        self._vm_start: str | None = None
        """Which start of the VM the sessions belong to; None: not known, and there are none."""
        self._changes = Bucket(settings.change_rate, settings.change_burst, clock, tokens=changes)
        self._ports = PortStatus(settings.port_status, clock)
        self._heartbeats = Heartbeats(settings.heartbeat)
        # One change at a time: two host names at once would each wait for their own.
        self._changing = asyncio.Lock()
        self._reboot: asyncio.TimerHandle | None = None

    async def execute(self, request: Request, connected_at: float) -> AnyResult:
        """Carry out one request and give the answer to it.

        Args:
            request: what the front-end wants.
            connected_at: when its connection was accepted, in seconds of CLOCK_MONOTONIC.
        """
        do = request.do
        name = str(do.__struct_config__.tag)
        peer = f"{do.service} {do.address}" if isinstance(do, SessionOpen) else ""
        admitted = False
        session = None
        try:
            session = self._admit(request)
            admitted = True
            peer = session.where if session else peer
            if isinstance(do, BEGUN):
                await self._tell(do, session, peer, "begun")
            result = await self._carry_out(do, session, connected_at)
        except Refused as refused:
            result = refused.error
        except Exception:
            # The details may hold paths and more: they are for the host's log, not for the VM.
            log.exception("%s", name)
            result = Error("failed", "internal error; the appliance's log has the details")
        if isinstance(result, Error):
            if admitted and isinstance(do, BEGUN):
                await self._tell(do, session, peer, result.code, result.message)
            else:
                # What needs no password, or changes nothing, can be had in any number.
                await self._audit.reject(
                    "instruction", instruction=name, peer=peer, outcome=result.code, detail=result.message
                )
        elif isinstance(do, BEGUN):
            await self._tell(do, session, peer, "ok", do.hostname if isinstance(do, HostnameSet) else "")
        elif isinstance(result, Session):
            opened = session_name(result.token)
            await self._audit.record(
                "instruction", kind=SESSIONS, instruction=name, peer=peer, session=opened, outcome="ok"
            )
        await self._tell_ends()
        return result

    async def look(self) -> None:
        """Audit what ended by itself; to be called now and then."""
        self._follow_vm()
        self._sessions.expire()
        await self._tell_ends()

    async def _tell(
        self, do: AnyInstruction, session: OpenSession | None, peer: str, outcome: str, detail: str = ""
    ) -> None:
        await self._audit.record(
            "instruction",
            kind=CHANGES,
            instruction=str(do.__struct_config__.tag),
            peer=peer,
            session=session.name if session else "",
            outcome=outcome,
            detail=detail,
            budget=int(self._changes.level()),
        )

    async def _tell_ends(self) -> None:
        while self._sessions.ended:
            session, reason = self._sessions.ended.popleft()
            await self._audit.record(
                "session.end", kind=SESSIONS, peer=session.where, session=session.name, outcome=reason
            )

    async def close(self) -> None:
        """End all sessions and let go of the sockets; a reboot that was promised is asked for now."""
        self._sessions.close_all("stop")
        await self._tell_ends()
        self._heartbeats.close()
        if self._reboot is not None:
            self._reboot.cancel()
            self._request_reboot()

    def _follow_vm(self) -> None:
        """End all sessions when the VM was started anew: what the old one knew or said, taken over or not, is void.

        So are they when the supervisor's state is missing or cannot be read: nobody can say whose sessions they are.
        """
        try:
            state = vm_state.read(self._settings.machine_state)
            start = state.start_id if state else None
        except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
            start = None
            if self._vm_start is not None:
                log.error("%s cannot be used (%s)", self._settings.machine_state, type(error).__name__)
        if start != self._vm_start:
            self._vm_start = start
            self._sessions.close_all("vm")
            self._throttle.forget()

    def _admit(self, request: Request) -> OpenSession | None:
        session = None
        if not isinstance(request.do, Heartbeat):
            self._follow_vm()
        if not isinstance(request.do, SessionOpen | Heartbeat | CertificateGet):
            session = self._sessions.find(request.token)
            if session is None:
                raise Refused("denied", "no such session; log in")
        if isinstance(request.do, BEGUN) and (wait := self._changes.take()) > 0.0:
            raise Refused("limited", "too many changes", retry_after_s=wait)
        return session

    async def _carry_out(self, do: AnyInstruction, session: OpenSession | None, connected_at: float) -> AnyResult:
        match do:
            case Heartbeat():
                self._heartbeats.beat(connected_at)
                return Done()
            case CertificateGet():
                return self._certificate()
            case SessionOpen():
                return await self._open_session(do)
        # Not an assertion, which -O would remove.
        if session is None:
            raise Refused("denied", "no such session; log in")
        match do:
            case SessionClose():
                self._sessions.close(session)
            case StatusGet():
                return self._host.get(self._audit.state())
            case PortsList():
                return await self._list_ports()
            case HostnameSet():
                await self._set_hostname(do.hostname)
            case PasswordSet():
                await self._passwords.change(do.old, do.new, session.peer)
                self._sessions.close_others(session)
            case SystemReboot():
                self.schedule_reboot()
        return Done()

    def _certificate(self) -> Certificate:
        public = self._presented.get()
        if public is None:
            raise Refused("failed", "there is no certificate that can be read")
        self._presented.announce([])  # to be compared with what the VM then shows
        return Certificate(pem=public.certificate)

    async def _open_session(self, do: SessionOpen) -> Session:
        try:
            peer = Peer.parse(do.address)
        except ValueError:
            raise Refused("malformed", "`address` is not an IP address") from None
        start = self._vm_start
        if start is None:
            raise Refused("failed", "logins are refused: which front-end VM runs is not known; if it stays so, reboot")
        await self._passwords.check(do.user, do.password, peer)
        if start != self._vm_start:
            raise Refused("denied", "the front-end VM was started anew; log in")
        return Session(token=self._sessions.open(do.service, peer), idle_s=int(self._settings.session_idle_s))

    async def _list_ports(self) -> Ports:
        try:
            return await self._ports.get()
        except OSError as error:
            log.warning("port status: %s", ascii(str(error) or type(error).__name__))
            raise Refused("failed", "the port's counters cannot be read now") from None

    async def _set_hostname(self, name: str) -> None:
        content = name.encode("ascii") + b"\n"
        async with self._changing:
            await self._disk.run(lambda: store.replace(self._settings.data / "hostname", content))
            store.replace(self._settings.request / "hostname", content, durable=False)
            try:
                async with asyncio.timeout(self._settings.hostname_s):
                    while self._hostname() != name:  # noqa: ASYNC110 - another process sets it, no event can
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                raise Refused("failed", "the name is stored but not in force yet; a reboot will do it") from None

    def schedule_reboot(self) -> None:
        """Ask for the reboot of the host, in time for the reply to get out."""
        if self._reboot is None:
            self._reboot = asyncio.get_running_loop().call_later(self._settings.reboot_delay_s, self._request_reboot)

    def _request_reboot(self) -> None:
        self._reboot = None
        try:
            store.replace(self._settings.request / "reboot", b"reboot\n", durable=False)
        except OSError as error:
            log.error("cannot ask for the reboot: %s", error)
