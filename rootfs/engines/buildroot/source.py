"""Buildroot's source tree that the user names: its release, and the Kconfig symbols that it has."""

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
"""The release that the defconfigs are written for: the newest of the long-term line 2026.02."""
BUILT = "2025.11.3"
"""The release that is built: the newest whose sources are in Debian's archive and the Python package index. These have
neither Python 3.14 nor systemd 258, which the long-term line needs."""
EXTERNAL = PROJECT / "rootfs/external"
"""The BR2_EXTERNAL tree."""
NAMED = "SALLYPORT_BUILDROOT"
"""Environment variable: the Buildroot release to build from: a directory, an archive, or the address of one."""
_VERSION = re.compile(r"^export BR2_VERSION := (\S+)$", re.MULTILINE)


def named(option: str) -> str:
    """The release that the user names by an option or in the environment; empty if by neither."""
    return option or os.environ.get(NAMED, "")


@dataclass(frozen=True)
class Source:
    """A Buildroot source tree at ``directory``."""

    directory: Path
    release: str

    @classmethod
    def open(cls, directory: Path) -> Source:
        """Read the release of the tree in a directory.

        Raises:
            SallyportError: the directory is not a Buildroot source tree.
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
                f"{directory} is not a Buildroot source tree", "name the directory of a Buildroot release"
            )
        return cls(directory, found[1])

    def require(self, *releases: str) -> None:
        """Check that the tree is one of some releases; an unreleased state ("-git") is not.

        Raises:
            SallyportError: the tree is another release.
        """
        if self.release not in releases:
            release = " or ".join(releases)
            raise SallyportError(
                f"{self.directory} is Buildroot {self.release}, but {release} is needed",
                f"unpack Buildroot {release} and name that directory",
            )

    def kconfig(self, external: Path = EXTERNAL) -> Kconfig:
        """All Kconfig symbols of the tree and of the external tree; takes seconds.

        Raises:
            SallyportError: a Config.in cannot be read (names file and line), or a path has a space or a colon.
        """
        for path in (self.directory, external):
            if re.search(r"[\s:]", str(path)):
                raise SallyportError(
                    f"Kconfig cannot read {str(path)!r}: the path has a space or a colon", "move it to another path"
                )
        with scratch("sallyport-kconfig-") as folder:
            # Buildroot's own script writes the snippets that its Config.in sources.
            script = self.directory / "support/scripts/br2-external"
            try:
                run([script, "-d", folder, external], cwd=self.directory)
            except CommandError as error:
                raise CommandError(str(error), "correct rootfs/external/external.desc") from error
            # As COMMON_CONFIG_ENV of Buildroot's Makefile, with the compiler of Debian 12, the oldest build machine.
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
                    raise SallyportError(f"Buildroot {self.release}: {error}", "correct the named Config.in") from error


@contextmanager
def _environment(names: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the context: Kconfiglib takes its settings only from there."""
    before = dict(os.environ)
    os.environ.update(names)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
