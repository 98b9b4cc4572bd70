"""What each instruction does. Whatever goes wrong in here becomes an `Error`; nothing gets out as an exception."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable

import msgspec

from backend import instructions as ins
from backend import machine_state, store
from backend.audit import Audit
from backend.credential import Passwords
from backend.heartbeat import Heartbeats
from backend.host_status import HostStatus
from backend.limits import Bucket, Clock
from backend.peers import Peer
from backend.port_status import PortStatus
from backend.refusal import Refused
from backend.sessions import OpenSession, Sessions
from backend.settings import Settings
from backend.throttle import Throttle
from backend.worker import Worker

log = logging.getLogger("actions")

AnyResult = ins.Done | ins.Session | ins.Status | ins.Ports | ins.Error

POLL_S = 0.05
"""How often to look whether a host name is in force."""
BEGUN = (ins.HostnameSet, ins.PasswordSet, ins.SystemReboot)
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
        *,
        hostname: Callable[[], str] = socket.gethostname,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._audit = audit
        self._passwords = passwords
        self._throttle = throttle
        self._host = host
        self._disk = disk
        self._hostname = hostname
        self._clock = clock
        self._sessions = self._no_sessions()
        self._vm_start: str | None = None
        """Which start of the VM the sessions belong to; None: not known, and there are none."""
        self._changes = Bucket(settings.change_rate, settings.change_burst, clock)
        self._ports = PortStatus(settings.port_status, clock)
        self._heartbeats = Heartbeats(settings.heartbeat)
        # One change at a time: two host names at once would each wait for their own.
        self._changing = asyncio.Lock()
        self._reboot: asyncio.TimerHandle | None = None

    async def execute(self, request: ins.Request, connected_at: float) -> AnyResult:
        """Carry out one request and give the answer to it.

        Args:
            request: what the front-end wants.
            connected_at: when its connection was accepted, in seconds of CLOCK_MONOTONIC.
        """
        do = request.do
        name = str(do.__struct_config__.tag)
        peer = f"{do.service} {do.address}" if isinstance(do, ins.SessionOpen) else ""
        recorded = not isinstance(do, ins.Heartbeat | ins.StatusGet | ins.PortsList)
        admitted = False
        try:
            session = self._admit(request)
            admitted = True
            peer = session.where if session else peer
            if isinstance(do, BEGUN):
                await self._audit.record("instruction", instruction=name, peer=peer, outcome="begun")
            result = await self._carry_out(do, session, connected_at)
        except Refused as refused:
            result = refused.error
        except Exception:
            # The details may hold paths and more: they are for the host's log, not for the VM.
            log.exception("%s", name)
            result = ins.Error("failed", "internal error; the appliance's log has the details")
        if isinstance(result, ins.Error):
            # What needs neither password nor token can be had in any number.
            free = not admitted or result.code == "limited" or not recorded
            write = self._audit.reject if free else self._audit.record
            await write("instruction", instruction=name, peer=peer, outcome=result.code, detail=result.message)
        elif recorded:
            detail = do.hostname if isinstance(do, ins.HostnameSet) else ""
            await self._audit.record("instruction", instruction=name, peer=peer, outcome="ok", detail=detail)
        return result

    def close(self) -> None:
        """Let go of the sockets; a reboot that was promised is asked for now."""
        self._heartbeats.close()
        if self._reboot is not None:
            self._reboot.cancel()
            self._request_reboot()

    def _no_sessions(self) -> Sessions:
        settings = self._settings
        return Sessions(settings.sessions, settings.session_idle_s, settings.session_life_s, self._clock)

    def _follow_vm(self) -> None:
        """End all sessions when the VM was started anew: what the old one knew or said, taken over or not, is void.

        So are they when the supervisor's state is missing or cannot be read: nobody can say whose sessions they are.
        """
        try:
            state = machine_state.read(self._settings.machine_state)
            start = state.start_id if state else None
        except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
            start = None
            if self._vm_start is not None:
                log.error("%s cannot be used (%s)", self._settings.machine_state, type(error).__name__)
        if start != self._vm_start:
            self._vm_start = start
            self._sessions = self._no_sessions()
            self._throttle.forget()

    def _admit(self, request: ins.Request) -> OpenSession | None:
        session = None
        if not isinstance(request.do, ins.Heartbeat):
            self._follow_vm()
        if not isinstance(request.do, ins.SessionOpen | ins.Heartbeat):
            session = self._sessions.find(request.token)
            if session is None:
                raise Refused("denied", "no such session; log in")
        if isinstance(request.do, BEGUN) and (wait := self._changes.take()) > 0.0:
            raise Refused("limited", "too many changes", retry_after_s=wait)
        return session

    async def _carry_out(self, do: ins.AnyInstruction, session: OpenSession | None, connected_at: float) -> AnyResult:
        match do:
            case ins.Heartbeat():
                self._heartbeats.beat(connected_at)
                return ins.Done()
            case ins.SessionOpen():
                return await self._open_session(do)
        # Not an assertion, which -O would remove.
        if session is None:
            raise Refused("denied", "no such session; log in")
        match do:
            case ins.SessionClose():
                self._sessions.close(session)
            case ins.StatusGet():
                return self._host.get()
            case ins.PortsList():
                return await self._list_ports()
            case ins.HostnameSet():
                await self._set_hostname(do.hostname)
            case ins.PasswordSet():
                await self._passwords.change(do.old, do.new, session.peer)
                self._sessions.close_others(session)
            case ins.SystemReboot():
                self._schedule_reboot()
        return ins.Done()

    async def _open_session(self, do: ins.SessionOpen) -> ins.Session:
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
        return ins.Session(token=self._sessions.open(do.service, peer), idle_s=int(self._settings.session_idle_s))

    async def _list_ports(self) -> ins.Ports:
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

    def _schedule_reboot(self) -> None:
        if self._reboot is None:
            self._reboot = asyncio.get_running_loop().call_later(self._settings.reboot_delay_s, self._request_reboot)

    def _request_reboot(self) -> None:
        self._reboot = None
        try:
            store.replace(self._settings.request / "reboot", b"reboot\n", durable=False)
        except OSError as error:
            log.error("cannot ask for the reboot: %s", error)
