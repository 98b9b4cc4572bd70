"""A terminal over SSH: keys become lines, one at a time, and a line is asked for by a prompt of a certain kind.

What the keys do is the same at every prompt: Ctrl-C, Ctrl-\\ and Ctrl-G cancel, Ctrl-D ends where the line is empty,
Ctrl-U, Ctrl-W, Ctrl-K and backspace erase, whatever else is no text is swallowed whole and rings the bell. A prompt
that asks for a decision or a secret believes only what was typed after it appeared.
"""

from __future__ import annotations

import asyncio
import ctypes.util
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from frontend_vm.cli import Cancelled, LineTooLong, Prompt
from frontend_vm.key_parser import KeyParser

# asyncssh looks for liboqs and libnettle, for algorithms that are not offered here. The search starts ldconfig and
# a compiler if there is one, which is slow under emulation.
_find_library = ctypes.util.find_library
ctypes.util.find_library = lambda name: None
try:
    import asyncssh
    import asyncssh.editor
    from asyncssh.constants import EXTENDED_DATA_STDERR
finally:
    ctypes.util.find_library = _find_library

if TYPE_CHECKING:
    from asyncssh.editor import SSHLineEditorChannel

__all__ = ["MAX_LINE_LENGTH", "TerminalSession", "asyncssh"]  # asyncssh is to be had here, where it loads quickly

MAX_LINE_LENGTH = 1024
"""Characters; a longer line is refused, not cut."""
MAX_AHEAD = 64
"""Lines that may wait; then the channel waits."""
WIDTHS = (20, 1000)
"""Columns of a terminal that are believed."""

_HISTORY = 50
_Base = asyncssh.editor.SSHLineEditor


class LineEditor(_Base):
    """asyncssh's, with the keys of `KeyParser`, a kind of prompt, and lines that are refused rather than cut.

    asyncssh's own reading of keys inserts the rest of each sequence that it does not know, drops format characters
    without a word, and keeps the line on Ctrl-C, so that the next return carries out what was cancelled. It also looks
    at 65,536 characters for each terminal and each key, which is slow under emulation.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._keys = KeyParser(self._insert_printable, self._press)
        self._prompt = Prompt.COMMAND
        self._too_long = False
        self.set_width(self._width)
        cast("TerminalSession", self._session).editor = self

    def ask(self, kind: Prompt) -> None:
        """Begin an empty line for a prompt of this kind; what was typed under another is nowhere left."""
        self.set_input("", 0)
        self._too_long = False
        self._erased = ""
        self._prompt = kind
        self._history_size = _HISTORY if kind is Prompt.COMMAND else 0
        self.set_echo(kind is not Prompt.HIDDEN)

    def process_input(self, data: str, datatype: asyncssh.DataType) -> None:
        """Take what the terminal sent."""
        self._keys.feed(data)
        self._bell_rung = False
        self._flush()

    def _flush(self) -> None:
        if self._outbuf:
            self._chan.write("".join(self._outbuf))
            self._outbuf.clear()

    def set_width(self, width: int) -> None:
        """The terminal has another width; 0 if it does not know."""
        super().set_width(min(max(width, WIDTHS[0]), WIDTHS[1]) if width else 0)

    def set_line_mode(self, line_mode: bool) -> None:
        """Nothing: asyncssh would hand over a line that has no end when the input ends."""

    def _build_printable(self) -> None:
        """Nothing: see above."""

    def _add_key(self, key: str, func: Callable[[Any], None]) -> None:
        self._keymap[key] = func

    def _press(self, key: str) -> None:
        action = self._keymap.get(key)
        if action is None or (self._prompt is not Prompt.COMMAND and key in _OF_COMMANDS):
            self._ring_bell()
        else:
            cast("Callable[[LineEditor], None]", action)(self)

    def _insert_printable(self, data: str) -> None:
        self._too_long |= len(self._line) + len(data) > self._max_line_length
        super()._insert_printable(data)

    def _end_line(self) -> None:
        if self._too_long:
            self._drop_line("")
            cast("TerminalSession", self._session).refuse_line()
        else:
            super()._end_line()

    def _erase_line(self) -> None:
        super()._erase_line()
        self._too_long = False

    def _erase_word(self) -> None:
        before = self._line[: self._pos]
        begin = len(before.rstrip(" "))
        begin = before.rfind(" ", 0, begin) + 1
        for _ in range(self._pos - begin):
            self._erase_left()

    def cancel(self) -> None:
        """Drop the line, and whatever asked for it."""
        self._drop_line("^C")
        self._flush()
        cast("TerminalSession", self._session).cancel()

    def _drop_line(self, said: str) -> None:
        self._move_to_end()
        self._output(f"{said}\r\n")
        self._reset_line()
        self._too_long = False
        self._history_index = len(self._history)

    _keylist: Any = (  # a later line stands for an earlier one of the same key
        *_Base._keylist,
        (_end_line, ("\n", "\r", "\x1bOM")),
        (_erase_line, ("\x15",)),
        (_erase_word, ("\x17",)),
        (_Base._redraw, ("\x0c",)),
        (cancel, ("\x03", "\x1c", "\x07", "\x1b[33~")),
    )


_OF_COMMANDS = frozenset({"\t", "\x10", "\x0e", "\x1b[A", "\x1bOA", "\x1b[B", "\x1bOB", "\x19"})
"""Keys that would bring something else into the line than what is typed: completion, history, what was erased."""

asyncssh.editor.SSHLineEditor = LineEditor  # type: ignore[misc]


class _Event(Enum):
    """What may stand where a line is waited for."""

    END = 1
    CANCEL = 2
    TOO_LONG = 3


class TerminalSession(asyncssh.SSHServerSession[str]):
    """A session channel, with or without a terminal, as the command line's `cli.Terminal`. No subsystem such as SFTP.

    Args:
        serve: what to do in it, given the command (None: a shell); returns the exit status.
        ended: called once when the channel is gone.
        idle_s: seconds that a line is waited for.
    """

    def __init__(
        self,
        serve: Callable[[TerminalSession, str | None], Awaitable[int]],
        ended: Callable[[], None],
        idle_s: float,
    ) -> None:
        self.editor: LineEditor | None = None
        """There is one where there is a terminal; it names itself here."""
        self._serve = serve
        self._ended = ended
        self._idle_s = idle_s
        self._channel: SSHLineEditorChannel | None = None
        self._command: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[str | _Event] = deque()
        self._arrived = asyncio.Event()
        self._asked = Prompt.COMMAND
        self._partial = ""
        self._skipping = False
        self._paused = False
        self._ended_input = False

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked."""
        return self.editor is not None

    def write(self, text: str) -> None:
        """Print to standard output."""
        if self._channel is not None:
            self._channel.write(text)

    def write_error(self, text: str) -> None:
        """Print to standard error, which a terminal does not have apart."""
        if self._channel is not None:
            self._channel.write(text, None if self.interactive else EXTENDED_DATA_STDERR)

    def complete_with(self, handler: Callable[[str, int], tuple[str, int] | bool]) -> None:
        """Have the tab key at commands call a handler with the line and the cursor's position."""
        if self._channel is not None:
            self._channel.register_key("\t", handler)

    async def ask(self, prompt: str, kind: Prompt = Prompt.COMMAND) -> str:
        """Print a prompt and read one line, without its end.

        Raises:
            Cancelled: by a key or a signal, at this prompt or, unless it asks for a command, before it appeared.
            LineTooLong: the line was longer than `MAX_LINE_LENGTH`.
            EOFError: the input has ended, or no line came in time.
        """
        if self.editor is not None:
            if kind is not Prompt.COMMAND or self._asked is not Prompt.COMMAND:
                cancelled = _Event.CANCEL in self._waiting
                self._forget()
                if cancelled and kind is not Prompt.COMMAND:
                    raise Cancelled
                self.editor.ask(kind)
            self._asked = kind
        self.write(prompt)
        try:
            async with asyncio.timeout(self._idle_s):
                item = await self._next()
        except TimeoutError as error:
            raise EOFError("silent for too long") from error
        if item is _Event.CANCEL:
            raise Cancelled
        if item is _Event.TOO_LONG:
            raise LineTooLong
        if item is _Event.END:
            if self.interactive:
                self.write("\n")
            if kind is not Prompt.COMMAND and not self._is_over():
                raise Cancelled  # Ctrl-D at a question is an answer to it, not to everything
            raise EOFError
        return item

    async def _next(self) -> str | _Event:
        while not self._waiting:
            if self._is_over():
                return _Event.END
            self._arrived.clear()
            await self._arrived.wait()
        item = self._waiting.popleft()
        self._go_on()
        return item

    def _is_over(self) -> bool:
        return self._channel is None or self._ended_input

    def _forget(self) -> None:
        self._waiting.clear()
        self._go_on()

    def _go_on(self) -> None:
        if self._paused and len(self._waiting) < MAX_AHEAD // 2 and self._channel is not None:
            self._paused = False
            self._channel.resume_reading()

    def _end_input(self) -> None:
        self._ended_input = True
        self._arrived.set()

    def _arrive(self, item: str | _Event) -> None:
        self._waiting.append(item)
        self._arrived.set()
        if len(self._waiting) > MAX_AHEAD and not self._paused and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()

    def cancel(self) -> None:
        """Whatever asks, or is about to, is to give up; lines that wait are dropped, as by terminals (termios(3))."""
        self._forget()
        self._arrive(_Event.CANCEL)

    def refuse_line(self) -> None:
        """A line was too long."""
        self._arrive(_Event.TOO_LONG)

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHServerChannel[str]) -> None:
        """The channel is open."""
        self._channel = cast("SSHLineEditorChannel", chan)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is gone."""
        self._channel = None
        self._arrived.set()
        if self._task is not None:
            self._task.cancel()
        self._ended()

    def pty_requested(self, term_type: str, term_size: Any, term_modes: Any) -> bool:
        """Agree, unless the terminal has no name: asyncssh would read no keys from it."""
        return bool(term_type)

    def shell_requested(self) -> bool:
        """Agree, once."""
        return self._task is None

    def exec_requested(self, command: str) -> bool:
        """Agree, once."""
        if self._task is not None:
            return False
        self._command = command
        return True

    def session_started(self) -> None:
        """The other side is ready."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        status = 1
        try:
            status = await self._serve(self, self._command)
        except (EOFError, OSError, asyncssh.Error):
            pass  # the other side is gone, or was silent for too long
        finally:
            if self._channel is not None:
                self._channel.exit(status)

    def data_received(self, data: str, datatype: asyncssh.DataType) -> None:
        """A whole line of the editor, or any piece of what is no terminal."""
        if self.interactive:
            self._arrive(data.removesuffix("\n"))
            return
        *lines, rest = data.split("\n")
        for line in lines:
            whole = (self._partial + line).removesuffix("\r")
            self._partial = ""
            self._arrive(_Event.TOO_LONG if self._skipping or len(whole) > MAX_LINE_LENGTH else whole)
            self._skipping = False
        self._partial += rest
        if len(self._partial) > MAX_LINE_LENGTH + 1:
            self._partial, self._skipping = "", True

    def eof_received(self) -> bool:
        """The input has ended; what is no terminal may end in a line without its end."""
        if self._partial or self._skipping:
            self._arrive(_Event.TOO_LONG if self._skipping else self._partial)
        self._end_input()
        return True

    def soft_eof_received(self) -> None:
        """Ctrl-D in an empty line."""
        self._arrive(_Event.END)

    def break_received(self, msec: int) -> bool:
        """A break (RFC 4335)."""
        self._interrupt()
        return True

    def signal_received(self, signal: str) -> None:
        """A signal from the client (RFC 4254 section 6.9)."""
        if signal in ("INT", "QUIT"):
            self._interrupt()
        elif signal in ("TERM", "HUP", "KILL"):
            self._forget()
            self._end_input()

    def _interrupt(self) -> None:
        if self.editor is not None:
            self.editor.cancel()
        else:
            self.cancel()
