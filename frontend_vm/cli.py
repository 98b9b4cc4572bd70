"""The operator's commands: arguments, what they do, what they print. `frontend_vm.ssh` reads them from a connection."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from frontend_vm.link import Link, Unreachable
from frontend_vm.log import printable
from frontend_vm.port_report import report
from frontend_vm.protocol.base import Done
from frontend_vm.protocol.fields import MAX_PASSWORD, MAX_PREPARED, MIN_PREPARED, Hostname
from frontend_vm.protocol.port import Ports, PortsList
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.session import PasswordSet
from frontend_vm.protocol.system import HostnameSet, Status, StatusGet, SystemReboot

OK, FAILED, USAGE = 0, 1, 2
"""Exit statuses."""
MAX_COMMAND = 1024
"""Characters of a command line."""
TEXT = 1024
"""Characters that are printed of one text from the backend; honest ones are shorter."""


class Prompt(Enum):
    """Kind of a prompt."""

    COMMAND = 1
    CONFIRM = 2
    """A decision: what was typed before the question is dropped."""
    HIDDEN = 3
    """A secret: likewise, and it is not echoed."""


class Terminal(Protocol):
    """What the command line needs of a connection."""

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked."""

    def write(self, text: str) -> None:
        """Print to standard output."""

    def write_error(self, text: str) -> None:
        """Print to standard error."""

    async def ask(self, prompt: str, kind: Prompt = Prompt.COMMAND) -> str:
        """Print a prompt and read one line, without its end.

        Raises:
            Cancelled: the operator cancelled the prompt.
            LineTooLong: the line was too long and has been dropped.
            EOFError: the input has ended, or nothing was typed for too long.
        """


class Cancelled(Exception):
    """A prompt was cancelled."""


class LineTooLong(Exception):
    """A line was too long and has been dropped."""


class CommandError(Exception):
    """A command was not carried out: the reason as text, and the exit status."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Command:
    """One command: its function, usage, summary for the help, flags and number of operands."""

    run: Callable[[CommandLine, frozenset[str], list[str]], Awaitable[None]]
    usage: str
    summary: str
    flags: frozenset[str] = frozenset()
    operands: int = 0


class CommandLine:
    """The commands of one operator who is logged in.

    Args:
        terminal: where to print and ask.
        link: the connection to the backend.
        token: the operator's session.
    """

    def __init__(self, terminal: Terminal, link: Link, token: str) -> None:
        self.finished = False
        """Whether the operator or the backend has ended the session."""
        self._terminal = terminal
        self._link = link
        self._token = token

    async def execute(self, line: str) -> int:
        """Carry out one command line; returns its exit status. An empty line does nothing."""
        try:
            words = shlex.split(line[: MAX_COMMAND + 1], comments=False)
            if len(line) > MAX_COMMAND:
                raise LineTooLong
            if words:
                await self._dispatch(words)
        except (CommandError, ValueError) as error:  # ValueError: unbalanced quotes
            self._terminal.write_error(f"{printable(str(error), TEXT)}\n")
            return error.status if isinstance(error, CommandError) else USAGE
        except LineTooLong:
            return self.refuse_line()
        except Cancelled:
            self._terminal.write_error("Cancelled; nothing was changed.\n")
            return FAILED
        except Unreachable as error:
            self._terminal.write_error(f"{error}\n")
            return FAILED
        except Refused as refusal:
            self._print_refusal(refusal)
            return FAILED
        return OK

    def refuse_line(self) -> int:
        """Report that a line was too long; returns the exit status."""
        self._terminal.write_error(f"the line is too long (more than {MAX_COMMAND} characters); nothing was done\n")
        return USAGE

    async def prompt(self) -> str:
        """The prompt: the host name."""
        try:
            return f"{printable((await self._status()).hostname)}> "
        except Unreachable:
            return "(no backend)> "
        except Refused as refusal:
            self._print_refusal(refusal)
            return "> "

    async def _dispatch(self, words: list[str]) -> None:
        # Names of commands have one word or two.
        taken = 2 if " ".join(words[:2]) in COMMANDS else 1
        name, words = " ".join(words[:taken]), words[taken:]
        command = COMMANDS.get(name)
        if command is None:
            longer = [f"{other} {COMMANDS[other].usage}".rstrip() for other in COMMANDS if other.startswith(f"{name} ")]
            raise CommandError(
                f"usage: {'; '.join(longer)}" if longer else f"unknown command: {name}; 'help' lists all commands"
            )
        flags = frozenset(word for word in words if word.startswith("--"))
        operands = [word for word in words if not word.startswith("--")]
        if not flags <= command.flags or len(operands) != command.operands:
            raise CommandError(f"usage: {name} {command.usage}".rstrip())
        await command.run(self, flags, operands)

    def _print_refusal(self, refusal: Refused) -> None:
        error = refusal.error
        text = printable(error.message, TEXT)
        if error.code == "limited":
            text += f" Try again in {error.retry_after_s:.0f} s."
        self._terminal.write_error(text + "\n")
        if error.code == "denied":
            self._terminal.write_error("Your session has ended: log in again.\n")
            self.finished = True

    async def _status(self) -> Status:
        return await self._link.ask(StatusGet(), Status, self._token)

    async def status(self, flags: frozenset[str], _operands: list[str]) -> None:
        """Print the state of the appliance."""
        status = await self._status()
        if flags:
            self._terminal.write(_json(status))
            return
        machine = status.machine
        rows = [
            ("Host name", status.hostname),
            ("Product", f"{status.product} {status.version}"),
            ("Profile", f"{status.profile}, engine {status.engine}"),
            ("Image", status.image),
            ("Boot", status.boot_id),
            ("Uptime", duration(status.uptime_s)),
            ("Load", f"{status.load_1m:.2f}"),
            ("Memory", f"{size(status.memory_available)} of {size(status.memory_total)} available"),
            ("Data", f"{size(status.data_available)} of {size(status.data_total)} available"),
            (
                "Storage",
                f"{status.storage.state}: {status.storage.text}" if status.storage.text else status.storage.state,
            ),
            ("Front-end VM", f"{machine.state}, up {duration(machine.uptime_s)}, started {machine.starts} x"),
            ("Accelerator", f"{machine.accelerator} ({machine.accelerator_reason})"),
            ("Last exit", machine.last_exit or "none"),
            ("Certificate", f"SHA-256 {status.web_fingerprint or 'not known'}"),
            ("SSH host key", status.ssh_fingerprint or "not known"),
            ("Audit log", f"{status.audit.state}{f' ({status.audit.fault})' if status.audit.fault else ''}"),
            ("Audit head", f"changes:{status.audit.entries}:{status.audit.head}"),
        ]
        self._terminal.write("".join(f"{name:<14}{printable(value, TEXT)}\n" for name, value in rows))

    async def ports(self, flags: frozenset[str], _operands: list[str]) -> None:
        """Print the management port's datapath and counters."""
        await self._print_ports(flags, full=False)

    async def forwarder_status(self, flags: frozenset[str], _operands: list[str]) -> None:
        """Print the same in full: every counter, with an explanation."""
        await self._print_ports(flags, full=True)

    async def _print_ports(self, flags: frozenset[str], *, full: bool) -> None:
        ports = await self._link.ask(PortsList(), Ports, self._token)
        self._terminal.write(_json(ports) if flags else "\n".join(report(port, full=full) for port in ports.ports))

    async def hostname(self, _flags: frozenset[str], operands: list[str]) -> None:
        """Set the host name."""
        try:
            name = msgspec.convert(operands[0], Hostname)
        except msgspec.ValidationError:
            raise CommandError("a host name has 1 to 63 of a-z, 0-9 and '-', and no '-' at either end") from None
        await self._link.ask(HostnameSet(hostname=name), Done, self._token)

    async def password(self, _flags: frozenset[str], _operands: list[str]) -> None:
        """Change the password."""
        if not self._terminal.interactive:
            raise CommandError("this command asks for a password, which needs a terminal: use ssh -t")
        old = await self._terminal.ask("Present password: ", Prompt.HIDDEN)
        new = await self._terminal.ask("New password: ", Prompt.HIDDEN)
        if new != await self._terminal.ask("New password again: ", Prompt.HIDDEN):
            raise CommandError("the two new passwords differ; nothing was changed", FAILED)
        if not (0 < len(old) <= MAX_PASSWORD and MIN_PREPARED <= len(new) <= MAX_PASSWORD):
            # The backend checks the rest; this is what the schema would refuse without a useful message.
            raise CommandError(f"a password has {MIN_PREPARED} to {MAX_PREPARED} characters; nothing was changed")
        try:
            await self._link.ask(PasswordSet(old=old, new=new), Done, self._token)
        except Refused as refusal:
            if refusal.error.code == "malformed":
                raise CommandError(f"{refusal.error.message}; nothing was changed") from refusal
            if refusal.error.code != "denied":
                raise
            # The session may be valid; if it is not, the next command says so.
            raise CommandError("the present password is wrong; nothing was changed", FAILED) from refusal
        self._terminal.write("The password was changed. All other sessions have ended.\n")

    async def reboot(self, flags: frozenset[str], _operands: list[str]) -> None:
        """Reboot the appliance."""
        if not flags:
            if not self._terminal.interactive:
                raise CommandError("usage: reboot --yes")
            if (await self._terminal.ask("Reboot the appliance? Type yes: ", Prompt.CONFIRM)).strip() != "yes":
                self._terminal.write("Not rebooted.\n")
                return
        await self._link.ask(SystemReboot(), Done, self._token)
        self._terminal.write("The appliance reboots.\n")
        self.finished = True

    async def help(self, _flags: frozenset[str], _operands: list[str]) -> None:
        """Print all commands."""
        lines = [(f"{name} {command.usage}".rstrip(), command.summary) for name, command in COMMANDS.items()]
        self._terminal.write("".join(f"  {usage:<27}{summary}\n" for usage, summary in lines))

    async def exit(self, _flags: frozenset[str], _operands: list[str]) -> None:
        """End the session."""
        self.finished = True


COMMANDS = {
    "status": Command(CommandLine.status, "[--json]", "show the state of the appliance", frozenset({"--json"})),
    "ports": Command(CommandLine.ports, "[--json]", "show the counters of the management port", frozenset({"--json"})),
    "forwarder status": Command(
        CommandLine.forwarder_status, "[--json]", "show all counters, with explanations", frozenset({"--json"})
    ),
    "hostname": Command(CommandLine.hostname, "NAME", "set the host name", operands=1),
    "password": Command(CommandLine.password, "", "change the password"),
    "reboot": Command(CommandLine.reboot, "[--yes]", "reboot the appliance", frozenset({"--yes"})),
    "help": Command(CommandLine.help, "", "list all commands"),
    "exit": Command(CommandLine.exit, "", "end the session"),
}


def complete(line: str, position: int) -> tuple[str, int] | bool:
    """Complete the name of a command at the cursor; False if there is not exactly one."""
    typed = line[:position]
    fits = [name for name in COMMANDS if name.startswith(typed)]
    if not typed or len(fits) != 1:
        return False
    completed = f"{fits[0]} "
    return completed + line[position:].lstrip(), len(completed)


def duration(seconds: float) -> str:
    """Seconds as text in the two largest units: days and hours, hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: int) -> str:
    """Bytes in binary units (IEC 80000-13)."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def _json(value: Status | Ports) -> str:
    # JSON escapes C0 controls only; a terminal also acts on C1 and bidirectional ones.
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return "".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text) + "\n"
