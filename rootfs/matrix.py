"""Builds the images of several device profiles at the same time, one process each, with one summary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rootfs.base.process import environment
from rootfs.base.version import PROJECT
from rootfs.spec import profile as profiles

_LAST_LINES = 12
"""Of the log of a build that failed, in the summary."""
_POLL = 0.2


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


class _Build:
    def __init__(self, profile: str, options: Sequence[str], folder: Path) -> None:
        name = profiles.load(profile).name
        self.profile, self.log, self._answer = profile, folder / f"{name}.log", folder / f"{name}.json"
        settings = {key: value for key, value in os.environ.items() if key.startswith("SALLYPORT_")}
        self._began = time.monotonic()
        # It runs in the project's folder.
        where = str(Path(profile).absolute()) if profile.endswith(".toml") else profile
        argv = [sys.executable, "-m", "invoke", "image", "--json", "--profile", where, *options]
        with self.log.open("w") as said, self._answer.open("w") as answer:
            self._child = subprocess.Popen(
                argv,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=said,
                env=environment(settings),
                # Ctrl-C reaches us, and we end each in good order.
                start_new_session=True,
            )

    def row(self) -> Row | None:
        """How it ended; nothing if it has not."""
        if self._child.poll() is None:
            return None
        image, size = "", 0
        if self._child.returncode == 0:
            said = json.loads(self._answer.read_text())
            image, size = said["image"], said["sizes"]["image_bytes"]
        return Row(self.profile, image, size, time.monotonic() - self._began, self.log)

    def end(self) -> None:
        """End it, and wait for that: its own steps leave nothing half done."""
        self._child.terminate()
        self._child.wait()


def build(profiles: Sequence[str], options: Sequence[str], jobs: int, folder: Path, console: Console) -> list[Row]:
    """Build them, ``jobs`` at a time; what they have in common is built once (`rootfs.base.cache`).

    Args:
        profiles: names, or files.
        options: of `invoke image`, for each of them.
        jobs: at least one.
        folder: gets a log of each.
        console: is told what begins and ends.

    Returns:
        one row for each profile, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running, done = list(profiles), list[_Build](), dict[str, Row]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Build(waiting.pop(0), options, folder))
                console.print(f"  … {running[-1].profile} [dim](log: {running[-1].log})[/]", highlight=False)
            for one in list(running):
                if row := one.row():
                    running.remove(one)
                    done[row.profile] = row
                    sign = "[green]✓[/]" if row.good else "[red]✗[/]"
                    console.print(f"  {sign} {row.profile} [dim]({row.seconds:.0f} s)[/]", highlight=False)
            time.sleep(_POLL)
    finally:
        for one in running:
            one.end()
    return [done[name] for name in profiles]


def show(rows: Sequence[Row], console: Console) -> None:
    """Print one line for each, and of what failed the last words."""
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
