"""Engine ``buildroot``: base trees and kernels from source. What makes an image of them is the same for each engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rootfs.base import licenses, packages
from rootfs.base.cache import Cache, digest_code, digest_path
from rootfs.base.licenses import Licenses
from rootfs.engines.buildroot import builder, collect
from rootfs.engines.buildroot.builder import Builder
from rootfs.engines.debian import engine
from rootfs.engines.debian.engine import Wish
from rootfs.spec import defconfig
from rootfs.tree import overlay


class Engine(engine.Engine):
    """Makes trees in a cache.

    Args:
        cache: where they are kept.
        builder: builds in Buildroot's tree.
        offline: whether packages for them that are not here are an `OfflineError`.

    What it is for, the builder says.
    """

    name = "buildroot"
    leaner = True
    linux = collect.LINUX

    def __init__(self, cache: Cache, builder: Builder, *, offline: bool = False) -> None:
        super().__init__(cache, arch=builder.arch, offline=offline)
        self._builder = builder

    def prepare(self, flavours: Iterable[str]) -> None:
        """As engine ``debian``'s; and build both at the same time, if neither was.

        They have little in common, and each waits a lot.
        """
        for name, config in defconfig.ALL.items():
            # What the choice of files does not know would be found after the build.
            engine.translate(defconfig.merged(self.arch.configs(name, config)), self.arch)
        super().prepare(flavours)
        missing = [name for name in defconfig.ALL if not self.cache.has(self._step(name), self._inputs(name))]
        if len(missing) > 1:
            self._builder.build(missing)

    def needs(self, _flavours: Iterable[str]) -> list[Callable[[], object]]:
        """The contents are built."""
        return self.needs_always()

    def _step(self, name: str) -> str:
        return f"buildroot-{name}{self.arch.suffix}"

    def _inputs(self, name: str) -> dict[str, str]:
        inputs = {f"{at} {part.name}": digest_path(part) for at, part in enumerate(self._builder.configs(name))}
        inputs["release"] = self._builder.tree.release
        inputs |= self._builder.inputs(name) | digest_code(builder, collect)
        inputs["programs in sbin"] = " ".join(sorted(collect.sbin()))
        return inputs

    def contents(self, name: str, _wish: Wish) -> Path:
        """As engine ``debian``'s, and ``linux/tree``; built if need be."""

        def build(output: Path) -> None:
            with self._builder.alone([name]):
                (made,) = self._builder.build([name])
                _, listed = self._builder.output(name)
                hashes = {needed.file: needed.sha256() for needed in self._builder.sources([name])}
                binaries, fetched = self._builder.prebuilt(), self._builder.maker.prebuilt
                collect.gather(self.arch, made, listed, binaries, fetched, output, hashes)

        return self.cache.step(self._step(name), f"Buildroot's {name}", self._inputs(name), build)

    def kernel(self, name: str, _flavour: str) -> Path:
        """As engine ``debian``'s. Which kernel it is, the defconfig says."""
        contents = self.contents(name, Wish((), (), "", ()))

        def build(output: Path) -> None:
            overlay.link_tree(contents / "linux/tree", output / "tree")
            linux = [package for package in packages.load(contents) if package.name == collect.LINUX]
            (output / "packages.json").write_text(json.dumps([asdict(package) for package in linux]))
            shutil.copyfile(contents / licenses.FILE, output / licenses.FILE)

        return self.cache.step(
            f"linux-{name}{self.arch.suffix}", f"Kernel of {name}", {"contents": contents.name}, build
        )

    def licenses(self, contents: Path, names: Sequence[str]) -> dict[str, Licenses]:
        """As Buildroot's packages say it."""
        known = licenses.load(contents / licenses.FILE)
        return {name: known.get(name, Licenses()) for name in names}
