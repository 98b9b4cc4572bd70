"""A terminal over SSH: a line editor, and prompts of several kinds.

The keys are the same at every prompt: Ctrl-C, Ctrl-\\ and Ctrl-G cancel; Ctrl-D in an empty line ends the session;
Ctrl-U, Ctrl-W, Ctrl-K and backspace erase; any other key that is not text rings the bell. A prompt for a decision or a
secret drops what was typed before it appeared.
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

# asyncssh searches for liboqs and libnettle, for algorithms that are not offered here. The search starts ldconfig and,
# if there is one, a compiler, which is slow under emulation.
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

__all__ = ["MAX_LINE_LENGTH", "TerminalSession", "asyncssh"]  # others import asyncssh from here, where it loads quickly

MAX_LINE_LENGTH = 1024
"""Characters; a longer line is refused, not cut."""
MAX_AHEAD = 64
"""Lines in the queue, beyond which the channel is paused."""
WIDTHS = (20, 1000)
"""Smallest and largest number of columns; other values are clamped."""

_HISTORY = 50
_Base = asyncssh.editor.SSHLineEditor


class LineEditor(_Base):
    """asyncssh's line editor with keys from `KeyParser` and kinds of prompts; lines that are too long are refused, not
    cut.

    asyncssh's own key handling inserts the rest of each unknown sequence as text, silently drops format characters, and
    keeps the line on Ctrl-C, so that the next return carries out what was cancelled. It also iterates over 65,536
    characters for each terminal and each key, which is slow under emulation.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._keys = KeyParser(self._insert_printable, self._press)
        self._prompt = Prompt.COMMAND
        self._too_long = False
        self.set_width(self._width)
        cast("TerminalSession", self._session).editor = self

    def ask(self, kind: Prompt) -> None:
        """Begin an empty line for a prompt of this kind; nothing that was typed at another prompt remains."""
        self.set_input("", 0)
        self._too_long = False
        self._erased = ""
        self._prompt = kind
        self._history_size = _HISTORY if kind is Prompt.COMMAND else 0
        self.set_echo(kind is not Prompt.HIDDEN)

    def process_input(self, data: str, datatype: asyncssh.DataType) -> None:
        """Process what the terminal sent."""
        self._keys.feed(data)
        self._bell_rung = False
        self._flush()

    def _flush(self) -> None:
        if self._outbuf:
            self._chan.write("".join(self._outbuf))
            self._outbuf.clear()

    def set_width(self, width: int) -> None:
        """Use another width in columns; 0: unknown."""
        super().set_width(min(max(width, WIDTHS[0]), WIDTHS[1]) if width else 0)

    def set_line_mode(self, line_mode: bool) -> None:
        """Do nothing: asyncssh would pass an unfinished line on when the input ends."""

    def _build_printable(self) -> None:
        """Do nothing: `KeyParser` decides what is text, without asyncssh's table."""

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
        """Drop the line and cancel its prompt."""
        self._drop_line("^C")
        self._flush()
        cast("TerminalSession", self._session).cancel()

    def _drop_line(self, message: str) -> None:
        self._move_to_end()
        self._output(f"{message}\r\n")
        self._reset_line()
        self._too_long = False
        self._history_index = len(self._history)

    _keylist: Any = (  # a later row replaces an earlier one for the same key
        *_Base._keylist,
        (_end_line, ("\n", "\r", "\x1bOM")),
        (_erase_line, ("\x15",)),
        (_erase_word, ("\x17",)),
        (_Base._redraw, ("\x0c",)),
        (cancel, ("\x03", "\x1c", "\x07", "\x1b[33~")),
    )


_OF_COMMANDS = frozenset({"\t", "\x10", "\x0e", "\x1b[A", "\x1bOA", "\x1b[B", "\x1bOB", "\x19"})
"""Keys of command prompts only, as they insert text that was not typed: completion, history, erased text."""

asyncssh.editor.SSHLineEditor = LineEditor  # type: ignore[misc]


class _Event(Enum):
    """Events in the queue of lines."""

    END = 1
    CANCEL = 2
    TOO_LONG = 3


class TerminalSession(asyncssh.SSHServerSession[str]):
    """A session channel, with or without a terminal, as the command line's `cli.Terminal`. No subsystem such as SFTP.

    Args:
        serve: runs the session, given the command (None: a shell); returns the exit status.
        ended: called once when the channel is closed.
        idle_s: seconds to wait for a line.
    """

    def __init__(
        self,
        serve: Callable[[TerminalSession, str | None], Awaitable[int]],
        ended: Callable[[], None],
        idle_s: float,
    ) -> None:
        self.editor: LineEditor | None = None
        """Set by the editor itself; None without a terminal."""
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
        """Print to standard error; to the terminal if there is one."""
        if self._channel is not None:
            self._channel.write(text, None if self.interactive else EXTENDED_DATA_STDERR)

    def complete_with(self, handler: Callable[[str, int], tuple[str, int] | bool]) -> None:
        """Set the completion: called with the line and the cursor's position when tab is pressed at a command
        prompt."""
        if self._channel is not None:
            self._channel.register_key("\t", handler)

    async def ask(self, prompt: str, kind: Prompt = Prompt.COMMAND) -> str:
        """Print a prompt and read one line, without its end.

        Raises:
            Cancelled: by a key or a signal; at prompts that are not for a command also if it came before the prompt.
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
                raise Cancelled  # Ctrl-D at a question cancels the question, not the session
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
        """Cancel the present or next prompt, and drop lines that are queued, as terminals do (termios(3))."""
        self._forget()
        self._arrive(_Event.CANCEL)

    def refuse_line(self) -> None:
        """Report a line that was too long."""
        self._arrive(_Event.TOO_LONG)

    # Methods that asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHServerChannel[str]) -> None:
        """The channel is open."""
        self._channel = cast("SSHLineEditorChannel", chan)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed."""
        self._channel = None
        self._arrived.set()
        if self._task is not None:
            self._task.cancel()
        self._ended()

    def pty_requested(self, term_type: str, term_size: Any, term_modes: Any) -> bool:
        """Accept, unless the terminal has no name: asyncssh would not read keys from it."""
        return bool(term_type)

    def shell_requested(self) -> bool:
        """Accept, once."""
        return self._task is None

    def exec_requested(self, command: str) -> bool:
        """Accept, once."""
        if self._task is not None:
            return False
        self._command = command
        return True

    def session_started(self) -> None:
        """The client is ready."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        status = 1
        try:
            status = await self._serve(self, self._command)
        except (EOFError, OSError, asyncssh.Error):
            pass  # the client has gone or was idle for too long
        finally:
            if self._channel is not None:
                self._channel.exit(status)

    def data_received(self, data: str, datatype: asyncssh.DataType) -> None:
        """A whole line from the editor; without a terminal, any piece of the input."""
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
        """The input has ended; without a terminal, its last line may have no newline."""
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
