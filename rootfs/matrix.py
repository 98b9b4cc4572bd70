"""Builds the images of several device profiles at the same time, one process each, with one summary."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rootfs.base.process import environment
from rootfs.base.version import PROJECT
from rootfs.spec.profile import load

_LAST_LINES = 12
"""Of the log of a build that failed, in the summary."""


@dataclass(frozen=True)
class Row:
    """How the build of one profile ended. ``seconds`` from its start, ``bytes`` of the image."""

    profile: str
    image: str
    bytes: int
    seconds: float
    log: Path

    @property
    def good(self) -> bool:
        """Whether there is an image."""
        return bool(self.image)


def build(profiles: Sequence[str], options: Sequence[str], jobs: int, folder: Path, console: Console) -> list[Row]:
    """Build them, ``jobs`` at a time; what they have in common is built once (`rootfs.base.cache`).

    When this is interrupted, the builds are ended, and waited for: their steps leave nothing half done.

    Args:
        profiles: names, or paths of files.
        options: of `invoke image`, for each of them.
        jobs: at least one.
        folder: gets a log of each.
        console: shows what begins and ends.

    Returns:
        one row for each profile, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_build(profiles, options, jobs, folder, console))


async def _build(
    profiles: Sequence[str], options: Sequence[str], jobs: int, folder: Path, console: Console
) -> list[Row]:
    # Like Ctrl-C, for which asyncio cancels this task; an exception raised by a signal could strike anywhere.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    free = asyncio.Semaphore(jobs)

    async def one(profile: str) -> Row:
        async with free:
            row = await _image(profile, options, folder / f"{load(profile).name}.log", console)
        sign = "[green]✓[/]" if row.good else "[red]✗[/]"
        console.print(f"  {sign} {profile} [dim]({row.seconds:.0f} s)[/]", highlight=False)
        return row

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(profile)) for profile in profiles]
    return [task.result() for task in tasks]


async def _image(profile: str, options: Sequence[str], log: Path, console: Console) -> Row:
    """Build one image in a process of its own."""
    settings = {key: value for key, value in os.environ.items() if key.startswith("SALLYPORT_")}
    console.print(f"  … {profile} [dim](log: {log})[/]", highlight=False)
    began, answer = time.monotonic(), log.with_suffix(".json")
    with log.open("w") as said, answer.open("w") as told:
        starting = asyncio.create_task(
            asyncio.create_subprocess_exec(
                *_command(profile, options),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=said,
                env=environment(settings),
                # Ctrl-C reaches this process alone, which then ends each build.
                start_new_session=True,
            )
        )
        try:
            # A process that is just being started is ended like any other, not killed.
            status = await (await asyncio.shield(starting)).wait()
        except asyncio.CancelledError:
            child = await starting
            with suppress(ProcessLookupError):
                child.terminate()
            await child.wait()
            raise
    image, size = "", 0
    if status == 0:
        found = json.loads(answer.read_text())
        image, size = found["image"], found["sizes"]["image_bytes"]
    return Row(profile, image, size, time.monotonic() - began, log)


def _command(profile: str, options: Sequence[str]) -> list[str]:
    # It runs in the project's folder.
    where = str(Path(profile).absolute()) if profile.endswith(".toml") else profile
    return [sys.executable, "-m", "invoke", "image", "--json", "--profile", where, *options]


def show(rows: Sequence[Row], console: Console) -> None:
    """Print one line for each profile, and the last lines of the log of each that failed."""
    table = Table()
    for column in ("profile", "image", "size", "time"):
        table.add_column(column, justify="right" if column in ("size", "time") else "left", overflow="fold")
    for row in rows:
        size = f"{row.bytes / 2**20:.0f} MiB" if row.good else ""
        table.add_row(row.profile, Path(row.image).name if row.good else "[red]failed[/]", size, f"{row.seconds:.0f} s")
    console.print(table)
    for row in rows:
        if not row.good:
            tail = "\n".join(row.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            console.print(f"[bold]{escape(row.profile)}[/], {escape(str(row.log))}:", highlight=False)
            console.print(tail, highlight=False, markup=False)


def to_json(rows: Sequence[Row]) -> str:
    """All rows as JSON."""
    return json.dumps([asdict(row) | {"log": str(row.log)} for row in rows], indent=1)
