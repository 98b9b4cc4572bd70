"""The SSH server: one account, passwords only, sessions only, with limits for clients.

The backend checks the password; the VM has neither password nor hash. The session ends with the connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path

from frontend_vm.cli import FAILED, OK, Cancelled, CommandLine, LineTooLong, complete
from frontend_vm.fair_slots import FairSlots
from frontend_vm.link import Link, Unreachable
from frontend_vm.log import printable
from frontend_vm.protocol.peers import UNKNOWN
from frontend_vm.protocol.refusal import Refused
from frontend_vm.settings import peer_at
from frontend_vm.terminal import MAX_LINE_LENGTH, TerminalSession, asyncssh

log = logging.getLogger("ssh")

# asyncssh applies SASLprep (RFC 4013) to each password, and disconnects if that fails (emoji, Hebrew with digits). The
# page does not, so a password that was set there might not work here. The host normalizes passwords of both
# (`backend.daemon.password_form`).
if not hasattr(asyncssh.auth, "saslprep"):
    raise ImportError(
        "asyncssh.auth has no function saslprep to replace: passwords would not be the same as on the page"
    )
asyncssh.auth.saslprep = str

MAX_UNAUTHENTICATED = 16
"""Connections that have not logged in. `FairSlots` chooses which one is closed for a new one beyond."""
MAX_OPERATORS = 8
"""Connections that have logged in. Beyond, the one that is idle for longest is closed: a login is never refused."""
MAX_CHANNELS = 4
"""Sessions of one connection at a time."""
MAX_TRIES = 3
"""Attempts to log in per connection."""
MAX_UNAUTHENTICATED_BYTES = 65536
"""Bytes that a connection may send before it has logged in. OpenSSH, paramiko and asyncssh need less than 4 KiB;
asyncssh's server would accept a first packet of any length up to 4 GiB."""
LOGIN_TIMEOUT = 60.0
"""Seconds for three attempts, including the waits while others guess passwords (`logins`)."""
IDLE_TIMEOUT = 600.0
"""Seconds without a line or a command, at a prompt and for a whole connection (``ssh -N``)."""
WINDOW = 65536
"""Window size of a channel in bytes (RFC 4254 section 5.2)."""

KEX = ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"]
CIPHERS = ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr"]
MACS = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]


class SecureShell:
    """All SSH connections.

    Args:
        key: file of the host key, PEM PKCS #8.
        link: the connection to the backend.

    Raises:
        OSError: the key file cannot be read.
        ValueError: it is not a private key.
    """

    def __init__(self, key: Path, link: Link) -> None:
        try:
            self._key = asyncssh.import_private_key(key.read_bytes())
        except asyncssh.KeyImportError as error:
            raise ValueError(f"{key}: {error}") from error
        self._link = link
        self._acceptors: list[asyncssh.SSHAcceptor] = []
        self.unauthenticated: FairSlots[Connection] = FairSlots(MAX_UNAUTHENTICATED)
        self.operators: set[Connection] = set()

    async def listen(self, listeners: list[socket.socket]) -> None:
        """Serve on listening sockets."""
        for listener in listeners:
            acceptor = await asyncssh.listen(
                sock=listener,
                config=None,
                server_factory=lambda: Connection(self, self._link),
                server_host_keys=[self._key],
                server_version="Sallyport",
                kex_algs=KEX,
                encryption_algs=CIPHERS,
                mac_algs=MACS,
                compression_algs=None,
                password_auth=True,
                public_key_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_host=None,
                gss_kex=False,
                gss_auth=False,
                agent_forwarding=False,
                x11_forwarding=False,
                allow_scp=False,
                sftp_factory=None,
                login_timeout=LOGIN_TIMEOUT,
                keepalive_interval=30,
                keepalive_count_max=3,
                max_line_length=MAX_LINE_LENGTH,
                window=WINDOW,
                errors="replace",
            )
            self._acceptors.append(acceptor)

    def close(self) -> None:
        """Stop listening and end all connections."""
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in [*self.unauthenticated, *self.operators]:
            connection.abort()


class Connection(asyncssh.SSHServer):
    """One SSH connection. asyncssh refuses what is not overridden here: forwarding of any kind, tunnels."""

    def __init__(self, shell: SecureShell, link: Link) -> None:
        self._shell = shell
        self._link = link
        self._connection: asyncssh.SSHServerConnection | None = None
        self._peer = UNKNOWN
        self._token = ""
        self._tries = 0
        self._received = 0
        self._idle: asyncio.TimerHandle | None = None
        self.used_at = 0.0
        self.channels = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """A client has connected and has not logged in yet."""
        self._connection = conn
        self._peer = peer_at((conn.get_extra_info("peername") or ["unknown"])[0])
        unauthenticated = self._shell.unauthenticated
        if evicted := unauthenticated.enter(self, self._peer):
            evicted.abort()

        receive = conn.data_received

        def receive_bounded(data: bytes, datatype: asyncssh.DataType = None) -> None:
            if self in unauthenticated:
                self._received += len(data)
                if self._received > MAX_UNAUTHENTICATED_BYTES:
                    self.abort()
                    return
            receive(data, datatype)

        conn.data_received = receive_bounded  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended; end its session."""
        self._leave()

    def _leave(self) -> None:
        self._shell.unauthenticated.leave(self)
        self._shell.operators.discard(self)
        if self._idle is not None:
            self._idle.cancel()
        if self._token:
            self._link.logout(self._token)
            self._token = ""

    def abort(self) -> None:
        """End the connection without a message."""
        self._leave()
        if self._connection is not None:
            self._connection.abort()

    def end(self, reason: str) -> None:
        """End the connection with a message for the client."""
        self._leave()
        log.info("%s: %s", self._peer.address, reason)
        if self._connection is not None:
            self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, reason)

    def begin_auth(self, username: str) -> bool:
        """Everybody must log in."""
        return True

    def password_auth_supported(self) -> bool:
        """Passwords are the only method."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Have the backend check the password; the client is told why it was refused only if that helps the
        operator."""
        self._tries += 1
        if self._tries > MAX_TRIES:
            raise asyncssh.DisconnectError(asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many attempts")
        try:
            session = await self._link.login(username, password, "ssh", self._peer)
        except Refused as refusal:
            if refusal.error.code == "limited":
                self._send_banner(f"Too many failed logins. Try again in {refusal.error.retry_after_s:.0f} s.")
            elif refusal.error.code == "failed":
                self._send_banner(refusal.error.message)
            return False
        except Unreachable as error:
            self._send_banner(str(error))
            return False
        if self not in self._shell.unauthenticated:  # the client has gone meanwhile
            self._link.logout(session.token)
            return False
        self._token = session.token
        return True

    def auth_completed(self) -> None:
        """The client has logged in."""
        operators = self._shell.operators
        self._shell.unauthenticated.leave(self)
        if len(operators) >= MAX_OPERATORS:
            min(operators, key=lambda one: one.used_at).end(
                "Closed for a new login, as this connection was idle for longest"
            )
        operators.add(self)
        self.use()
        self._watch()

    def use(self) -> None:
        """Record that the operator did something."""
        self.used_at = time.monotonic()

    def _watch(self) -> None:
        left = self.used_at + IDLE_TIMEOUT - time.monotonic()
        if left <= 0:
            self.end("Idle for too long")
        else:
            self._idle = asyncio.get_running_loop().call_later(left, self._watch)

    def session_requested(self) -> TerminalSession | bool:
        """Open a session, unless there are too many."""
        if self.channels >= MAX_CHANNELS:
            return False
        self.channels += 1
        self.use()
        return TerminalSession(self._serve, self._end_channel, IDLE_TIMEOUT)

    def _end_channel(self) -> None:
        self.channels -= 1

    async def _serve(self, terminal: TerminalSession, command: str | None) -> int:
        """One session: one command, or lines until the end."""
        command_line = CommandLine(terminal, self._link, self._token)
        self.use()
        if command is not None:
            return await command_line.execute(command)
        status = OK
        if terminal.interactive:
            terminal.complete_with(complete)
            terminal.write("Sallyport command line; 'help' lists all commands.\n")
        while not command_line.finished:
            prompt = await command_line.prompt() if terminal.interactive else ""
            try:
                line = await terminal.ask(prompt)
            except Cancelled:
                status = FAILED
                continue
            except LineTooLong:
                status = command_line.refuse_line()
                continue
            except EOFError:
                break
            finally:
                self.use()
            status = await command_line.execute(line)
        return status

    def _send_banner(self, text: str) -> None:
        if self._connection is not None and self in self._shell.unauthenticated:
            self._connection.send_auth_banner(printable(text) + "\r\n")
