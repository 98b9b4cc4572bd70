"""Runs a build by Buildroot: shows how many packages are done, keeps the log, and names the package that failed.

Buildroot marks each finished step of a package by a file (``.stamp_*`` below ``build/``), so an interrupted or failed
build continues where it stopped when it is started again.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from rootfs.base.errors import CommandError, DiskFullError, SallyportError
from rootfs.engines.buildroot.output import Output, Package

LAST_LINES = 20
"""Last lines of the log in the message of a build that failed."""
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\x1b\([A-Z]")
_STEP = re.compile(r">>> (?P<package>\S+) (?P<version>\S*) *(?P<step>\S.*)")
"""What Buildroot prints before each step of a package (``MESSAGE`` in support/misc/utils.mk)."""
_NOISE = re.compile(r"make(\[\d+\])?: (\*\*\* \[.*\] Error \d+|(Entering|Leaving) directory .*)$")
"""Lines of make that do not say why a step failed."""
_BROKEN = re.compile(r"\*\*\* \[.*?/build/(?P<folder>[^/\]]+)/\.stamp_(?P<step>\w+)\] Error")
"""What make prints about the step of a package that failed."""
Say = Callable[[str, int, int], None]


class Tally:
    """Counts the packages of a build that are installed, by their last stamp."""

    def __init__(self, output: Output, packages: Iterable[Package]) -> None:
        folders = {package.stamp_dir for package in packages if package.stamp_dir and not package.virtual}
        self._open = {output.directory / folder / ".stamp_installed" for folder in folders}
        self.total = len(self._open)

    def done(self) -> int:
        """How many packages are installed by now."""
        self._open = {stamp for stamp in self._open if not stamp.exists()}
        return self.total - len(self._open)


def build(
    output: Output, packages: Iterable[Package], say: Say, *, jobs: int = 1, stop: threading.Event | None = None
) -> Path:
    """Build what the output directory is configured for, or continue; returns the log.

    Args:
        output: a configured output directory.
        packages: all packages of the build.
        say: is called with the present step, and the numbers of packages that are done and of all.
        jobs: compilers that run at the same time, whatever packages they work for.
        stop: once it is set, the build ends; it continues when it is started again.

    Raises:
        Stopped: ``stop`` was set (`rootfs.base.process`).
        CommandError: a package failed; the message has its name, its last lines and how to retry.
        DiskFullError: the disk is full; the message has the same.
        SallyportError: the log cannot be written.
    """
    _mend(output)
    tally = Tally(output, packages)
    log = output.directory / "build.log"
    tail: deque[str] = deque(maxlen=LAST_LINES)
    words: list[str] = []
    broken: tuple[str, str] | None = None
    try:
        file = log.open("ab", buffering=0)
    except OSError as error:
        raise SallyportError(f"{log}: {error.strerror}", "make that directory writable") from error
    try:
        with file:

            def on_line(line: str) -> None:
                nonlocal words, broken
                text = _ESCAPE.sub("", line)
                # A full disk is reported by the package that runs into it, not by its log.
                with suppress(OSError):
                    file.write(f"{text}\n".encode())
                if match := _STEP.match(text):
                    say(f"{match['package']} {match['version']}: {match['step']}", tally.done(), tally.total)
                if match := _BROKEN.search(text):
                    # Other packages continue until they are done, and would push its lines out.
                    words = words or list(tail)
                    broken = broken or (match["folder"], match["step"])
                if not _NOISE.match(text):
                    tail.append(text)

            try:
                output.make(jobs=jobs, on_line=on_line, stop=stop)
            except CommandError as error:
                if broken and jobs > 1 and not isinstance(error, DiskFullError):
                    # Its lines are mixed with those of other packages: build it once more by itself to have its own.
                    words = []
                    tail.clear()
                    say(f"{broken[0]}: building it once more by itself", tally.done(), tally.total)
                    output.make(_name(broken[0], packages), on_line=on_line, stop=stop)
                    tail.append(
                        "(built by itself it succeeded: start the build again, and report it if this comes back)"
                    )
                raise
    except CommandError as error:
        said, where = "\n".join(words or tail), f"the whole log: {log}"
        name = _name(broken[0], packages) if broken else ""
        what = f"package {broken[0]} failed (step {broken[1]}); its last lines:\n{said}" if broken else str(error)
        if isinstance(error, DiskFullError):
            full = f"{what}\nthe disk is full\n{where}"
            raise DiskFullError(full, f"make room at {output.directory}, then start the build again") from None
        alone = f"; `--again {name}` builds that package anew from its sources" if name else ""
        raise CommandError(f"{what}\n{where}", f"correct the cause, then start the build again{alone}") from None
    return log


def _mend(output: Output) -> None:
    """Remove packages that were interrupted while they were patched: Buildroot refuses to patch them a second time."""
    for applied in output.directory.glob("build/*/.applied_patches_list"):
        if not (applied.parent / ".stamp_patched").exists():
            shutil.rmtree(applied.parent)


def _name(folder: str, packages: Iterable[Package]) -> str:
    """The package that is built in a folder ``name-version``."""
    return next((package.name for package in packages if package.stamp_dir.endswith(f"/{folder}")), folder)
