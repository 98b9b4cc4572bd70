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
"""What of the BR2_EXTERNAL tree goes into a build."""
_VM_KERNEL = PROJECT / "frontend_vm/linux.config"
_NOT_BY_BUILDROOT = {
    "BR2_ROOTFS_OVERLAY": '""',
    "BR2_TARGET_ROOTFS_SQUASHFS": "n",
    "BR2_TARGET_ROOTFS_SQUASHFS4_ZSTD": "n",
    "BR2_TOOLCHAIN_BUILDROOT_GLIBC": "n",
}
"""Overlays have templates, and root file systems are sealed: rootfs/build.py does both, for every engine."""


class BuildSandbox(Protocol):
    """Makes places to run make in, all alike."""

    @property
    def prebuilt(self) -> Path:
        """The packages of what goes into an image as it is."""

    @property
    def identity(self) -> str:
        """What they are made of, and how: differs whenever that does."""

    def make_environment(self, source: Path, output: Path, downloads: Path, ccache: Path) -> MakeEnvironment:
        """One for a source tree, an output, a download directory and one of compiled files."""


@dataclass(frozen=True)
class Builder:
    """Builds in a tree that the user names.

    Args:
        tree: Buildroot's.
        out: where the output directories are.
        downloads: Buildroot's download directory: the sources, all of them. A build downloads nothing.
        ccache: what was compiled before; may be shared by machines.
        jobs: how many compilers at the same time, of however many packages of one defconfig.
        maker: makes the places to run make in.
        arch: what is built for.
        compiler: a part of a defconfig that names another toolchain than ours, such as one that Buildroot knows.
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
        """What is the build's and not the image's, as in a defconfig."""
        return {
            **({} if self.compiler else toolchain.settings(self.arch)),
            **_NOT_BY_BUILDROOT,
            "BR2_DL_DIR": f'"{environment.downloads}"',
            "BR2_PRIMARY_SITE": f'"file://{environment.downloads}"',
            "BR2_PRIMARY_SITE_ONLY": "y",
            "BR2_CCACHE": "y",
            "BR2_CCACHE_DIR": f'"{environment.ccache}"',
            # Paths are the same for every build. If ccache made them relative, whatever it cannot keep and hands to the
            # compiler as it is would have other names of files in it: no two builds were the same.
            "BR2_CCACHE_USE_BASEDIR": "n",
            # Packages that do not need one another are built at the same time, and none sees what it did not ask for.
            "BR2_PER_PACKAGE_DIRECTORIES": "y",
            "BR2_PACKAGE_PYTHON3_PY_ONLY": "y",
            # For ninja: all of make's share the job server of the outermost (package/Makefile.in).
            "BR2_JLEVEL": str(self.jobs),
        }

    def _directory(self, name: str) -> Path:
        return self.out / f"{name}{self.arch.suffix}"

    @contextmanager
    def locked(self, names: Sequence[str]) -> Iterator[None]:
        """Hold the output directories of these defconfigs against other processes; again in itself, it is held once.

        Whoever reads what was built holds it, too: make begins by writing the configuration anew.
        """
        with ExitStack() as held:
            # All take them in the same order, so none waits for one that waits for it.
            for name in sorted(set(names) - self._held):
                directory = self._directory(name)
                self.out.mkdir(parents=True, exist_ok=True)
                busy = f"  … {directory} [dim](another build is at it)[/]"
                lock = directory.with_name(f".{directory.name}.lock")
                held.enter_context(exclusive_lock(lock, partial(self.console.print, busy, highlight=False)))
                self._held.add(name)
                held.callback(self._held.discard, name)
            yield

    def output(self, name: str) -> tuple[Output, list[Package]]:
        """The output directory of one defconfig out of `defconfig.ALL`, configured, and what it builds.

        Raises:
            SallyportError: Buildroot did not take it.
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
        """The parts of a defconfig."""
        parts = self.arch.configs(name, defconfig.ALL[name])
        return [*parts, self.compiler] if self.compiler else parts

    def prebuilt(self) -> list[packages.Package]:
        """What goes into an image as it is."""
        return collect.prebuilt(self.sandbox.prebuilt, libc=self.compiler is None)

    def inputs(self, name: str) -> dict[str, str]:
        """Digests of what a build is made with besides its defconfig: of our external tree, and of the compiler."""
        digests = {path: digest_path(EXTERNAL / path) for path in (*_OURS, self.arch.directory.name)}
        digests |= {"kernel": digest_path(_VM_KERNEL)} if name == "frontend" else {}
        return digests | {"made by": self.sandbox.identity}

    def _check_origin(self, name: str, output: Output) -> None:
        """Buildroot does not rebuild what a changed configuration asks for (docs/manual/rebuilding-packages.adoc).

        Raises:
            SallyportError: what is in the directory was begun with another configuration, or from another tree.
        """
        symbols = defconfig.read(output.directory / "defconfig").values()
        # How many jobs there are changes nothing.
        values = sorted(f"{symbol.name}={symbol.value}" for symbol in symbols if symbol.name != "BR2_JLEVEL")
        config = hashlib.sha256("\n".join(values).encode()).hexdigest()
        origin = f"{self.tree.release} {config} {' '.join(self.inputs(name).values())}\n"
        record = output.directory / "origin"
        if record.exists() and record.read_text() == origin:
            return
        if any(output.directory.glob("build/*/.stamp_*")):
            raise SallyportError(
                f"{output.directory} was begun with another configuration, other packages of ours or another release",
                f"start anew: rm -r {output.directory}; downloads stay in {self.downloads}",
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
        """Build defconfigs at the same time, or go on with them; returns their output directories.

        What was built by this object before is not looked at again.

        Args:
            names: out of `defconfig.ALL`.
            again: a package to build anew from its sources, first of all.

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
        """Insist on the source files of all of them."""
        if bad := [needed for needed in self.sources(names) if not needed.good]:
            downloads.show(bad, self.console)
            raise SallyportError(
                f"{len(bad)} source files cannot be used, and a build downloads nothing",
                f"put them below {self.downloads}, each into its folder; `invoke image.sources --fetch` finds many",
            )

    def _take_up(self, package: str, outputs: Mapping[str, Output]) -> None:
        """Forget what was built of a package, and with it of all that was built with it.

        Each package has a copy of what it needs (docs/manual/rebuilding-packages.adoc): of a library built anew, the
        copies of those who need it would still be the old one, and win.
        """
        having = [name for name in outputs if any(package == listed.name for listed in self._listed[name])]
        if not having:
            known = {listed.name for name in outputs for listed in self._listed[name]}
            close = difflib.get_close_matches(package, sorted(known), n=1)
            raise SallyportError(
                f"no package {package!r} in {' and '.join(outputs)}",
                f"did you mean {close[0]}?" if close else "`invoke image.sources --json` tells what there is",
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
        """What must go along with an image of a defconfig that was built, in a directory of ``target``.

        Raises:
            SallyportError: it was not, or otherwise; or a licence is not what its hash says.
        """
        with self.locked([name]):
            output, packages = self.output(name)
            self._check_origin(name, output)
            tally = building.Tally(output, packages)
            if (done := tally.done()) < tally.total:
                raise SallyportError(
                    f"{output.directory}: {done} of {tally.total} packages are built", "first `invoke image.buildroot`"
                )
            with self.console.status(f"collecting licences and sources of {name}"):
                return legal.collect(output, self.prebuilt(), self.sandbox.prebuilt, target / output.directory.name)
