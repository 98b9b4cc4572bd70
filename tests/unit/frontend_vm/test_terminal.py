"""Every key at every kind of prompt, over a real SSH channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh
import pytest

from frontend_vm.cli import Cancelled, LineTooLong, Prompt
from frontend_vm.key_parser import KeyParser
from frontend_vm.terminal import MAX_LINE_LENGTH, TerminalSession
from tests.unit.frontend_vm.rig import DEADLINE

KEY = asyncssh.generate_private_key("ssh-ed25519")
CANCELLED, TOO_LONG, END = "<cancelled>", "<overlong>", "<end>"
KINDS = pytest.mark.parametrize("kind", Prompt, ids=lambda kind: kind.name.lower())


class Bench:
    """A terminal on whose other side is a loop that asks."""

    def __init__(self) -> None:
        self.kinds: list[Prompt] = []
        """Asked for in turn, the last one for ever."""
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.asked = 0
        self.shown = b""
        self.ready = asyncio.Event()
        """Cleared while nothing is asked, as if a command were carried out."""
        self.ready.set()
        self.process: asyncssh.SSHClientProcess[bytes]

    async def serve(self, terminal: TerminalSession, _command: str | None) -> int:
        while True:
            await self.ready.wait()
            kind = self.kinds[min(self.asked, len(self.kinds) - 1)]
            self.asked += 1
            try:
                line = await terminal.ask(f"<{self.asked}> ", kind)
            except Cancelled:
                line = CANCELLED
            except LineTooLong:
                line = TOO_LONG
            except EOFError:
                self.lines.put_nowait(END)
                return 7
            self.lines.put_nowait(line)

    async def prompt(self) -> None:
        """Wait for the prompt that is due."""
        due = f"<{self.asked}> ".encode()
        async with asyncio.timeout(DEADLINE):
            while due not in self.shown:
                chunk = await self.process.stdout.read(4096)
                assert chunk, self.shown
                self.shown += chunk

    async def line(self) -> str:
        return await asyncio.wait_for(self.lines.get(), DEADLINE)

    async def type(self, text: str | bytes, *, split: bool = False) -> str:
        """Type at the next prompt; gives the line that came of it."""
        await self.prompt()
        data = text.encode() if isinstance(text, str) else text
        for piece in [data[i : i + 1] for i in range(len(data))] if split else [data]:
            self.process.stdin.write(piece)
            if split:
                await asyncio.sleep(0)
        return await self.line()


@asynccontextmanager
async def terminal(*kinds: Prompt, term_type: str | None = "xterm") -> AsyncIterator[Bench]:
    bench = Bench()
    bench.kinds = list(kinds)

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

        def session_requested(self) -> TerminalSession:
            return TerminalSession(bench.serve, lambda: None, 60.0)

    async with asyncssh.listen(
        "127.0.0.1", 0, server_factory=Server, server_host_keys=[KEY], config=None, errors="replace",
        max_line_length=MAX_LINE_LENGTH,
    ) as acceptor, asyncssh.connect(
        "127.0.0.1", acceptor.get_port(), known_hosts=None, config=None, client_keys=None, username="admin",
    ) as connection:  # fmt: skip
        bench.process = await connection.create_process(term_type=term_type, term_size=(80, 24), encoding=None)
        yield bench


LEFT, RIGHT = "\x1b[D", "\x1b[C"
EDITS = {
    "nothing": ("", ""),
    "backspace": ("gateX\x7f", "gate"),
    "Ctrl-H": ("gateX\x08", "gate"),
    "backspace with Alt": ("gateX\x1b\x7f", "gate"),
    "backspace of two bytes": ("gäate\x1b[D\x1b[D\x1b[D\x7f", "gate"),
    "backspace of a wide character": ("g🐎\x7fate", "gate"),
    "backspace of an accent": ("ga\u0308\x7fte", "gate"),
    "backspace in nothing": ("\x7f\x7fgate", "gate"),
    "Ctrl-U": ("wrong\x15gate", "gate"),
    "Ctrl-W": ("gate one  \x17\x17gate", "gate"),
    "Ctrl-W in nothing": ("\x17gate", "gate"),
    "Ctrl-K": (f"gatexx{LEFT}{LEFT}\x0b", "gate"),
    "Ctrl-A and Ctrl-E": ("at\x01g\x05e", "gate"),
    "Home and End": ("at\x1b[Hg\x1b[Fe", "gate"),
    "the other Home and End": ("at\x1b[1~g\x1b[4~e", "gate"),
    "left and right": (f"ate{LEFT}{LEFT}{LEFT}g{RIGHT}", "gate"),
    "delete": (f"gaXte{LEFT}{LEFT}{LEFT}\x1b[3~", "gate"),
    "Ctrl-D in a line": (f"gaXte{LEFT}{LEFT}{LEFT}\x04", "gate"),
    "Ctrl-D at the end of a line": ("gate\x04", "gate"),
    "Ctrl-L and Ctrl-R": ("ga\x0cte\x12", "gate"),
    "other controls": ("\0g\x02\x06a\x0ft\x13e\x1a\x1d\x1e\x1f", "gate"),
    "no-break space": ("ga\u00a0te", "ga\u00a0te"),
    "format characters": ("ga\u200dte\u202e", "ga\u200dte\u202e"),
    "the longest": ("x" * MAX_LINE_LENGTH, "x" * MAX_LINE_LENGTH),
    "longer": ("x" * (MAX_LINE_LENGTH + 1), TOO_LONG),
    "much longer": ("x" * 5000, TOO_LONG),
    "longer and cut by hand": ("x" * 1100 + "\x7f" * 500, TOO_LONG),
    "longer and begun anew": ("x" * 1100 + "\x15gate", "gate"),
    "after a longer one": ("gate", "gate"),
}
SEQUENCES = [
    "\x1bOP", "\x1b[11~", "\x1b[15~", "\x1b[24~", "\x1b[[A", "\x1b[[E", "\x1b[1;5C", "\x1b[1;2A", "\x1bO5C",
    "\x1b[5~", "\x1b[2~", "\x1b[<0;10;10M", "\x1b[?1;2c", "\x1b[24;80R", "\x1b[I", "\x1b[O", "\x1b[200~", "\x1b[201~",
    "\x1b[38;5;1m", "\x1b]11;rgb:0000/0000/0000\x1b\\", "\x1b]0;title\x07", "\x1bP1$r0m\x1b\\", "\x1b_G\x1b\\",
    "\x1b(B", "\x1b#8", "\x1bx",
    "\x1b\x1bx", "\x9b15~", "\x9d0;title\x9c", "\x90q\x9c", "\x8fP", "\x85", "\x1b[" + "1;" * 20 + "m",
]  # fmt: skip
CANCELLING = [
    "\x03",
    "\x1c",
    "\x07",
    "\x1b[33~",
    "\x1b\x03",
    "\x1b[\x03",
    "\x1b]0;\x03",
    "\x9b1\x03",
    "\x1bO\x03",
    "\x03\x03",
]


@KINDS
def test_keys_edit_the_line_at_every_prompt(kind: Prompt) -> None:
    async def scenario() -> None:
        async with terminal(kind) as bench:
            for what, (typed, line) in EDITS.items():
                assert await bench.type(f"{typed}\r") == line, what
            for end in "\r", "\n", "\r\n", "\x1bOM":
                assert await bench.type(f"gate{end}") == "gate", repr(end)
            assert await bench.type("gate\r") == "gate"
            assert await bench.type("\nte\r") == "te", "the LF of a CR LF that came late would be a line"

    asyncio.run(scenario())


@KINDS
@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
def test_keys_that_are_not_known_leave_nothing_in_the_line(kind: Prompt, *, split: bool) -> None:
    async def scenario() -> None:
        async with terminal(kind) as bench:
            for sequence in SEQUENCES:
                assert await bench.type(f"ga{sequence}te\r", split=split) == "gate", repr(sequence)
            assert await bench.type(b"g\xc3\xa4te\r", split=split) == "gäte"
            assert await bench.type(b"g\xff\xc3te\r", split=split) == "g\ufffd\ufffdte"
            # What never ends swallows no line.
            for begun in "\x1b", "\x1b[", "\x1b[1", "\x1b]0;", "\x1bP", "\x1bO":
                assert await bench.type(f"gate{begun}\r", split=split) == "gate", repr(begun)
            assert await bench.type("gate\r", split=split) == "gate", "the control"

    asyncio.run(scenario())


@KINDS
def test_every_key_that_cancels_drops_the_line_at_every_prompt(kind: Prompt) -> None:
    async def scenario() -> None:
        async with terminal(kind) as bench:
            for key in CANCELLING:
                assert await bench.type(f"reboot --yes{key}") == CANCELLED, repr(key)
                assert await bench.type("\r") == "", repr(key)
                assert await bench.type(f"one\rtwo\rthree{key}") == CANCELLED, repr(key)
            await bench.prompt()
            bench.process.stdin.write(b"reboot --yes")
            bench.process.send_signal("INT")
            assert await bench.line() == CANCELLED
            assert await bench.type("\r") == ""
            await bench.prompt()
            bench.process.stdin.write(b"reboot --yes")
            bench.process.send_break(0)
            assert await bench.line() == CANCELLED
            assert await bench.type("\r") == ""
            if kind is not Prompt.COMMAND:
                assert await bench.type("\x04") == CANCELLED
                assert await bench.type("gate\r") == "gate"
            else:
                assert await bench.type("\x04") == END

    asyncio.run(scenario())


@KINDS
def test_a_line_without_an_end_is_no_line(kind: Prompt) -> None:
    async def scenario() -> None:
        async with terminal(kind) as bench:
            await bench.prompt()
            bench.process.stdin.write(b"reboot --yes")
            bench.process.stdin.write_eof()
            assert await bench.line() == END
            assert (await asyncio.wait_for(bench.process.wait(), DEADLINE)).exit_status == 7

    asyncio.run(scenario())


@KINDS
def test_the_window_may_change_at_any_time(kind: Prompt) -> None:
    async def scenario() -> None:
        async with terminal(kind) as bench:
            for width in 1, 0, 2**32 - 1, 7, 80:
                await bench.prompt()
                bench.process.stdin.write("ga🐎".encode())
                bench.process.change_terminal_size(width, 1)
                bench.process.stdin.write(f"te{LEFT}".encode())
                bench.process.change_terminal_size(40, 1)
                assert await bench.type(f"{RIGHT}{'x' * 100}\r") == f"ga🐎te{'x' * 100}"

    asyncio.run(scenario())


def test_several_commands_may_be_pasted() -> None:
    async def scenario() -> None:
        async with terminal(Prompt.COMMAND) as bench:
            await bench.prompt()
            many = [f"line {number}" for number in range(500)]
            bench.process.stdin.write("\r\n".join([*many, "rest"]).encode())
            assert [await bench.line() for _ in many] == many
            assert await bench.type("\r") == "rest"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [Prompt.CONFIRM, Prompt.HIDDEN], ids=["confirm", "hidden"])
def test_what_was_typed_before_a_question_is_no_answer(kind: Prompt) -> None:
    async def scenario() -> None:
        async with terminal(Prompt.COMMAND, kind, kind, Prompt.COMMAND) as bench:
            assert await bench.type("reboot\ryes\ryes\r") == "reboot"
            assert await bench.type("no\ryes\ryes") == "no"
            assert await bench.type("\rfourth\r") == ""
            assert await bench.type("status\r") == "status"

    asyncio.run(scenario())


def test_a_cancel_before_a_question_cancels_it() -> None:
    async def scenario() -> None:
        async with terminal(Prompt.COMMAND, Prompt.CONFIRM, Prompt.COMMAND) as bench:
            await bench.prompt()
            bench.ready.clear()
            assert await bench.type("reboot\r") == "reboot"
            bench.process.stdin.write(b"yes\r\x03yes\r")
            while b"^C" not in bench.shown:
                bench.shown += await bench.process.stdout.read(4096)
            bench.ready.set()
            assert await bench.line() == CANCELLED
            assert await bench.type("status\r") == "status"

    asyncio.run(scenario())


def test_a_secret_is_never_shown_and_nothing_else_gets_into_it() -> None:
    async def scenario() -> None:
        async with terminal(Prompt.COMMAND, Prompt.COMMAND, *[Prompt.HIDDEN] * 6, Prompt.COMMAND) as bench:
            await bench.prompt()
            assert await bench.type("commandline\x15status\r") == "status"
            assert await bench.type("password\r") == "password"
            await bench.prompt()
            mark = len(bench.shown)
            assert await bench.type("\x1b[A\x1bOA\x10\x1b[B\r") == "", "history"
            assert await bench.type("\x19\r") == "", "what was erased"
            assert await bench.type("stat\t\r") == "stat", "completion"
            assert await bench.type("secret\x15\x19secret\x17\x19secret\x01\x0b\x19\r") == ""
            bench.process.stdin.write(b"secret")
            bench.process.change_terminal_size(40, 10)
            assert await bench.type(f"{LEFT}{LEFT}\x0c\x12{RIGHT}\r") in ("secret", "")
            assert await bench.type("secret\rsecret\rsecret") == "secret"
            assert await bench.type("\x19\x1b[A\r") == "password"
            await bench.prompt()
            assert b"secret" not in bench.shown
            assert b"secr" not in bench.shown[mark:]
            assert b"password" in bench.shown[mark:], "the control: what is no secret is shown"

    asyncio.run(scenario())


def test_lines_without_a_terminal() -> None:
    async def scenario() -> None:
        async with terminal(Prompt.COMMAND, term_type=None) as bench:
            bench.process.stdin.write(b"one\ntwo\r\n" + b"x" * 5000 + b"\nth\x03ree\n\xff\nlast")
            bench.process.stdin.write_eof()
            assert [await bench.line() for _ in range(7)] == [
                "one", "two", TOO_LONG, "th\x03ree", "\ufffd", "last", END
            ]  # fmt: skip

    asyncio.run(scenario())


def test_a_string_that_never_ends_is_over_one_day() -> None:
    texts: list[str] = []
    keys = KeyParser(texts.append, texts.append)
    keys.feed("\x1b]" + "x" * 100_000)
    assert len("".join(texts)) > 90_000
    texts.clear()
    keys.feed("\x1b[" + "1" * 1000)
    assert len("".join(texts)) >= 900
