"""Engine ``debian``: makes the trees that the defconfigs describe from Debian packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rootfs.base import licenses, packages
from rootfs.base.cache import Cache
from rootfs.base.licenses import Licenses
from rootfs.base.package_sets import PackageSets, require
from rootfs.engines import root, symbol_map
from rootfs.spec import defconfig
from rootfs.spec.architecture import ALL, X86_64, Arch
from rootfs.spec.root_spec import RootSpec

VM_KERNEL = "cloud"
"""Flavour of the front-end VM's kernel: the smallest that has virtio-mmio."""


class Engine:
    """Makes trees in the cache of the package sets; implements `rootfs.engines.protocol.Engine`.

    Args:
        sets: fetches packages; has the cache.
        arch: the architecture of the trees, the same as that of ``sets``.
        host_kernel: flavour of the host's kernel, one of ``map.toml``'s table ``kernel``.
    """

    name = "debian"
    kernel_package = "linux-image-"

    def __init__(self, sets: PackageSets, arch: Arch = X86_64, host_kernel: str = "generic") -> None:
        self.sets = sets
        self.arch = arch
        self._flavours = {"host": host_kernel, "frontend": VM_KERNEL}

    @property
    def cache(self) -> Cache:
        """The cache of the package sets."""
        return self.sets.cache

    def prepare(self) -> None:
        """Fetch every package that an image is made of."""
        needs: list[Callable[[], object]] = [*self.sets.needs()]
        needs += [partial(_kernel, self.sets, flavour) for flavour in sorted(set(self._flavours.values()))]
        needs += [partial(_contents, self.sets, name, symbol_map.root_spec(name, self.arch)) for name in defconfig.ALL]
        require(needs)

    def root(self, name: str) -> tuple[Path, RootSpec]:
        """As the protocol says."""
        spec = symbol_map.root_spec(name, self.arch)
        contents = _contents(self.sets, name, spec)
        return root.base_tree(self.sets, self.arch, name, contents, spec, self.licenses), spec

    def kernel(self, name: str) -> Path:
        """As the protocol says; the package is that of the flavour that was chosen for the defconfig."""
        return _kernel(self.sets, self._flavours[name])

    def licenses(self, directory: Path, names: Sequence[str]) -> dict[str, Licenses]:
        """As the protocol says: from the copyright files of the packages."""
        return licenses.read(directory / "tree", names)


def _kernel(sets: PackageSets, flavour: str) -> Path:
    return sets.fetch(f"kernel-{flavour}", symbol_map.read().kernel[flavour].packages)


def _contents(sets: PackageSets, name: str, spec: RootSpec) -> Path:
    """All packages that a defconfig wants, as `PackageSets.fetch` returns them."""
    return sets.fetch(name, spec.packages)


def lock(cache: Cache) -> dict[str, list[packages.Package]]:
    """Resolve the package sets of all architectures anew against the archive: the contents of the lock file."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made: list[Path] = []
    for arch in ALL.values():
        sets = PackageSets(cache, arch.name, arch.debian, newest=True, as_of=now)
        made += sets.every()
        made += [_kernel(sets, flavour) for flavour in symbol_map.read().kernel]
        made += [_contents(sets, name, symbol_map.root_spec(name, arch)) for name in defconfig.ALL]
    return {_set_name(output): packages.load(output) for output in made}


def _set_name(output: Path) -> str:
    """The name of the set in a directory ``packages-<name>-<key>``."""
    return output.name.removeprefix("packages-").rsplit("-", 1)[0]
