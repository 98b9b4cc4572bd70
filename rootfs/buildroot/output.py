"""One output directory of Buildroot (make's ``O``): configured, asked for its packages, built.

Buildroot's make is always called with ``-C`` its source tree, and never writes there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rootfs.buildroot.source import Source
from rootfs.errors import SallyportError

_NAME = re.compile(r"^(?:# )?(BR2_\w+)(?:=| is not set).*$")


def _line(name: str, value: str) -> str:
    """A line of a defconfig."""
    return f"# {name} is not set" if value == "n" else f"{name}={value}"


def _lines(part: Path) -> list[str]:
    if not part.is_file():
        raise SallyportError(f"{part}: no such file", "name a Buildroot defconfig")
    return part.read_text().splitlines()


class Download(BaseModel):
    """One file that a package is made of."""

    model_config = ConfigDict(frozen=True)
    source: str
    """The file's name."""


class Package(BaseModel):
    """What ``make show-info`` says of one package (Buildroot's docs/manual/make-tips.adoc)."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    name: str
    """As make's target: with ``host-`` before a package for the build machine."""
    type: str
    virtual: bool = False
    dl_dir: str = ""
    """Below the download directory."""
    version: str = ""
    licenses: str = ""
    """SPDX identifiers by and large, as the package says it."""
    downloads: tuple[Download, ...] = ()
    package_dir: str = ""
    """Where its makefile is: relative to Buildroot's tree, or absolute."""
    stamp_dir: str = ""
    """Where it is built, relative to the output directory."""
    cpe: str = Field(default="", validation_alias="cpe-id")
    """What advisories call it, and its version (NIST IR 7695); not every package has such a name."""

    @property
    def overridden(self) -> bool:
        """Whether a directory of ours is its source (``FOO_OVERRIDE_SRCDIR``), and no file is."""
        return self.stamp_dir == f"build/{self.name}-custom"


class Bench(Protocol):
    """Runs make for one output directory, and says where make sees things."""

    source: Path
    external: Path
    """The BR2_EXTERNAL tree."""
    output: Path
    downloads: Path
    ccache: Path

    def run(self, words: Sequence[str], *, on_line: Callable[[str], None] | None = None) -> str:
        """Run a command to its end and return what it said; `CommandError` if it fails."""


class Output:
    """The output directory for one defconfig.

    Args:
        source: Buildroot's tree.
        config: the parts of the defconfig; the last one wins.
        directory: exists.
        bench: runs make.
    """

    def __init__(self, source: Source, config: Sequence[Path], directory: Path, bench: Bench) -> None:
        self.source, self.config, self.directory, self.bench = source, config, directory, bench

    def make(self, *targets: str, jobs: int = 1, on_line: Callable[[str], None] | None = None) -> str:
        """Run make and return what it said.

        Args:
            targets: of Buildroot; without one it builds.
            jobs: how many compilers and other programs at the same time.
            on_line: is called with each line as it comes.

        Raises:
            CommandError: it failed.
        """
        bench = self.bench
        words = ["make", "-C", str(bench.source), f"O={bench.output}", f"BR2_EXTERNAL={bench.external}"]
        return bench.run([*words, f"-j{jobs}", *targets], on_line=on_line)

    def configure(self, settings: Mapping[str, str] | None = None) -> None:
        """Write the output's ``.config`` anew from the defconfig.

        Args:
            settings: symbols that are this machine's and not the image's (download directory, jobs), to values as in a
                defconfig; they win.

        Raises:
            CommandError: make failed.
            SallyportError: there is no such defconfig.
        """
        lines = {name: _line(name, value) for name, value in (settings or {}).items()}
        own = [line for part in self.config for line in _lines(part) if _NAME.sub(r"\1", line) not in lines]
        whole = self.directory / "defconfig"
        whole.write_text("\n".join([*own, *lines.values()]) + "\n")
        self.make("-s", f"BR2_DEFCONFIG={self.bench.output / whole.name}", "defconfig")
        kept = set((self.directory / ".config").read_text().splitlines())
        # What is off need not be mentioned.
        lost = [
            line for name, line in lines.items() if (f"{name}=y" in kept if line.startswith("#") else line not in kept)
        ]
        if lost:
            raise SallyportError(
                f"Buildroot {self.source.release} does not keep {', '.join(lost)}", "is it an unchanged release?"
            )

    def packages(self) -> list[Package]:
        """Every package that the build has, host tools included; takes some seconds.

        Raises:
            CommandError: make failed.
            SallyportError: its answer is not understood.
        """
        said = self.make("-s", "show-info")
        try:
            # Warnings may stand before it; it is one line.
            table = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
            return [Package.model_validate({**what, "name": name}) for name, what in table.items()]
        except (StopIteration, ValueError, TypeError, ValidationError) as error:
            raise SallyportError(
                f"Buildroot {self.source.release}: `make show-info` said something else: {error}",
                "is it an unchanged release?",
            ) from error
