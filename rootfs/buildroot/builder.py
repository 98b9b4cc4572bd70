"""Builds both defconfigs from source in Buildroot's tree, one output directory each."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rootfs import defconfig
from rootfs.arch import X86_64, Arch
from rootfs.buildroot import build as building
from rootfs.buildroot import downloads, harvest, kernel_options, toolchain
from rootfs.buildroot.downloads import Needed
from rootfs.buildroot.output import Bench, Output, Package
from rootfs.buildroot.source import EXTERNAL, Source
from rootfs.errors import SallyportError
from rootfs.steps import digest_path, remove
from rootfs.together import together

_OURS = ("package", "patches", "linux", "overrides.mk", "external.mk", "buildroot/stand_in")
"""What of the BR2_EXTERNAL tree goes into a build."""
_VM_KERNEL = EXTERNAL.parent / "frontend_vm/linux.config"
_NOT_BY_BUILDROOT = {
    "BR2_ROOTFS_OVERLAY": '""',
    "BR2_TARGET_ROOTFS_SQUASHFS": "n",
    "BR2_TOOLCHAIN_BUILDROOT_GLIBC": "n",
}
"""Overlays have templates, and root file systems are sealed: rootfs/image.py does both, for every engine."""


def _link(source: str, target: str) -> None:
    """Sources are big, and on the same disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Maker(Protocol):
    """Makes places to run make in, all alike."""

    @property
    def prebuilt(self) -> Path:
        """The packages of what goes into an image as it is."""

    @property
    def identity(self) -> str:
        """What they are made of, and how: differs whenever that does."""

    def bench(self, source: Path, output: Path, downloads: Path, ccache: Path) -> Bench:
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
    """

    tree: Source
    out: Path
    downloads: Path
    ccache: Path
    jobs: int
    console: Console
    maker: Maker
    arch: Arch = X86_64
    _listed: dict[str, list[Package]] = field(default_factory=dict)
    _built: set[str] = field(default_factory=set)

    def _settings(self, bench: Bench) -> dict[str, str]:
        """What is the build's and not the image's, as in a defconfig."""
        return {
            **toolchain.settings(self.arch),
            **_NOT_BY_BUILDROOT,
            "BR2_DL_DIR": f'"{bench.downloads}"',
            "BR2_PRIMARY_SITE": f'"file://{bench.downloads}"',
            "BR2_PRIMARY_SITE_ONLY": "y",
            "BR2_CCACHE": "y",
            "BR2_CCACHE_DIR": f'"{bench.ccache}"',
            # Paths are the same for every build. If ccache made them relative, whatever it cannot keep and hands to the
            # compiler as it is would have other names of files in it: no two builds were the same.
            "BR2_CCACHE_USE_BASEDIR": "n",
            # Packages that do not need one another are built at the same time, and none sees what it did not ask for.
            "BR2_PER_PACKAGE_DIRECTORIES": "y",
            "BR2_PACKAGE_PYTHON3_PY_ONLY": "y",
            # For ninja: all of make's share the job server of the outermost (package/Makefile.in).
            "BR2_JLEVEL": str(self.jobs),
        }

    def output(self, name: str) -> tuple[Output, list[Package]]:
        """The output directory of one defconfig out of `defconfig.ALL`, configured, and what it builds.

        Raises:
            SallyportError: Buildroot did not take it.
        """
        directory = self.out / f"{name}{self.arch.suffix}"
        for path in (directory, self.downloads, self.ccache):
            path.mkdir(parents=True, exist_ok=True)
        bench = self.maker.bench(self.tree.directory, directory, self.downloads, self.ccache)
        output = Output(self.tree, self.arch.configs(name, defconfig.ALL[name]), directory, bench)
        if name not in self._listed:
            with self.console.status(f"asking Buildroot {self.tree.release} what {name} needs"):
                output.configure(self._settings(bench))
                self._listed[name] = output.packages()
        return output, self._listed[name]

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of what every build is made with: of our external tree, and of the compiler."""
        digests = {name: digest_path(EXTERNAL / name) for name in (*_OURS, self.arch.directory.name)}
        return digests | {"kernel of the VM": digest_path(_VM_KERNEL), "made by": self.maker.identity}

    def _check_origin(self, output: Output) -> None:
        """Buildroot does not rebuild what a changed configuration asks for (docs/manual/rebuilding-packages.adoc).

        Raises:
            SallyportError: what is in the directory was begun with another configuration, or from another tree.
        """
        lines = (output.directory / "defconfig").read_text().splitlines()
        # How many jobs there are changes nothing.
        config = hashlib.sha256("\n".join(line for line in lines if "_JLEVEL" not in line).encode()).hexdigest()
        origin = f"{self.tree.release} {config} {' '.join(self.inputs.values())}\n"
        record = output.directory / "origin"
        begun = any(output.directory.glob("build/*/.stamp_*"))
        if begun and (not record.exists() or record.read_text() != origin):
            raise SallyportError(
                f"{output.directory} was begun with another configuration, other packages of ours or another release",
                f"start anew: rm -r {output.directory}; downloads stay in {self.downloads}",
            )
        record.write_text(origin)

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
        if again:
            self._built.clear()
        open_ = {name: self._ready(name, again) for name in names if name not in self._built}
        if open_:
            with self._progress(list(open_)) as say:
                works = [partial(self._build, name, output, say[name]) for name, output in open_.items()]
                together(works, building.Stopped)
            self._built.update(open_)
        return [self.out / f"{name}{self.arch.suffix}" for name in names]

    def _ready(self, name: str, again: str) -> Output:
        """The output directory, with which a build can begin."""
        output, packages = self.output(name)
        if bad := [needed for needed in self._look(packages) if not needed.good]:
            downloads.show(bad, self.console)
            raise SallyportError(
                f"{len(bad)} source files of {name} cannot be used, and a build downloads nothing",
                f"put them below {self.downloads}, each into its folder; `invoke image.sources --fetch` finds many",
            )
        self._check_origin(output)
        if again:
            output.make(f"{again}-dirclean")
        return output

    def _build(self, name: str, output: Output, say: building.Say, stop: threading.Event) -> None:
        log = building.build(output, self._listed[name], say, jobs=self.jobs, stop=stop)
        for made in output.directory.glob("build/linux-[0-9]*/.config"):
            symbols = defconfig.merged(self.arch.configs(name, defconfig.ALL[name]))
            kernel_options.require(kernel_options.files(symbols), made)
        self.console.print(f"  [green]✓[/] {name} [dim](Buildroot {self.tree.release}; log: {log})[/]", highlight=False)

    def legal(self, name: str, target: Path) -> Path:
        """What must go along with an image: licences, sources, and lists of both, in ``target/<name>``.

        Buildroot's own collection (docs/manual/legal-notice.adoc), and the copyright files of what is prebuilt, whose
        sources are in Debian's archive.

        Raises:
            SallyportError: it is not built, or otherwise; or a licence is not what its hash says.
        """
        output, packages = self.output(name)
        self._check_origin(output)
        tally = building.Tally(output, packages)
        if (done := tally.done()) < tally.total:
            raise SallyportError(
                f"{output.directory}: {done} of {tally.total} packages are built", "first `invoke image.buildroot`"
            )
        with self.console.status(f"collecting licences and sources of {name}"):
            output.make("legal-info")
        name += self.arch.suffix
        work = target / f".{name}"
        remove(work)
        shutil.copytree(output.directory / "legal-info", work, copy_function=_link)
        for package in harvest.prebuilt(self.maker.prebuilt):
            notice = self.maker.prebuilt / "tree/usr/share/doc" / package.name / "copyright"
            (work / "prebuilt" / package.name).mkdir(parents=True)
            shutil.copyfile(notice, work / "prebuilt" / package.name / notice.name)
        remove(target / name)
        return work.rename(target / name)

    @contextmanager
    def _progress(self, names: Sequence[str]) -> Iterator[dict[str, building.Say]]:
        """A bar for each, or on what is no terminal a line for each package that is done."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            tasks = {name: bar.add_task(name) for name in names}
            last = dict.fromkeys(names, -1)

            def say(name: str, words: str, done: int, total: int) -> None:
                bar.update(tasks[name], description=f"{name}: {words[:60]}", completed=done, total=total)
                if done != last[name] and not self.console.is_terminal:
                    self.console.print(f"  … {name}: {done} of {total} packages; {words}", highlight=False)
                last[name] = done

            yield {name: partial(say, name) for name in names}
