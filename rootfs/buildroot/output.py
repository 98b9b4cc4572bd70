"""One output directory of Buildroot (make's ``O``): configured, asked for its packages, built.

Buildroot's make is always called with ``-C`` its source tree, and never writes there.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rootfs.buildroot.source import EXTERNAL, Source
from rootfs.errors import SallyportError
from rootfs.run import run


class Download(BaseModel):
    """One file that a package is made of."""

    model_config = ConfigDict(frozen=True)
    source: str
    """The file's name."""


class Package(BaseModel):
    """What ``make show-info`` says of one package (Buildroot's docs/manual/make-tips.adoc)."""

    model_config = ConfigDict(frozen=True)
    name: str
    """As make's target: with ``host-`` before a package for the build machine."""
    type: str
    virtual: bool = False
    dl_dir: str = ""
    """Below the download directory."""
    downloads: tuple[Download, ...] = ()
    hashes: tuple[str, ...] = ()
    """Hash files, relative to Buildroot's tree or absolute."""
    stamp_dir: str = ""
    """Where it is built, relative to the output directory."""


class Output:
    """The output directory for one defconfig.

    Args:
        source: Buildroot's tree.
        config: the defconfig.
        directory: made if need be.
        external: the BR2_EXTERNAL tree.

    Raises:
        SallyportError: make could not work at that path.
    """

    def __init__(self, source: Source, config: Path, directory: Path, *, external: Path = EXTERNAL) -> None:
        self.source, self.config, self.external = source, config, external
        self.directory = directory.absolute()
        source.check_path(self.directory)

    def _words(self, *targets: str) -> list[str]:
        words = ["make", "-C", str(self.source.directory), f"O={self.directory}", f"BR2_EXTERNAL={self.external}"]
        return [*words, *targets]

    def retry(self, package: str) -> str:
        """The command that builds one package again from its sources, to be pasted."""
        settings = [f"{name}={value}" for name, value in self._environment().items()]
        return shlex.join([*(["env", *settings] if settings else []), *self._words(f"{package}-dirclean", package)])

    @staticmethod
    def _environment() -> dict[str, str]:
        # Some packages' configure scripts refuse to run as root unless they are told that it is meant.
        return {"FORCE_UNSAFE_CONFIGURE": "1"} if os.geteuid() == 0 else {}

    def make(self, *targets: str, on_line: Callable[[str], None] | None = None) -> str:
        """Run make and return what it said.

        Raises:
            CommandError: it failed.
        """
        return run(self._words(*targets), env=self._environment(), on_line=on_line)

    def configure(self, settings: Mapping[str, str] | None = None) -> None:
        """Write the output's ``.config`` anew from the defconfig.

        Args:
            settings: symbols that are this machine's and not the image's (download directory, jobs), to values as in a
                defconfig; they win.

        Raises:
            CommandError: make failed.
            SallyportError: there is no such defconfig.
        """
        if not self.config.is_file():
            raise SallyportError(f"{self.config}: no such file", "name a Buildroot defconfig")
        self.directory.mkdir(parents=True, exist_ok=True)
        whole = self.directory / "defconfig"
        lines = [f"{name}={value}\n" for name, value in (settings or {}).items()]
        whole.write_text(self.config.read_text() + "".join(lines))
        self.make("-s", f"BR2_DEFCONFIG={whole}", "defconfig")

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
