"""What an engine is to its users: it makes the root file systems and kernels of an image from a defconfig.

`rootfs.engines.debian` makes them from Debian packages, `rootfs.engines.buildroot` from source. Everything else of an
image (overlays, verity, disk, manifest, proof) is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rootfs.base.cache import Cache
from rootfs.base.licenses import Licenses
from rootfs.base.package_sets import PackageSets
from rootfs.spec.architecture import Arch
from rootfs.spec.root_spec import RootSpec


class Engine(Protocol):
    """Makes base trees and kernels, each once for the same inputs, and keeps them in a cache."""

    @property
    def name(self) -> str:
        """``debian`` or ``buildroot``."""

    @property
    def kernel_package(self) -> str:
        """How the names of the packages begin that have a kernel."""

    @property
    def arch(self) -> Arch:
        """The architecture of the trees."""

    @property
    def cache(self) -> Cache:
        """Where the trees are kept, and where later steps keep what they make of them."""

    @property
    def sets(self) -> PackageSets:
        """The package sets that the build uses, for the same architecture and cache."""

    def prepare(self) -> None:
        """Have everything that an image is made of, before it is made: packages fetched, sources built.

        Raises:
            OfflineError: something would have to be fetched, and that is forbidden; names all of it.
            SallyportError: a defconfig has a symbol that the map does not know, or a build failed.
        """

    def root(self, name: str) -> tuple[Path, RootSpec]:
        """The tree that a defconfig describes, without overlays, Python compiled.

        Args:
            name: one of `rootfs.spec.defconfig.ALL`.

        Returns:
            a directory with ``tree``, ``packages.json`` (the packages that something was kept of) and their
            ``licenses.json``; and what the defconfig asks for.
        """

    def kernel(self, name: str) -> Path:
        """The kernel of a defconfig.

        Args:
            name: one of `rootfs.spec.defconfig.ALL`.

        Returns:
            a directory whose ``tree`` has boot/vmlinuz-* and usr/lib/modules, with ``packages.json``.
        """

    def licenses(self, directory: Path, names: Sequence[str]) -> dict[str, Licenses]:
        """The licences of packages, by their names, in a directory that `kernel` returned."""
