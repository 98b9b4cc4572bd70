"""Shows how far builds that run at the same time are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rootfs.engines.buildroot.build import Say

_SECONDS = 60.0
"""After so long a line is printed, on an output that is not a terminal."""


@contextmanager
def show_progress(names: Sequence[str], console: Console) -> Iterator[dict[str, Say]]:
    """A progress bar for each build; without a terminal, a line whenever a package is done or a minute has passed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks = {name: shown.add_task(name) for name in names}
        told = dict.fromkeys(names, (-1, began))

        def say(name: str, words: str, done: int, total: int) -> None:
            shown.update(tasks[name], description=f"{name}: {words[:60]}", completed=done, total=total)
            (before, at), now = told[name], time.monotonic()
            if not console.is_terminal and (done != before or now - at >= _SECONDS):
                after = f"{(now - began) / 60:.0f} min"
                console.print(f"  … {name}: {done} of {total} packages after {after}; {words}", highlight=False)
                told[name] = done, now

        yield {name: partial(say, name) for name in names}
