"""What every task shares: the console, and errors told as a sentence with a hint."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from typing import Any

from invoke import Exit
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from rootfs.errors import SallyportError
from rootfs.given import printable


class PlainConsole(Console):
    """Prints no control sequence but its own: what else it prints an image, a profile or a program may have said."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As of `Console`; progress and tables are rendered by it, too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


console = PlainConsole(stderr=True, soft_wrap=True)


def friendly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn expected errors into a sentence and a hint, Ctrl-C into a quiet end."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        # Being told to end is like Ctrl-C, and a shell's background job must hear Ctrl-C's signal, too.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            return function(*args, **options)
        except SallyportError as error:
            console.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False)
            if error.hint:
                console.print(f"[bold]what to do:[/] {_escape(error.hint)}", highlight=False)
            raise Exit(code=getattr(error, "exit_code", 1)) from error
        except OSError as error:
            console.print(f"[bold red]error:[/] {_escape(_told(error))}", highlight=False)
            if os.strerror(errno.ENOSPC) in str(error):
                console.print("[bold]what to do:[/] make room, then do it again: it goes on", highlight=False)
            raise Exit(code=1) from error
        except KeyboardInterrupt:
            console.print("interrupted", style="yellow")
            raise Exit(code=130) from None

    return wrapper


def _told(error: OSError) -> str:
    if isinstance(error, shutil.Error):
        # Of a whole tree: each file that could not be copied, as (from, to, why).
        first, *more = error.args[0]
        return f"{first[1]}: {first[2]}" + (f", and {len(more)} more like it" if more else "")
    return f"{error.filename}: {error.strerror or error}" if error.filename else str(error.strerror or error)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
