"""One output directory of Buildroot (make's ``O``): configures it, lists its packages, builds it.

Buildroot's make always runs with ``-C`` and the source tree, to which it never writes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rootfs.base.errors import DiskFullError, SallyportError
from rootfs.base.process import run
from rootfs.engines.buildroot.source import Source
from rootfs.spec import defconfig

_NAMED = re.compile(r"(BR2_\w+)=.*|# (BR2_\w+) is not set")


def _line(name: str, value: str) -> str:
    """A line of a defconfig."""
    return f"# {name} is not set" if value == "n" else f"{name}={value}"


def _by_name(text: str) -> dict[str, str]:
    """The lines of a configuration, by the names of the symbols that they set."""
    found = map(_NAMED.fullmatch, text.splitlines())
    return {match[1] or match[2]: match[0] for match in found if match}


class Download(BaseModel):
    """One source file of a package."""

    model_config = ConfigDict(frozen=True)
    source: str
    """The file's name."""


class Package(BaseModel):
    """One package, as ``make show-info`` prints it (Buildroot's docs/manual/make-tips.adoc)."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    name: str
    """Name of make's target; a package for the build machine begins with ``host-``."""
    type: str
    virtual: bool = False
    dl_dir: str = ""
    """Folder below the download directory."""
    version: str = ""
    licenses: str = ""
    """Mostly SPDX identifiers, as the package declares them."""
    downloads: tuple[Download, ...] = ()
    package_dir: str = ""
    """Directory of its makefile, relative to Buildroot's tree or absolute."""
    stamp_dir: str = ""
    """Directory in which it is built, relative to the output directory."""
    cpe: str = Field(default="", validation_alias="cpe-id")
    """Its CPE name with the version (NIST IR 7695), by which advisories know it; empty for packages without one."""

    @property
    def overridden(self) -> bool:
        """Whether its source is a directory of ours (``FOO_OVERRIDE_SRCDIR``) instead of files."""
        return self.stamp_dir == f"build/{self.name}-custom"


class MakeEnvironment(Protocol):
    """How make runs for one output directory: its command line and variables, and the paths that it sees."""

    source: Path
    external: Path
    """The BR2_EXTERNAL tree."""
    output: Path
    downloads: Path
    ccache: Path

    def argv(self, words: Sequence[str]) -> list[str]:
        """The command line that runs these words there."""

    @property
    def variables(self) -> dict[str, str]:
        """Variables that it needs."""


class Output:
    """The output directory for one defconfig.

    Args:
        source: Buildroot's tree.
        config: the parts of the defconfig; the last one wins.
        directory: exists.
        environment: how make runs, and which paths it sees.
    """

    def __init__(self, source: Source, config: Sequence[Path], directory: Path, environment: MakeEnvironment) -> None:
        self.source, self.config, self.directory, self.environment = source, config, directory, environment

    def make(
        self,
        *targets: str,
        jobs: int = 1,
        on_line: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> str:
        """Run make and return what it said.

        Args:
            targets: of Buildroot; without one it builds.
            jobs: how many compilers and other programs at the same time.
            on_line: is called with each line as it comes.
            stop: is set by who wants it ended.

        Raises:
            Stopped: so it was ended.
            CommandError: it failed.
        """
        environment = self.environment
        words = [
            "make",
            "-C",
            str(environment.source),
            f"O={environment.output}",
            f"BR2_EXTERNAL={environment.external}",
        ]
        try:
            return run(
                environment.argv([*words, f"-j{jobs}", *targets]), env=environment.variables, on_line=on_line, stop=stop
            )
        except DiskFullError as error:
            raise DiskFullError(
                str(error), f"make room at {self.directory}, then start again: the build continues"
            ) from error

    def configure(self, settings: Mapping[str, str] | None = None) -> None:
        """Write the output's ``.config`` anew from the defconfig.

        Args:
            settings: symbols that belong to this machine and not to the image (download directory, jobs), with values
                as in a defconfig; they win.

        Raises:
            CommandError: make failed.
            SallyportError: a part is not a defconfig, or Buildroot does not keep a line; names file and line.
        """
        wanted: dict[str, str] = {}
        places: dict[str, str] = {}
        for part in self.config:
            places |= {name: symbol.where for name, symbol in defconfig.read(part).items()}
            wanted |= _by_name(part.read_text())
        for name, value in (settings or {}).items():
            wanted[name], places[name] = _line(name, value), "set for this machine"
        whole = self.directory / "defconfig"
        whole.write_text("\n".join(wanted.values()) + "\n")
        self.make("-s", f"BR2_DEFCONFIG={self.environment.output / whole.name}", "defconfig")
        kept = _by_name((self.directory / ".config").read_text())
        # Kconfig does not mention a symbol that is off because its dependencies are.
        lost = [f"{line} ({places[name]})" for name, line in wanted.items() if kept.get(name, _line(name, "n")) != line]
        if lost:
            raise SallyportError(
                f"Buildroot {self.source.release} does not keep {', '.join(lost)}",
                "`invoke image.symbols --buildroot DIR` explains why",
            )

    def packages(self) -> list[Package]:
        """Every package of the build, including those for the build machine; takes some seconds.

        Raises:
            CommandError: make failed.
            SallyportError: make printed something else than expected.
        """
        said = self.make("-s", "show-info")
        try:
            # The answer is one line; warnings may precede it.
            table = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
            return [Package.model_validate({**what, "name": name}) for name, what in table.items()]
        except (StopIteration, ValueError, TypeError, ValidationError) as error:
            raise SallyportError(
                f"Buildroot {self.source.release}: `make show-info` printed something unexpected: {error}",
                "use an unchanged release of Buildroot",
            ) from error
