"""Engine ``buildroot``: both defconfigs built from source in Buildroot's tree, one output directory each.

So far it ends at Buildroot's own outputs (``target/``, ``images/``); the flash image is made by engine ``debian``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rootfs import defconfig
from rootfs.buildroot import build, downloads
from rootfs.buildroot.downloads import Needed
from rootfs.buildroot.output import Output, Package
from rootfs.buildroot.source import Source
from rootfs.errors import SallyportError
from rootfs.steps import digest_path


@dataclass(frozen=True)
class Engine:
    """Builds in a tree that the user names.

    Args:
        tree: Buildroot's.
        out: where the output directories are.
        downloads: Buildroot's download directory.
        site: a directory in the place of its primary site, or none.
        offline: nothing is downloaded: what is neither in ``downloads`` nor at ``site`` is an error, before the build.
        jobs: of make within one package; 0 for as many as there are processors, and one (package/Makefile.in).
    """

    tree: Source
    out: Path
    downloads: Path
    site: Path | None
    offline: bool
    jobs: int
    console: Console

    def _settings(self) -> dict[str, str]:
        """What is this machine's and not the image's, as in a defconfig."""
        settings = {"BR2_DL_DIR": f'"{self.downloads.resolve()}"', "BR2_JLEVEL": str(self.jobs)}
        if self.site is not None:
            settings["BR2_PRIMARY_SITE"] = f'"file://{self.site.resolve()}"'
        if self.offline:
            settings["BR2_PRIMARY_SITE_ONLY"] = "y"
            settings.setdefault("BR2_PRIMARY_SITE", f'"file://{self.downloads.resolve()}"')
        return settings

    def output(self, name: str) -> tuple[Output, list[Package]]:
        """The output directory of one defconfig out of `defconfig.ALL`, configured, and what it builds.

        Raises:
            SallyportError: there is no such defconfig, or Buildroot did not take it.
        """
        if name not in defconfig.ALL:
            raise SallyportError(f"no defconfig {name!r}", f"name one of {', '.join(defconfig.ALL)}")
        for place in (self.downloads, self.site):
            if place is not None:
                self.tree.check_path(place.absolute())
        output = Output(self.tree, defconfig.ALL[name], self.out / name)
        with self.console.status(f"asking Buildroot {self.tree.release} what {name} needs"):
            output.configure(self._settings())
            return output, output.packages()

    def _check_origin(self, output: Output) -> None:
        """Buildroot does not rebuild what a changed configuration asks for (docs/manual/rebuilding-packages.adoc).

        Raises:
            SallyportError: what is in the directory was begun with another configuration, or from another tree.
        """
        config = output.config.read_bytes()
        packages = "".join(digest_path(output.external / name) for name in ("package", "patches"))
        origin = f"{self.tree.directory} {hashlib.sha256(config).hexdigest()} {packages}\n"
        record = output.directory / "origin"
        if (output.directory / "build").is_dir() and (not record.exists() or record.read_text() != origin):
            raise SallyportError(
                f"{output.directory} was begun with another configuration, other packages of ours or another tree",
                f"start anew: rm -r {output.directory}; downloads stay in {self.downloads}",
            )
        record.write_text(origin)

    def sources(self, names: Sequence[str]) -> list[Needed]:
        """The source files that these defconfigs need, each once."""
        packages = [package for name in names for package in self.output(name)[1]]
        return self._look(packages)

    def _look(self, packages: Sequence[Package]) -> list[Needed]:
        return downloads.look(packages, self.tree.directory, self.downloads, self.site)

    def build(self, name: str) -> Path:
        """Build one defconfig, or go on with it; returns the root file system's tree.

        Raises:
            SallyportError: offline and files are missing; or a package failed.
        """
        output, packages = self.output(name)
        if self.offline and (bad := [needed for needed in self._look(packages) if not needed.good]):
            downloads.show(bad, self.console)
            raise SallyportError(
                f"{len(bad)} source files of {name} cannot be used, and nothing may be downloaded",
                f"put them below {self.downloads}, each into its folder",
            )
        self._check_origin(output)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(name)
            last = -1

            def say(words: str, done: int, total: int) -> None:
                nonlocal last
                bar.update(task, description=words[:60], completed=done, total=total)
                if done != last and not self.console.is_terminal:
                    self.console.print(f"  … {name}: {done} of {total} packages; {words}", highlight=False)
                last = done

            log = build.build(output, packages, say)
        self.console.print(f"  [green]✓[/] {name} [dim](Buildroot {self.tree.release}; log: {log})[/]", highlight=False)
        return output.directory / "target"
