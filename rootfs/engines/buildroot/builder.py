"""Builds both defconfigs from source in Buildroot's tree, one output directory each."""

from __future__ import annotations

import difflib
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from rootfs.base import packages
from rootfs.base.cache import digest_path, exclusive_lock
from rootfs.base.errors import SallyportError
from rootfs.base.parallel import run_in_parallel
from rootfs.base.process import Stopped
from rootfs.base.version import PROJECT
from rootfs.engines.buildroot import build as building
from rootfs.engines.buildroot import collect, downloads, kernel_options, legal, toolchain
from rootfs.engines.buildroot.downloads import Needed
from rootfs.engines.buildroot.output import MakeEnvironment, Output, Package
from rootfs.engines.buildroot.progress import show_progress
from rootfs.engines.buildroot.source import EXTERNAL, Source
from rootfs.spec import defconfig
from rootfs.spec.architecture import X86_64, Arch

_OURS = ("package", "patches", "linux", "overrides.mk", "external.mk", "shims")
"""The parts of the BR2_EXTERNAL tree that a build reads."""
_VM_KERNEL = PROJECT / "frontend_vm/linux.config"
_NOT_BY_BUILDROOT = {
    "BR2_ROOTFS_OVERLAY": '""',
    "BR2_TARGET_ROOTFS_SQUASHFS": "n",
    "BR2_TARGET_ROOTFS_SQUASHFS4_ZSTD": "n",
    "BR2_TOOLCHAIN_BUILDROOT_GLIBC": "n",
}
"""Symbols that Buildroot is not to act on: rootfs/tree lays overlays (which have templates) and packs root file systems
for every engine."""


class BuildSandbox(Protocol):
    """Makes environments to run make in, all with the same programs (`rootfs.engines.buildroot.sandbox.Sandbox`)."""

    @property
    def prebuilt(self) -> Path:
        """The package set whose files go into an image as they are."""

    @property
    def identity(self) -> str:
        """A digest of the programs and of how they were put together."""

    def make_environment(self, source: Path, output: Path, downloads: Path, ccache: Path) -> MakeEnvironment:
        """An environment for a source tree, an output directory, a download directory and one of ccache."""


@dataclass(frozen=True)
class Builder:
    """Builds in a tree that the user names.

    Args:
        tree: Buildroot's source tree.
        out: contains the output directories.
        downloads: Buildroot's download directory with all sources. A build downloads nothing.
        ccache: directory of ccache(1); several machines may share it.
        console: shows progress.
        jobs: compilers that run at the same time for each defconfig.
        maker: makes the places to run make in.
        arch: the architecture to build for.
        compiler: a part of a defconfig that names another toolchain, such as one that Buildroot knows; None: ours.
    """

    tree: Source
    out: Path
    downloads: Path
    ccache: Path
    jobs: int
    console: Console
    sandbox: BuildSandbox
    arch: Arch = X86_64
    compiler: Path | None = None
    _listed: dict[str, list[Package]] = field(default_factory=dict)
    _built: set[str] = field(default_factory=set)
    _held: set[str] = field(default_factory=set)

    def _settings(self, environment: MakeEnvironment) -> dict[str, str]:
        """Symbols that configure the build and not the image, with values as in a defconfig."""
        return {
            **({} if self.compiler else toolchain.settings(self.arch)),
            **_NOT_BY_BUILDROOT,
            "BR2_DL_DIR": f'"{environment.downloads}"',
            "BR2_PRIMARY_SITE": f'"file://{environment.downloads}"',
            "BR2_PRIMARY_SITE_ONLY": "y",
            "BR2_CCACHE": "y",
            "BR2_CCACHE_DIR": f'"{environment.ccache}"',
            # Paths are the same in every build. If ccache made them relative, files that it cannot cache would be
            # compiled with other names in them than those that it can, and no two builds would be the same.
            "BR2_CCACHE_USE_BASEDIR": "n",
            # Independent packages are built at the same time, and each sees only what it depends on.
            "BR2_PER_PACKAGE_DIRECTORIES": "y",
            "BR2_PACKAGE_PYTHON3_PY_ONLY": "y",
            # For ninja; all makes share the job server of the outermost one (package/Makefile.in).
            "BR2_JLEVEL": str(self.jobs),
        }

    def _directory(self, name: str) -> Path:
        return self.out / f"{name}{self.arch.suffix}"

    @contextmanager
    def locked(self, names: Sequence[str]) -> Iterator[None]:
        """Lock the output directories of these defconfigs against other processes; may be nested.

        Readers lock them, too, because make begins by writing the configuration anew.
        """
        with ExitStack() as held:
            # Always in the same order, so that two processes never wait for each other.
            for name in sorted(set(names) - self._held):
                directory = self._directory(name)
                self.out.mkdir(parents=True, exist_ok=True)
                busy = f"  … {directory} [dim](waiting for another build)[/]"
                lock = directory.with_name(f".{directory.name}.lock")
                held.enter_context(exclusive_lock(lock, partial(self.console.print, busy, highlight=False)))
                self._held.add(name)
                held.callback(self._held.discard, name)
            yield

    def output(self, name: str) -> tuple[Output, list[Package]]:
        """The output directory of one defconfig out of `defconfig.ALL`, configured, and what it builds.

        Raises:
            SallyportError: Buildroot does not keep a line of the defconfig (`Output.configure`).
        """
        with self.locked([name]):
            return self._output(name)

    def _output(self, name: str) -> tuple[Output, list[Package]]:
        directory = self._directory(name)
        for path in (directory, self.downloads, self.ccache):
            path.mkdir(parents=True, exist_ok=True)
        environment = self.sandbox.make_environment(self.tree.directory, directory, self.downloads, self.ccache)
        output = Output(self.tree, self.configs(name), directory, environment)
        if name not in self._listed:
            with self.console.status(f"asking Buildroot {self.tree.release} what {name} needs"):
                output.configure(self._settings(environment))
                self._listed[name] = output.packages()
        return output, self._listed[name]

    def configs(self, name: str) -> list[Path]:
        """The files that a defconfig consists of; the last one wins."""
        parts = self.arch.configs(name, defconfig.ALL[name])
        return [*parts, self.compiler] if self.compiler else parts

    def prebuilt(self) -> list[packages.Package]:
        """Debian packages whose files go into an image as they are."""
        return collect.prebuilt(self.sandbox.prebuilt, libc=self.compiler is None)

    def inputs(self, name: str) -> dict[str, str]:
        """Digests of what a build uses besides its defconfig: our external tree and the compiler."""
        digests = {path: digest_path(EXTERNAL / path) for path in (*_OURS, self.arch.directory.name)}
        digests |= {"kernel": digest_path(_VM_KERNEL)} if name == "frontend" else {}
        return digests | {"made by": self.sandbox.identity}

    def _check_origin(self, name: str, output: Output) -> None:
        """Buildroot does not rebuild what a changed configuration asks for (docs/manual/rebuilding-packages.adoc).

        Raises:
            SallyportError: the build in the directory was begun with another configuration or another source tree.
        """
        symbols = defconfig.read(output.directory / "defconfig").values()
        # The number of jobs does not change what is built.
        values = sorted(f"{symbol.name}={symbol.value}" for symbol in symbols if symbol.name != "BR2_JLEVEL")
        config = hashlib.sha256("\n".join(values).encode()).hexdigest()
        origin = f"{self.tree.release} {config} {' '.join(self.inputs(name).values())}\n"
        record = output.directory / "origin"
        if record.exists() and record.read_text() == origin:
            return
        if any(output.directory.glob("build/*/.stamp_*")):
            raise SallyportError(
                f"{output.directory}: this build was begun with another configuration, external tree or release",
                f"start anew: `rm -r {output.directory}`; downloads stay in {self.downloads}",
            )
        new = record.with_name(f".{record.name}.new")
        new.write_text(origin)
        new.replace(record)

    def sources(self, names: Sequence[str]) -> list[Needed]:
        """The source files that these defconfigs need, each once."""
        packages = [package for name in names for package in self.output(name)[1]]
        return self._look(packages)

    def _look(self, packages: Sequence[Package]) -> list[Needed]:
        return downloads.look(packages, self.tree.directory, self.downloads)

    def build(self, names: Sequence[str], *, again: str = "") -> list[Path]:
        """Build defconfigs at the same time, or continue; returns their output directories.

        Defconfigs that this object has built already are skipped.

        Args:
            names: out of `defconfig.ALL`.
            again: a package to build anew from its sources first.

        Raises:
            SallyportError: source files are missing; a package failed; or a kernel lacks an option.
        """
        with self.locked(names):
            if again:
                self._built.clear()
            outputs = {name: self.output(name)[0] for name in names if name not in self._built}
            self._require(list(outputs))
            for name, output in outputs.items():
                self._check_origin(name, output)
            if again:
                self._take_up(again, outputs)
            if outputs:
                with show_progress(list(outputs), self.console) as say:
                    works = [partial(self._build, name, output, say[name]) for name, output in outputs.items()]
                    run_in_parallel(works, Stopped)
                self._built.update(outputs)
        return [self._directory(name) for name in names]

    def _require(self, names: Sequence[str]) -> None:
        """Check that all source files are there and have their hashes."""
        if bad := [needed for needed in self.sources(names) if not needed.good]:
            downloads.show(bad, self.console)
            raise SallyportError(
                f"{len(bad)} source files are missing or damaged, and a build downloads nothing",
                f"put each into its folder below {self.downloads}; `invoke image.sources --fetch` finds many of them",
            )

    def _take_up(self, package: str, outputs: Mapping[str, Output]) -> None:
        """Remove a package's build, and those of all packages that depend on it.

        Each package has a copy of what it depends on (docs/manual/rebuilding-packages.adoc). Without this, those copies
        would still be of the old build, and would be installed over the new one.
        """
        having = [name for name in outputs if any(package == listed.name for listed in self._listed[name])]
        if not having:
            known = {listed.name for name in outputs for listed in self._listed[name]}
            close = difflib.get_close_matches(package, sorted(known), n=1)
            raise SallyportError(
                f"no package {package!r} in {' and '.join(outputs)}",
                f"did you mean {close[0]}?" if close else "`invoke image.sources --json` lists all packages",
            )
        for name in having:
            known = {listed.name for listed in self._listed[name]}
            users = known & set(outputs[name].make("-s", f"{package}-show-recursive-rdepends").split())
            outputs[name].make(*(f"{each}-dirclean" for each in (package, *sorted(users - {package}))))

    def _build(self, name: str, output: Output, say: building.Say, stop: threading.Event) -> None:
        log = building.build(output, self._listed[name], say, jobs=self.jobs, stop=stop)
        for made in output.directory.glob("build/linux-[0-9]*/.config"):
            symbols = defconfig.merged(self.configs(name))
            kernel_options.require(kernel_options.files(symbols), made)
        self.console.print(f"  [green]✓[/] {name} [dim](Buildroot {self.tree.release}; log: {log})[/]", highlight=False)

    def legal(self, name: str, target: Path) -> Path:
        """Collect licences and sources of a defconfig that was built; returns the directory below ``target``.

        Raises:
            SallyportError: the defconfig was not built, or with another configuration; or a licence file does not have
                its hash.
        """
        with self.locked([name]):
            output, packages = self.output(name)
            self._check_origin(name, output)
            tally = building.Tally(output, packages)
            if (done := tally.done()) < tally.total:
                raise SallyportError(
                    f"{output.directory}: {done} of {tally.total} packages are built",
                    "run `invoke image.buildroot` first",
                )
            with self.console.status(f"collecting licences and sources of {name}"):
                return legal.collect(output, self.prebuilt(), self.sandbox.prebuilt, target / output.directory.name)
