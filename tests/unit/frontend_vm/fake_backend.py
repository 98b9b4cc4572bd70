"""A backend without a host: real TLS, real schema, state in memory, and switches for what goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
import time
from pathlib import Path
from typing import Any

from msgspec import structs

from backend.daemon import password_form
from frontend_vm.protocol.base import Done, Error
from frontend_vm.protocol.codec import MAX_LINE, Reply, Request, decode_request, encode
from frontend_vm.protocol.instructions import AnyInstruction, AnyResult
from frontend_vm.protocol.port import Counter, Port, Ports, PortsList
from frontend_vm.protocol.session import PasswordSet, Session, SessionClose, SessionOpen
from frontend_vm.protocol.system import AuditLog, HostnameSet, Status, StatusGet, Storage, SystemReboot
from frontend_vm.protocol.vm import Certificate, CertificateGet, Heartbeat, VmStatus
from frontend_vm.words import WORDS

PASSWORD = "correct horse battery"
BRIDGE_ONLY = ("to_host", "from_host", "other")
"""Verdicts of way ``bridge``, which have no direction."""


class FakeBackend:
    """Answers every instruction; `requests` holds all that arrived but heartbeats, which are counted."""

    def __init__(self, directory: Path) -> None:
        self.password = PASSWORD
        self.hostname = "sallyport"
        self.last_exit = ""
        self.storage = Storage("ok", "")
        self.certificate_requests = 0
        """How often the certificate was asked for."""
        self.certificate = (directory / "web.crt").read_text()
        self.port_changes: dict[str, Any] = {}
        """Fields of `Port` that are to be otherwise."""
        self.limited = 0.0
        """Seconds that failed logins are to wait."""
        self.silent = False
        self.junk = b""
        """Sent instead of the next reply, and then the connection is closed."""
        self.idle_s = 600
        self.last_seq = 0
        self.heartbeats = 0
        self.tokens: set[str] = set()
        self.requests: list[AnyInstruction] = []
        self.port = 0
        self._started = time.monotonic()
        self._frames = itertools.count(1200, 37)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(directory / "backend.crt", directory / "backend.key")
        self._context.load_verify_locations(directory / "link.crt")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._context, limit=MAX_LINE
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Vanish."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                request = decode_request(line)
                if self.silent:
                    continue
                if self.junk:
                    writer.write(self.junk)
                    await writer.drain()
                    break
                writer.write(encode(Reply(seq=request.seq, result=self._answer(request))))
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, request: Request) -> AnyResult:
        if request.seq <= self.last_seq:
            return Error(code="replayed", message="seen before", last_seq=self.last_seq)
        self.last_seq = request.seq
        if isinstance(request.do, Heartbeat):
            self.heartbeats += 1
            return Done()
        if isinstance(request.do, CertificateGet):
            self.certificate_requests += 1
            return Certificate(pem=self.certificate)
        self.requests.append(request.do)
        if isinstance(request.do, SessionOpen):
            if self.limited:
                return Error(code="limited", message="Too many failed logins.", retry_after_s=self.limited)
            if request.do.user != "admin" or not self._is_password(request.do.password):
                return Error(code="denied", message="Wrong user or password.")
            token = secrets.token_urlsafe(32)
            self.tokens.add(token)
            return Session(token=token, idle_s=self.idle_s)
        if request.token not in self.tokens:
            return Error(code="denied", message="No such session.")
        return self._carry_out(request.do, request.token)

    def _is_password(self, text: str) -> bool:
        """As the host compares them."""
        return password_form.prepare(text) == password_form.prepare(self.password)

    def _carry_out(self, do: AnyInstruction, token: str) -> AnyResult:
        match do:
            case SessionClose():
                self.tokens.discard(token)
            case StatusGet():
                return self._status()
            case PortsList():
                return self._ports()
            case HostnameSet(hostname=name):
                self.hostname = name
            case PasswordSet(old=old, new=new):
                if why := password_form.objection(new):
                    return Error(code="malformed", message=why)
                if not self._is_password(old):
                    return Error(code="denied", message="Wrong password.")
                self.password = new
                self.tokens = {token}
            case SystemReboot():
                pass
        return Done()

    def _status(self) -> Status:
        uptime = time.monotonic() - self._started + 93_784
        return Status(
            hostname=self.hostname,
            product="Sallyport",
            version="0.1.0",
            profile="qemu-x86_64",
            engine="debian",
            image="9f2c4e1b7a60d385c2e1f4a9b87d6053e4c1a2f0b9d8e7c6a5b4938271605f4e",
            boot_id="3b1f0c52-7f4f-4a51-9d0e-2f6f3f1c9a77",
            uptime_s=uptime,
            load_1m=0.18,
            memory_total=2_055_208_960,
            memory_available=1_402_208_960,
            data_total=1_073_741_824,
            data_available=961_741_824,
            storage=self.storage,
            machine=VmStatus(
                state="running",
                accelerator="kvm",
                accelerator_reason="a trial guest ran to its end on /dev/kvm in 0.4 s",
                starts=1,
                uptime_s=uptime - 9,
                last_exit=self.last_exit,
            ),
            web_fingerprint=":".join(["5A"] * 32),
            ssh_fingerprint="SHA256:" + "s" * 43,
            audit=AuditLog(state="whole", fault="", entries=41, head="7c" * 32),
        )

    def _ports(self) -> Ports:
        frames = next(self._frames)
        got = {"rx_passed": (frames, 212), "rx_destination": (frames // 9, 74), "rx_ethertype": (3, 64)}
        got |= {"tx_passed": (frames - 40, 611), "tx_spoofed": (2, 60)}
        verdicts = []
        for name in (f"{direction}_{verdict}" for direction in ("rx", "tx") for verdict in WORDS.verdicts):
            count, length = got.get(name, (0, 0))
            verdicts.append(Counter(name=name, frames=count, bytes=count * length))
        port = Port(
            name="mgmt0",
            mac="52:54:00:5a:11:01",
            carrier=True,
            rx_frames=frames + frames // 9 + 3,
            rx_bytes=frames * 215,
            tx_frames=frames - 40,
            tx_bytes=(frames - 40) * 611,
            way="ring",
            vm="vhost-user",
            vm_up=True,
            verdicts=[verdict for verdict in verdicts if not verdict.name.endswith(BRIDGE_ONLY)],
            faults=[],
        )
        return Ports(ports=[structs.replace(port, **self.port_changes)])
