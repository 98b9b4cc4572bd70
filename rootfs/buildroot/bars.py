"""How far builds at the same time are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rootfs.buildroot.build import Say


@contextmanager
def bars(names: Sequence[str], console: Console) -> Iterator[dict[str, Say]]:
    """A bar for each, or on what is no terminal a line for each package that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks = {name: shown.add_task(name) for name in names}
        last = dict.fromkeys(names, -1)

        def say(name: str, words: str, done: int, total: int) -> None:
            shown.update(tasks[name], description=f"{name}: {words[:60]}", completed=done, total=total)
            if done != last[name] and not console.is_terminal:
                console.print(f"  … {name}: {done} of {total} packages; {words}", highlight=False)
            last[name] = done

        yield {name: partial(say, name) for name in names}
