"""Runs a build by Buildroot: shows packages done of packages to do, keeps the log, names the package that failed.

A build goes on where it stopped: Buildroot marks each step of each package by a stamp (``.stamp_*`` below ``build/``),
so an interrupted or failed build is simply started again.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from rootfs.buildroot.output import Output, Package
from rootfs.errors import CommandError, DiskFullError, SallyportError

LAST_LINES = 20
"""Of the log, in the message of a build that failed."""
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\x1b\([A-Z]")
_STEP = re.compile(r">>> (?P<package>\S+) (?P<version>\S*) *(?P<step>\S.*)")
"""What Buildroot says before each step of a package (``MESSAGE`` in package/pkg-utils.mk)."""
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


def build(output: Output, packages: Iterable[Package], say: Say, *, targets: Iterable[str] = ()) -> Path:
    """Build what the output is configured for, or go on with it; returns the log.

    Args:
        output: a configured one.
        packages: all that the build has, for the tally.
        say: is told what is done now, how many packages are done, and of how many.
        targets: make's; all of the build if empty.

    Raises:
        CommandError: a package failed; carries its name, the last lines and the command to retry.
        SallyportError: the log cannot be written.
    """
    tally = Tally(output, packages)
    log = output.directory / "build.log"
    tail: deque[str] = deque(maxlen=LAST_LINES)
    broken: list[tuple[str, str]] = []
    try:
        with log.open("a", encoding="utf-8") as file:

            def on_line(line: str) -> None:
                text = _ESCAPE.sub("", line)
                file.write(text + "\n")
                if match := _STEP.match(text):
                    say(f"{match['package']} {match['version']}: {match['step']}", tally.done(), tally.total)
                if match := _BROKEN.search(text):
                    broken.append((match["folder"], match["step"]))
                elif not text.startswith("make"):
                    tail.append(text)

            output.make(*targets, on_line=on_line)
    except DiskFullError:
        raise
    except CommandError as error:
        if not broken:
            raise CommandError(
                f"{error}\nthe whole log: {log}", "mend what it says, then start the build again"
            ) from None
        folder, step = broken[0]
        said = "\n".join(tail)
        raise CommandError(
            f"package {folder} failed (step {step}); its last words:\n{said}\nthe whole log: {log}",
            f"mend it, then start the build again; for this package alone: {output.retry(_name(folder, packages))}",
        ) from None
    except OSError as error:
        raise SallyportError(f"{log}: {os.strerror(error.errno or 0)}", "make room for it") from error
    return log


def _name(folder: str, packages: Iterable[Package]) -> str:
    """The package that is built in a folder ``name-version``."""
    return next((package.name for package in packages if package.stamp_dir.endswith(f"/{folder}")), folder)
