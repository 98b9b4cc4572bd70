"""Named sets of Debian packages that the build itself uses: the tools tree, the build sandbox, what boots an image.

Which packages a set has is declared in ``package_sets.toml``, their versions are locked in ``packages.lock``. None of
these sets depends on what an image contains: that is an engine's (`rootfs.engines`).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.markup import escape

from rootfs.base import apt_sources, packages
from rootfs.base.cache import Cache, digest_code
from rootfs.base.errors import OfflineError, SallyportError
from rootfs.base.tools_tree import Tools

DECLARED = Path(__file__).with_suffix(".toml")
_BUILD_MACHINE = "x86_64"
"""The build machine's architecture, as uname(1) names it: programs that run during a build are for it."""


class _Set(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    packages: tuple[str, ...]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    tools: _Set
    peers: _Set
    compare: _Set
    sandbox: _Set
    cross: dict[str, _Set]
    prebuilt: _Set
    boot: _Set
    sysroot: _Set
    emulator: dict[str, _Set]


def declared() -> _Declared:
    """What ``package_sets.toml`` declares.

    Raises:
        SallyportError: a field of the file is unknown, missing or of the wrong type.
    """
    try:
        return _Declared.model_validate(tomllib.loads(DECLARED.read_text()))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise SallyportError(f"{DECLARED}: {error}", "correct the named field of that file") from error


class PackageSets:
    """The package sets, each fetched into the cache when it is first asked for.

    Args:
        cache: where fetched sets are kept.
        arch: the image's architecture, as uname(1) names it (``x86_64``).
        debian: Debian's name of that architecture (``amd64``).
        offline: raise `OfflineError` instead of fetching a set that is not in the cache.
        newest: take the archive's present versions instead of the locked ones; None: as the environment variable
            `packages.NEWEST` says.
        as_of: the day (ISO 8601) whose newest versions these are: with another day the archive is asked again.
            None: today (UTC).
    """

    def __init__(
        self,
        cache: Cache,
        arch: str = _BUILD_MACHINE,
        debian: str = "amd64",
        *,
        offline: bool = False,
        newest: bool | None = None,
        as_of: str | None = None,
    ) -> None:
        self.cache = cache
        self.arch = arch
        self.debian = debian
        self.offline = offline
        self.newest = packages.newest() if newest is None else newest
        self._as_of = as_of or datetime.now(UTC).date().isoformat()

    @property
    def native(self) -> bool:
        """Whether the image's architecture is the build machine's."""
        return self.arch == _BUILD_MACHINE

    def fetch(self, name: str, include: Sequence[str], *, native: bool = False) -> Path:
        """Fetch a set of packages, unless the cache has it.

        Args:
            name: of the set, as in ``packages.lock``; for another architecture than the build machine's, its Debian
                name is appended.
            include: packages to ask for; ``{debian}`` in a name stands for Debian's name of the architecture.
            native: fetch for the build machine, whatever the image's architecture is.

        Returns:
            a directory with ``tree``, ``packages.json`` and ``files.json`` (`packages.fetch`).

        Raises:
            OfflineError: the set is not in the cache, and ``offline`` was given.
            SallyportError: the packages cannot be had (`packages.fetch`).
        """
        native = native or self.native
        name, debian = (name, "amd64") if native else (f"{name}-{self.debian}", self.debian)
        include = [package.format(debian=debian) for package in include]
        lock = packages.read_lock().get(name, [])
        inputs = {"packages": " ".join(sorted(include)), "suite": apt_sources.SUITE}
        inputs |= {} if native else {"arch": debian}
        versions = self._as_of if self.newest else json.dumps([asdict(package) for package in lock])
        inputs |= {"newest of" if self.newest else packages.LOCK.name: versions}
        inputs |= digest_code(packages, apt_sources)
        if self.offline and not self.cache.has(f"packages-{name}", inputs):
            raise OfflineError(f"Debian packages for {name}")

        def build(output: Path) -> None:
            packages.fetch(name, include, output, arch=debian, newest=self.newest, progress=self.cache.progress)

        output = self.cache.step(f"packages-{name}", f"Debian packages for {name}", inputs, build)
        if self.newest and (others := packages.differences(packages.load(output), lock)):
            sentence = f"not as {packages.LOCK.name} has it (--newest): {', '.join(others)}"
            self.cache.console.print(f"  [yellow]![/] {escape(sentence)}", highlight=False)
        return output

    def needs(self) -> list[Callable[[], object]]:
        """For `require`: what every image is built with, whatever it contains."""
        needs: list[Callable[[], object]] = [lambda: self.tools, lambda: self.boot]
        return needs if self.native else [*needs, lambda: self.sysroot]

    @cached_property
    def tools(self) -> Tools:
        """The tools tree."""
        return Tools(self.fetch("tools", declared().tools.packages, native=True) / "tree")

    @cached_property
    def peers(self) -> Tools:
        """Programs of other projects that benchmarks compare ours with."""
        return Tools(self.fetch("peers", declared().peers.packages, native=True) / "tree")

    @cached_property
    def compare(self) -> Tools:
        """What explains how two images differ (diffoscope)."""
        return Tools(self.fetch("compare", declared().compare.packages, native=True) / "tree")

    @cached_property
    def sandbox(self) -> Path:
        """The user land in which Buildroot runs: a directory as `fetch` returns it."""
        own = declared().sandbox.packages
        if self.native:
            return self.fetch("sandbox", own, native=True)
        return self.fetch(f"sandbox-{self.arch}", [*own, *declared().cross[self.arch].packages], native=True)

    @cached_property
    def prebuilt(self) -> Path:
        """What goes from Debian's packages into an image that Buildroot builds: a directory as `fetch` returns it."""
        return self.sandbox if self.native else self.fetch("prebuilt", declared().prebuilt.packages)

    @cached_property
    def boot(self) -> Path:
        """What boots an image besides its kernel, the EFI stub: a directory as `fetch` returns it."""
        return self.fetch("boot", declared().boot.packages)

    @cached_property
    def sysroot(self) -> Tools:
        """Headers and libraries to compile and link with, for another architecture than the build machine's."""
        return Tools(self.fetch("sysroot", declared().sysroot.packages) / "tree")

    @cached_property
    def emulator(self) -> Tools:
        """The tree whose QEMU boots images of the architecture."""
        if self.native:
            return self.tools
        declaration = declared().emulator[self.arch]
        return Tools(self.fetch(f"emulator-{self.arch}", declaration.packages, native=True) / "tree")

    def every(self) -> list[Path]:
        """Fetch every set of this architecture, for the lock file; returns their directories."""
        if self.native:
            return [self.tools.tree.parent, self.peers.tree.parent, self.compare.tree.parent, self.boot, self.sandbox]
        return [self.boot, self.sandbox, self.sysroot.tree.parent, self.emulator.tree.parent, self.prebuilt]


def require(needs: Sequence[Callable[[], object]]) -> None:
    """Make all of these, each of which may be missing offline.

    Raises:
        OfflineError: at least one is missing; the message names all that are.
    """
    missing = []
    for need in needs:
        try:
            need()
        except OfflineError as error:
            missing.append(error.what)
    if missing:
        raise OfflineError(", ".join(dict.fromkeys(missing)))


def toolset(tools: Tools) -> str:
    """SHA-256 of the tools tree's packages: other ones may make other bytes of the same inputs."""
    lines = sorted(f"{p.name} {p.version} {p.sha256}\n" for p in packages.load(tools.tree.parent))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
