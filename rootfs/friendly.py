"""What every task shares: the console, and errors told as a sentence with a hint."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import Any

from invoke import Exit
from rich.console import Console

from rootfs.errors import SallyportError

console = Console(stderr=True, soft_wrap=True)


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
            where = f"{error.filename}: " if error.filename else ""
            console.print(f"[bold red]error:[/] {_escape(where)}{error.strerror or error}", highlight=False)
            raise Exit(code=1) from error
        except KeyboardInterrupt:
            console.print("interrupted", style="yellow")
            raise Exit(code=130) from None

    return wrapper


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
