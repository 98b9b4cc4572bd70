"""Runs a build by Buildroot: shows packages done of packages to do, keeps the log, names the package that failed.

A build goes on where it stopped: Buildroot marks each step of each package by a stamp (``.stamp_*`` below ``build/``),
so an interrupted or failed build is simply started again.
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
"""Of the log, in the message of a build that failed."""
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\x1b\([A-Z]")
_STEP = re.compile(r">>> (?P<package>\S+) (?P<version>\S*) *(?P<step>\S.*)")
"""What Buildroot says before each step of a package (``MESSAGE`` in support/misc/utils.mk)."""
_NOISE = re.compile(r"make(\[\d+\])?: (\*\*\* \[.*\] Error \d+|(Entering|Leaving) directory .*)$")
"""What make says besides: of a failure only where it was."""
_BROKEN = re.compile(r"\*\*\* \[.*?/build/(?P<folder>[^/\]]+)/\.stamp_(?P<step>\w+)\] Error")
"""What make says of a package's step that failed."""
Say = Callable[[str, int, int], None]


class Tally:
    """How far a build has come: packages whose last stamp is there, of all that it has."""

    def __init__(self, output: Output, packages: Iterable[Package]) -> None:
        folders = {package.stamp_dir for package in packages if package.stamp_dir and not package.virtual}
        self._open = {output.directory / folder / ".stamp_installed" for folder in folders}
        self.total = len(self._open)

    def done(self) -> int:
        """How many are done by now."""
        self._open = {stamp for stamp in self._open if not stamp.exists()}
        return self.total - len(self._open)


def build(
    output: Output, packages: Iterable[Package], say: Say, *, jobs: int = 1, stop: threading.Event | None = None
) -> Path:
    """Build what the output is configured for, or go on with it; returns the log.

    Args:
        output: a configured one.
        packages: all that the build has, for the tally.
        say: is told what is done now, how many packages are done, and of how many.
        jobs: how many compilers at the same time, of however many packages.
        stop: when it is set, the build ends. It goes on where it was when it is started again.

    Raises:
        Stopped: so it did (`rootfs.base.process`).
        CommandError: a package failed; carries its name, the last lines and the command to retry.
        DiskFullError: there was no room; carries the same.
        SallyportError: there can be no log.
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
        raise SallyportError(f"{log}: {error.strerror}", "let us write there") from error
    try:
        with file:

            def on_line(line: str) -> None:
                nonlocal words, broken
                text = _ESCAPE.sub("", line)
                # A full disk is told by the package that finds it, with its words: not by its log.
                with suppress(OSError):
                    file.write(f"{text}\n".encode())
                if match := _STEP.match(text):
                    say(f"{match['package']} {match['version']}: {match['step']}", tally.done(), tally.total)
                if match := _BROKEN.search(text):
                    # Other packages go on until they are done, and would drive its words out.
                    words = words or list(tail)
                    broken = broken or (match["folder"], match["step"])
                if not _NOISE.match(text):
                    tail.append(text)

            try:
                output.make(jobs=jobs, on_line=on_line, stop=stop)
            except CommandError as error:
                if broken and jobs > 1 and not isinstance(error, DiskFullError):
                    # Among its words are those of what was built at the same time. By itself it says them again.
                    words = []
                    tail.clear()
                    say(f"{broken[0]}: once more by itself", tally.done(), tally.total)
                    output.make(_name(broken[0], packages), on_line=on_line, stop=stop)
                    tail.append("(by itself it was built: start the build again, and tell us if this comes back)")
                raise
    except CommandError as error:
        said, where = "\n".join(words or tail), f"the whole log: {log}"
        name = _name(broken[0], packages) if broken else ""
        what = f"package {broken[0]} failed (step {broken[1]}); its last words:\n{said}" if broken else str(error)
        if isinstance(error, DiskFullError):
            full = f"{what}\nthe disk is full\n{where}"
            raise DiskFullError(full, f"make room at {output.directory}, then start the build again") from None
        alone = f"; with `--again {name}` that package from its sources" if name else ""
        raise CommandError(f"{what}\n{where}", f"mend it, then start the build again{alone}") from None
    return log


def _mend(output: Output) -> None:
    """Drop packages that were interrupted while they were patched: Buildroot refuses to patch them a second time."""
    for applied in output.directory.glob("build/*/.applied_patches_list"):
        if not (applied.parent / ".stamp_patched").exists():
            shutil.rmtree(applied.parent)


def _name(folder: str, packages: Iterable[Package]) -> str:
    """The package that is built in a folder ``name-version``."""
    return next((package.name for package in packages if package.stamp_dir.endswith(f"/{folder}")), folder)
