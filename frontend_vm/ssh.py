"""The SSH server: one account, passwords only, sessions only, and bounds on what strangers may hold.

The backend judges the password; here is neither password nor hash. The session's token lives as long as the
connection.
"""

from __future__ import annotations

import asyncio
import ctypes.util
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from frontend_vm.cli import FAILED, OK, CommandLine, complete
from frontend_vm.link import Link, Refused, Unreachable
from frontend_vm.log import printable
from frontend_vm.settings import peer_address

# asyncssh looks for liboqs and libnettle, for algorithms that are not offered here. The search starts ldconfig and
# a compiler if there is one, which is slow under emulation.
_find_library = ctypes.util.find_library
ctypes.util.find_library = lambda name: None
try:
    import asyncssh
    from asyncssh.editor import SSHLineEditor
finally:
    ctypes.util.find_library = _find_library

if TYPE_CHECKING:
    from asyncssh.editor import SSHLineEditorChannel

log = logging.getLogger("ssh")


class LineEditor(SSHLineEditor):
    """asyncssh's, without holding up the event loop for each terminal.

    It looks at 65,536 characters to learn which runs can be inserted at once, at its creation and again for each
    key. Runs of ASCII suffice: where the pattern matches nothing, a printable character is inserted on its own.
    """

    _printable = re.compile("[ -~]*")

    def _build_printable(self) -> None:
        """Nothing: see above."""


asyncssh.editor.SSHLineEditor = LineEditor  # type: ignore[misc]

MAX_STRANGERS = 8
"""Connections that have not logged in; the oldest makes room for the newest."""
MAX_OPERATORS = 8
MAX_CHANNELS = 4
"""Sessions of one connection at a time."""
MAX_TRIES = 3
"""Passwords that one connection may try."""
MAX_STRANGER_BYTES = 65536
"""Bytes that a connection may send before it has logged in: OpenSSH, paramiko and asyncssh need below 4 KiB.
asyncssh itself would believe, and wait for, a first packet of any length (4 GiB)."""
LOGIN_TIMEOUT = 30.0
IDLE_TIMEOUT = 600.0
"""Seconds at a prompt without a line."""
WINDOW = 65536
"""Bytes that a channel may send ahead (RFC 4254 section 5.2)."""
MAX_LINE_LENGTH = 1024

KEX = ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"]
CIPHERS = ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr"]
MACS = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]


class SecureShell:
    """All SSH connections.

    Args:
        key: file of the host key, PEM PKCS #8.
        link: the way to the backend.

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
        self.strangers: dict[Connection, None] = {}  # in order of arrival
        self.operators: set[Connection] = set()

    async def listen(self, listeners: list[socket.socket]) -> None:
        """Serve on sockets that listen already."""
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
                line_history=50,
                window=WINDOW,
                errors="replace",
            )
            self._acceptors.append(acceptor)

    def close(self) -> None:
        """Stop listening and end all connections."""
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in [*self.strangers, *self.operators]:
            connection.abort()


class Connection(asyncssh.SSHServer):
    """One SSH connection. What is not overridden here (forwarding of any kind, tunnels) asyncssh refuses."""

    def __init__(self, shell: SecureShell, link: Link) -> None:
        self._shell = shell
        self._link = link
        self._connection: asyncssh.SSHServerConnection | None = None
        self._peer = ""
        self._token = ""
        self._tries = 0
        self._received = 0
        self.channels = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """A stranger has connected."""
        self._connection = conn
        self._peer = f"ssh {peer_address(str((conn.get_extra_info('peername') or ['unknown'])[0]))}"
        strangers = self._shell.strangers
        if len(strangers) >= MAX_STRANGERS:
            next(iter(strangers)).abort()
        strangers[self] = None

        receive = conn.data_received

        def receive_bounded(data: bytes, datatype: asyncssh.DataType = None) -> None:
            if self in strangers:
                self._received += len(data)
                if self._received > MAX_STRANGER_BYTES:
                    self.abort()
                    return
            receive(data, datatype)

        conn.data_received = receive_bounded  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, and with it the session."""
        self._shell.strangers.pop(self, None)
        self._shell.operators.discard(self)
        if self._token:
            self._link.logout(self._token)
            self._token = ""

    def abort(self) -> None:
        """End the connection without a word."""
        self._shell.strangers.pop(self, None)
        if self._connection is not None:
            self._connection.abort()

    def begin_auth(self, username: str) -> bool:
        """Everybody must log in."""
        return True

    def password_auth_supported(self) -> bool:
        """The one way in."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Have the backend judge; why it said no is told only where the operator can do something about it."""
        self._tries += 1
        if self._tries > MAX_TRIES:
            raise asyncssh.DisconnectError(asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many attempts")
        if len(self._shell.operators) >= MAX_OPERATORS:
            self._tell("Too many operators are logged in.")
            return False
        try:
            session = await self._link.login(username, password, self._peer)
        except Refused as refusal:
            if refusal.error.code == "limited":
                self._tell(f"Too many failed logins. Try again in {refusal.error.retry_after_s:.0f} s.")
            return False
        except Unreachable as error:
            self._tell(str(error))
            return False
        if self not in self._shell.strangers:  # gone while the backend thought
            self._link.logout(session.token)
            return False
        self._token = session.token
        return True

    def auth_completed(self) -> None:
        """The stranger is an operator."""
        self._shell.strangers.pop(self, None)
        self._shell.operators.add(self)

    def session_requested(self) -> asyncssh.SSHServerProcess[str] | bool:
        """Open a session, unless there are many."""
        if self.channels >= MAX_CHANNELS:
            return False
        return Session(self)

    async def serve(self, process: asyncssh.SSHServerProcess[str]) -> None:
        """One session: one command, or lines until the end."""
        self.channels += 1
        status = FAILED
        try:
            status = await self._serve(process)
        except (EOFError, OSError, asyncssh.Error):
            pass  # the other side is gone, or was silent for too long
        finally:
            self.channels -= 1
            process.exit(status)

    async def _serve(self, process: asyncssh.SSHServerProcess[str]) -> int:
        terminal = SessionTerminal(process)
        command_line = CommandLine(terminal, self._link, self._token)
        if process.command is not None:
            return await command_line.execute(process.command)
        status = OK
        if terminal.interactive:
            terminal.complete_with(complete)
            terminal.write("Sallyport command line; 'help' lists all commands.\n")
        while not command_line.finished:
            prompt = await command_line.prompt() if terminal.interactive else ""
            try:
                line = await terminal.ask(prompt)
            except EOFError:
                break
            status = await command_line.execute(line)
        return status

    def _tell(self, text: str) -> None:
        if self._connection is not None and self in self._shell.strangers:
            self._connection.send_auth_banner(printable(text) + "\r\n")


class Session(asyncssh.SSHServerProcess[str]):
    """A session channel: a shell or a command, no subsystem such as SFTP."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.serve, None, 0, False)

    def subsystem_requested(self, subsystem: str) -> bool:
        """Refuse."""
        return False


class SessionTerminal:
    """A session channel as the command line's terminal."""

    def __init__(self, process: asyncssh.SSHServerProcess[str]) -> None:
        self.interactive = process.term_type is not None
        self._process = process

    def write(self, text: str) -> None:
        """Print to standard output."""
        self._process.stdout.write(text)

    def complain(self, text: str) -> None:
        """Print to standard error, which a terminal does not have apart."""
        (self._process.stdout if self.interactive else self._process.stderr).write(text)

    def complete_with(self, handler: Callable[[str, int], tuple[str, int] | bool]) -> None:
        """Have the tab key call a handler with the line and the cursor's position."""
        cast("SSHLineEditorChannel", self._process.channel).register_key("\t", handler)

    async def ask(self, prompt: str, hidden: bool = False) -> str:
        """Print a prompt and read one line; Ctrl-C begins anew with an empty one.

        Raises:
            EOFError: the end of input, Ctrl-D, or `IDLE_TIMEOUT` without a line.
        """
        editor = cast("SSHLineEditorChannel", self._process.channel)
        if hidden:
            editor.set_echo(False)
        try:
            self.write(prompt)
            async with asyncio.timeout(IDLE_TIMEOUT):
                while True:
                    try:
                        line = await self._process.stdin.readline()
                    except asyncssh.TerminalSizeChanged:
                        continue
                    except (asyncssh.BreakReceived, asyncssh.SignalReceived):
                        self.write("\n")
                        return ""
                    if not line:
                        self.write("\n" if self.interactive else "")
                        raise EOFError
                    return line.rstrip("\r\n")
        except TimeoutError as error:
            raise EOFError("silent for too long") from error
        finally:
            if hidden:
                editor.set_echo(True)
