"""Engine ``buildroot``: base trees and kernels from source. What makes an image of them is the same for each engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rootfs.base import licenses, packages
from rootfs.base.cache import Cache, digest_code, digest_path
from rootfs.base.file_tree import link_tree
from rootfs.base.licenses import Licenses
from rootfs.base.package_sets import PackageSets, require
from rootfs.engines import root, symbol_map
from rootfs.engines.buildroot import builder, collect
from rootfs.engines.buildroot.builder import Builder
from rootfs.spec import defconfig
from rootfs.spec.architecture import Arch
from rootfs.spec.root_spec import RootSpec


class Engine:
    """Makes trees in the cache of the package sets; implements `rootfs.engines.protocol.Engine`.

    Args:
        sets: what the build uses besides Buildroot; has the cache.
        builder: builds in Buildroot's tree; says for which architecture.
    """

    name = "buildroot"
    kernel_package = collect.LINUX

    def __init__(self, sets: PackageSets, builder: Builder) -> None:
        self.sets = sets
        self._builder = builder

    @property
    def arch(self) -> Arch:
        """The architecture that the builder builds for."""
        return self._builder.arch

    @property
    def cache(self) -> Cache:
        """The cache of the package sets."""
        return self.sets.cache

    def prepare(self) -> None:
        """Build both defconfigs at the same time, if neither was built: they have little in common."""
        for name in defconfig.ALL:
            # A symbol that the map does not know would otherwise be found only after hours of building.
            symbol_map.root_spec(name, self.arch)
        require(self.sets.needs())
        missing = [name for name in defconfig.ALL if not self.cache.has(self._step(name), self._inputs(name))]
        if len(missing) > 1:
            self._builder.build(missing)

    def root(self, name: str) -> tuple[Path, RootSpec]:
        """As the protocol says."""
        spec, contents = symbol_map.root_spec(name, self.arch), self._contents(name)
        # What the map takes out, Buildroot may not have built to begin with.
        made = root.base_tree(self.sets, self.arch, name, contents, spec, self.licenses, may_exclude_nothing=True)
        return made, spec

    def kernel(self, name: str) -> Path:
        """As the protocol says; which kernel it is, the defconfig says."""
        contents = self._contents(name)

        def build(output: Path) -> None:
            link_tree(contents / "linux/tree", output / "tree")
            linux = [package for package in packages.load(contents) if package.name == collect.LINUX]
            (output / "packages.json").write_text(json.dumps([asdict(package) for package in linux]))
            shutil.copyfile(contents / licenses.FILE, output / licenses.FILE)

        return self.cache.step(
            f"linux-{name}{self.arch.suffix}", f"Kernel of {name}", {"contents": contents.name}, build
        )

    def licenses(self, directory: Path, names: Sequence[str]) -> dict[str, Licenses]:
        """As the protocol says: as Buildroot's packages declare them."""
        known = licenses.load(directory / licenses.FILE)
        return {name: known.get(name, Licenses()) for name in names}

    def _step(self, name: str) -> str:
        return f"buildroot-{name}{self.arch.suffix}"

    def _inputs(self, name: str) -> dict[str, str]:
        inputs = {f"{at} {part.name}": digest_path(part) for at, part in enumerate(self._builder.configs(name))}
        inputs["release"] = self._builder.tree.release
        inputs |= self._builder.inputs(name) | digest_code(builder, collect)
        inputs["programs in sbin"] = " ".join(sorted(collect.sbin()))
        return inputs

    def _contents(self, name: str) -> Path:
        """What Buildroot made of a defconfig: ``tree``, ``linux/tree``, ``packages.json``, ``files.json``, licences."""

        def build(output: Path) -> None:
            with self._builder.locked([name]):
                (made,) = self._builder.build([name])
                _, listed = self._builder.output(name)
                hashes = {needed.file: needed.sha256() for needed in self._builder.sources([name])}
                binaries, fetched = self._builder.prebuilt(), self._builder.sandbox.prebuilt
                collect.gather(self.arch, made, listed, binaries, fetched, output, hashes)

        return self.cache.step(self._step(name), f"Buildroot's {name}", self._inputs(name), build)
