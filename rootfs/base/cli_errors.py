"""What every task shares: the console, and decorators that print errors as a sentence with a hint."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from invoke import Exit
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rootfs.base import packages
from rootfs.base.debugging import debugging
from rootfs.base.environment import settle
from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.untrusted import printable


class PlainConsole(Console):
    """Prints no control sequence but its own: text that it prints may come from an image, a profile or a program."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As of `Console`; progress and tables are rendered by it, too."""
        for segment in super().render(renderable, options):
            style = segment.style.update_link(None) if segment.style and segment.style.link else segment.style
            yield segment if segment.control else Segment(printable(segment.text), style)


console = PlainConsole(stderr=True, soft_wrap=True)
NEWEST = {"newest": "take the package versions that the archive has now, not those of rootfs/base/packages.lock"}
"""Help of the option that `build_task` adds."""


def report_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a task end with a sentence and a hint where an error was expected, and quietly after Ctrl-C.

    With `debugging`, the traceback comes first, then the command line of the child process that failed, if one did.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        # SIGTERM is treated like Ctrl-C; and a shell's background job ignores SIGINT unless it is told otherwise.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            settle()
            return function(*args, **options)
        except SallyportError as error:
            _trace(error)
            _say("error:", "bold red", str(error))
            if error.hint:
                _say("what to do:", "bold", error.hint)
            raise Exit(code=getattr(error, "exit_code", 1)) from error
        except OSError as error:
            _trace(error)
            _say("error:", "bold red", _told(error))
            if os.strerror(errno.ENOSPC) in str(error):
                console.print("[bold]what to do:[/] make room, then do it again: it goes on", highlight=False)
            raise Exit(code=1) from error
        except KeyboardInterrupt:
            console.print("interrupted", style="yellow")
            raise Exit(code=130) from None

    return wrapper


def build_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """`report_errors`, and the option ``--newest`` (`NEWEST`): for each task that may have to build something.

    The option is an environment variable to whatever the task starts, so that all of it builds from the same packages.
    """
    inner = report_errors(function)

    @functools.wraps(inner)
    def wrapper(*args: Any, newest: bool = False, **options: Any) -> Any:
        if newest:
            os.environ[packages.NEWEST] = "1"
        return inner(*args, **options)

    signature = inspect.signature(function)
    option = inspect.Parameter("newest", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False)
    wrapper.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    return wrapper


def _trace(error: BaseException) -> None:
    """With `debugging`, print the traceback of an error, and the command line of the child process that failed."""
    if not debugging():
        return
    console.print(Text("".join(traceback.format_exception(error)), style="dim"), highlight=False)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CommandError) and cause.command:
            _say("this command failed:", "bold", cause.command)
            return
        cause = cause.__cause__ or cause.__context__


def _told(error: OSError) -> str:
    if isinstance(error, shutil.Error):
        # Of a whole tree: each file that could not be copied, as (from, to, why).
        first, *more = error.args[0]
        return f"{first[1]}: {first[2]}" + (f", and {len(more)} more like it" if more else "")
    return f"{error.filename}: {error.strerror or error}" if error.filename else str(error.strerror or error)


def _say(label: str, style: str, text: str) -> None:
    """Print a label and a text, in which nothing is markup: it may come from anybody."""
    console.print(Text.assemble((label, style), " ", text), highlight=False)
