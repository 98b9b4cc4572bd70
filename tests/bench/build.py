"""`invoke bench.build`: seconds of a build (cold, nothing changed, one overlay file changed) and the image's sizes.

Everything but `invoke image` itself is built in a temporary directory in ``out/``, removed in any case: the checkout's
own cache neither helps nor loses outputs. Each measurement checks that it measured what its name says.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from rootfs import build as images
from rootfs.base import packages
from rootfs.base.cache import Cache, remove
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.base.process import run as run_command
from rootfs.base.version import PROJECT
from rootfs.build import Built, Recipe
from rootfs.spec import profile
from tests.bench import figures
from tests.bench.figures import Figure, timed

PROFILE = "qemu"
COLD_S, UNCHANGED_S, OVERLAY_S = 300.0, 2.0, 20.0
HOST_MB, VM_MB = 128.0, 24.0
_MB = 1e6
_RAN = re.compile(r"^\s*… .*$", re.MULTILINE)
"""What `Cache.step` says, without a terminal, when a step has to run."""


def run(runs: int, output: Path, console: Console) -> None:
    """Measure everything and write the figures.

    Raises:
        SallyportError: something did not build, or was not built when it should have been.
    """
    bench = figures.begin(runs, output, console)
    with _scratch_area() as directory:
        area = ScratchArea(directory)
        cold, built = _cold(area, runs, console)
        found = [
            Figure("cold build, with downloads", "s", COLD_S, cold),
            Figure("nothing changed, the build alone", "s", UNCHANGED_S, _unchanged(area, runs, console)),
            Figure("one overlay file changed", "s", OVERLAY_S, _overlay(area, runs, console)),
            *_sizes(area, built, console),
        ]
    found.insert(2, Figure("nothing changed, `invoke image`", "s", UNCHANGED_S, _command(runs, console)))
    bench.finish(found)


@contextmanager
def _scratch_area() -> Iterator[Path]:
    """A temporary directory in ``out/``: on its disk, as the cache is, and gone with it if we are killed."""
    images.OUT.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=images.OUT, prefix=".bench-"))
    try:
        yield directory
    finally:
        # Trees may hold directories without write permission, which tempfile's own cleaning does not expect.
        remove(directory)


@dataclass(frozen=True)
class ScratchArea:
    """A cache and an output directory of the benchmark's own."""

    directory: Path
    quiet: Console = field(default_factory=lambda: Console(quiet=True))

    @property
    def cache(self) -> Path:
        """The cache's directory."""
        return self.directory / "cache"

    def make(self, recipe: Recipe, console: Console | None = None) -> tuple[float, Built, set[str]]:
        """Make an image; returns seconds, the image and the names of the steps that ran."""
        before = self._outputs()
        seconds, built = timed(
            lambda: images.make(recipe, console or self.quiet, out=self.directory / "out", cache=self.cache)
        )
        return seconds, built, {name.rpartition("-")[0] for name in self._outputs() - before}

    def empty(self) -> None:
        """Drop all that was made."""
        remove(self.cache)
        remove(self.directory / "out")

    def _outputs(self) -> set[str]:
        found = self.cache.iterdir() if self.cache.exists() else iter(())
        return {path.name for path in found if path.is_dir() and not path.name.startswith(".")}


def _cold(area: ScratchArea, runs: int, console: Console) -> tuple[tuple[float, ...], Built]:
    """An empty cache: packages are fetched, the tools tree is made, and everything else."""
    times = []
    for number in range(1, runs + 1):
        area.empty()
        console.print(f"cold build {number} of {runs}", highlight=False)
        seconds, built, ran = area.make(_recipe(), console)
        _expect({"packages-tools", "packages-host", "packages-frontend", "disk"} <= ran, "a cold build", ran)
        times.append(seconds)
    return tuple(times), built


def _unchanged(area: ScratchArea, runs: int, console: Console) -> tuple[float, ...]:
    """The same again, in this process: what finding out costs."""

    def once(_: int) -> float:
        seconds, _built, ran = area.make(_recipe())
        _expect(not ran, "a build with nothing changed", ran)
        return seconds

    return _repeat(runs, "nothing changed", console, once)


def _overlay(area: ScratchArea, runs: int, console: Console) -> tuple[float, ...]:
    """One file of a host overlay is another; the overlay is the benchmark's own, so no file of the checkout changes."""
    overlay = area.directory / "overlay"
    changing = overlay / "etc/sallyport/bench"
    changing.parent.mkdir(parents=True)

    def build(content: str) -> tuple[float, Built, set[str]]:
        changing.write_text(content)
        return area.make(Recipe(profile.load(PROFILE), extra=(overlay,), tag="bench"))

    hashes = {build("first\n")[1].root_hash}

    def once(number: int) -> float:
        seconds, built, ran = build(f"change {number}\n")
        right = ran == {f"host-{PROFILE}", "disk"} and built.root_hash not in hashes
        _expect(right, "a build with one overlay file changed", ran)
        hashes.add(built.root_hash)
        return seconds

    return _repeat(runs, "one overlay file changed", console, once)


def _command(runs: int, console: Console) -> tuple[float, ...]:
    """`invoke image` in this checkout, as people type it: start of Python and imports included."""
    argv = [sys.executable, "-m", "invoke", "image", "--profile", PROFILE]
    env = {packages.NEWEST: "1"} if packages.newest() else {}
    with console.status("`invoke image`: bringing the checkout's own out/ up to date"):
        run_command(argv, cwd=PROJECT, env=env)

    def once(_: int) -> float:
        seconds, said = timed(lambda: run_command(argv, cwd=PROJECT, env=env))
        ran = {line.strip() for line in _RAN.findall(said)}
        _expect("(nothing changed)" in said and not ran, "`invoke image` with nothing changed", ran)
        return seconds

    return _repeat(runs, "`invoke image`", console, once)


def _repeat(runs: int, name: str, console: Console, once: Callable[[int], float]) -> tuple[float, ...]:
    with console.status(name) as status:
        times = []
        for number in range(1, runs + 1):
            status.update(f"{name}: {number} of {runs}")
            times.append(once(number))
    return tuple(times)


def _sizes(area: ScratchArea, built: Built, console: Console) -> list[Figure]:
    """What the host's slot holds, and what the VM's files come to when they are compressed on their own."""
    sizes = json.loads(built.manifest.read_text())["sizes"]
    host = (sizes["root_bytes"] + sizes["uki_bytes"]) / _MB
    tools = PackageSets(Cache(area.cache, area.quiet)).tools
    squeezed = area.directory / "squeezed"
    squeezed.mkdir()
    total = 0
    with console.status("sizes"):
        for name in ("vmlinuz", "initrd", "root.squashfs"):
            (squeezed / name).write_bytes((built.frontend / name).read_bytes())
            tools.run(["zstd", "-q", "-19", name], build=squeezed)
            total += (squeezed / f"{name}.zst").stat().st_size
    return [
        Figure("host image content (root and kernel)", "MB", HOST_MB, (host,)),
        Figure("VM image, compressed on its own", "MB", VM_MB, (total / _MB,)),
    ]


def _recipe() -> Recipe:
    return Recipe(profile.load(PROFILE))


def _expect(right: bool, what: str, ran: set[str]) -> None:
    if not right:
        raise SallyportError(
            f"this was not {what}; steps that ran: {', '.join(sorted(ran)) or 'none'}",
            "leave the checkout and out/ alone while it is measured, then try again",
        )
