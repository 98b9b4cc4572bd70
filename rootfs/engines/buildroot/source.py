"""Buildroot's own source tree, as the user names it: is it one, of which release, and what Kconfig symbols it has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kconfiglib import Kconfig, KconfigError

from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.process import run
from rootfs.base.scratch import scratch
from rootfs.base.version import PROJECT

RELEASE = "2026.02.3"
"""The release that the defconfigs are written for: the newest of the long-term 2026.02 line; it keeps each symbol."""
BUILT = "2025.11.3"
"""The release that is built: the newest whose sources can be had from the archives that we build from, which have
neither Python 3.14 nor systemd 258, as the long-term line wants them."""
EXTERNAL = PROJECT / "rootfs/external"
"""The BR2_EXTERNAL tree."""
NAMED = "SALLYPORT_BUILDROOT"
"""Environment variable: the Buildroot release to build from: a directory, an archive, or the address of one."""
_VERSION = re.compile(r"^export BR2_VERSION := (\S+)$", re.MULTILINE)


def named(option: str) -> str:
    """What the user names, by an option or in the environment; empty if in neither."""
    return option or os.environ.get(NAMED, "")


@dataclass(frozen=True)
class Source:
    """A Buildroot source tree at ``directory``."""

    directory: Path
    release: str

    @classmethod
    def open(cls, directory: Path) -> Source:
        """Look at a directory; nothing in it is changed.

        Raises:
            SallyportError: it is no Buildroot tree.
        """
        directory = directory.resolve()
        makefile = directory / "Makefile"
        try:
            found = _VERSION.search(makefile.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise SallyportError(
                f"{makefile}: {error.strerror}", "name the directory of a Buildroot release"
            ) from error
        if found is None or not (directory / "Config.in").is_file():
            raise SallyportError(
                f"{directory} is no Buildroot source tree", "name the directory of a Buildroot release"
            )
        return cls(directory, found[1])

    def require(self, *releases: str) -> None:
        """Insist on one of some releases; an unreleased state of it ("-git") is another one.

        Raises:
            SallyportError: the tree has another one.
        """
        if self.release not in releases:
            release = " or ".join(releases)
            raise SallyportError(
                f"{self.directory} is Buildroot {self.release}, and {release} is wanted",
                f"unpack Buildroot {release} and name that directory",
            )

    def kconfig(self, external: Path = EXTERNAL) -> Kconfig:
        """Every symbol of the tree and of our external tree; takes seconds.

        Raises:
            SallyportError: a Config.in cannot be read; names file and line. Or a path has a space.
        """
        for path in (self.directory, external):
            if re.search(r"[\s:]", str(path)):
                raise SallyportError(
                    f"Kconfig cannot read {str(path)!r}: the path has a space or a colon", "move it to another place"
                )
        with scratch("sallyport-kconfig-") as folder:
            # Buildroot's own script writes the snippets that its Config.in sources.
            script = self.directory / "support/scripts/br2-external"
            try:
                run([script, "-d", folder, external], cwd=self.directory)
            except CommandError as error:
                raise CommandError(str(error), "mend rootfs/external/external.desc") from error
            # As in COMMON_CONFIG_ENV of Buildroot's Makefile, with the oldest compiler that we build on (Debian 12's).
            names = {
                "BASE_DIR": str(folder),
                "BR2_BASE_DIR": str(folder),
                "BR2_CONFIG": f"{folder}/.config",
                "SKIP_LEGACY": "",
            }
            names |= {"BR2_VERSION_FULL": self.release, "HOSTARCH": os.uname().machine, "HOST_GCC_VERSION": "12"}
            names |= {"BR2_EXTERNAL_SALLYPORT_PATH": str(external), "srctree": str(self.directory), "CONFIG_": ""}
            with _environment(names):
                try:
                    return Kconfig("Config.in", warn=False)
                except (KconfigError, OSError) as error:
                    raise SallyportError(
                        f"Buildroot {self.release}: {error}", "mend the Config.in that it names"
                    ) from error


@contextmanager
def _environment(names: Mapping[str, str]) -> Iterator[None]:
    """Kconfiglib takes its settings from the environment, and from nowhere else."""
    before = dict(os.environ)
    os.environ.update(names)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
