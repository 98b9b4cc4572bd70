"""Rebuilds an image, as the build does, from its own root file system and kernel, the parts that cannot be derived.

The root's files are hostile input: they must be regular files, directories and links that stay inside the tree; else
nothing is rebuilt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from proof.image.flash import initrd
from proof.image.flash.view import View
from proof.image.tree.entries import MAX_FILE, Tree, TreeError
from rootfs.artifact import disk
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.package_sets import PackageSets
from rootfs.base.version import version
from rootfs.spec.architecture import ALL
from rootfs.tree import frontend_image, host_image, verity
from rootfs.tree.verity import Verity

_MODULES = "usr/lib/modules"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RebuiltImage:
    """A rebuilt image; ``argument`` is the words of its command line that name the verified root."""

    image: Path
    uki: bytes
    initrd: bytes
    archive: bytes
    tree: int
    """Bytes of the root file system with its hash tree."""
    argument: str


class ArchivedModules:
    """The kernel's modules from an initial RAM file system, in its own order (a `rootfs.tree.initramfs.Modules`)."""

    def __init__(self, archive: bytes) -> None:
        members, _ = initrd.everything(archive)
        self._files = {member.name: member.content for member in members}

    def closure(self, names: Iterable[str], where: str) -> list[str]:
        """Return all modules of the archive; ``names`` are not looked up, as the manifest declares the modules.

        Raises:
            TreeError: the archive's list of modules is not that of its files.
        """
        listed = self._files.get("modules", b"").decode(errors="replace").split()
        paths = [path.removeprefix("/") for path in listed]
        if len({*paths}) != len(paths) or {*paths} != {n for n in self._files if n.startswith("modules.d/")}:
            raise TreeError(f"{where}: the list of modules is not that of the modules that are there")
        return paths

    def copy(self, path: str, target: Path) -> None:
        """Copy a module; see `rootfs.tree.kernel.Kernel.copy`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self._files[path])
        target.chmod(0o644)


class InstalledModules:
    """The kernel's modules from an image's root file system (a `rootfs.tree.initramfs.Modules`)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        releases = [e.path for e in tree.entries if e.path.rpartition("/")[0] == _MODULES and stat.S_ISDIR(e.mode)]
        if len(releases) != 1:
            raise TreeError(f"the root file system has modules of {len(releases)} kernels, not of one")
        self._base = releases[0]

    def closure(self, names: Iterable[str], where: str) -> list[str]:
        """Return modules with what they need, by modules.dep(5); see `rootfs.tree.kernel.Kernel.closure`."""
        index: dict[str, list[str]] = {path: [] for path in self._tree.text(f"{self._base}/modules.builtin").split()}
        for line in self._tree.text(f"{self._base}/modules.dep").splitlines():
            path, _, needs = line.partition(":")
            index[path] = needs.split()
        by_name = {path.rpartition("/")[2].partition(".ko")[0].replace("-", "_"): path for path in index}
        order: list[str] = []
        for name in names:
            path = by_name.get(name.replace("-", "_"), "")
            if not path:
                raise TreeError(f"{where}: the root has no module {name!r}")
            order += [needed for needed in [*reversed(index[path]), path] if needed not in order]
        return [path for path in order if f"{self._base}/{path}" in self._tree.by_path]

    def copy(self, path: str, target: Path) -> None:
        """Copy a module; see `rootfs.tree.kernel.Kernel.copy`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self._tree.read(f"{self._base}/{path}", MAX_FILE))
        target.chmod(0o644)


@dataclass(frozen=True)
class _Root:
    """What is built from a root file system alone, in ``folder``: ``root.verity``, ``initrd``, ``archive``."""

    folder: Path
    verity: Verity


class ImageRebuilder:
    """Rebuilds images in a folder that it removes at the end; each image only once. A context manager.

    Args:
        sets: has the tools tree, and the stub.
        folder: for the rebuilt images, some hundred megabytes each.
    """

    def __init__(self, sets: PackageSets, folder: Path) -> None:
        self.sets = sets
        self.arch = ALL[sets.arch]
        self._folder = folder
        self._roots: dict[str, _Root] = {}
        self._made: dict[str, RebuiltImage] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def stub(self) -> bytes:
        """systemd's stub, the code of a unified kernel image that loads its other sections."""
        return (self._boot / f"usr/lib/systemd/boot/efi/linux{self.arch.efi}.efi.stub").read_bytes()

    @property
    def _boot(self) -> Path:
        return self.sets.boot / "tree"

    def rebuild(
        self, image: ImageFile, view: View, slot: int, length: int, host: Callable[[], Path], kernel: bytes
    ) -> RebuiltImage:
        """Return the image that this checkout builds with this root file system and this kernel.

        Args:
            image: what its manifest says.
            view: its bytes.
            slot: where slot A begins.
            length: bytes of the root file system.
            host: unpacks it.
            kernel: of the host.

        Raises:
            TreeError: it cannot be made of these.
        """
        digest = hashlib.sha256(f"{image.profile.model_dump_json()} {image.engine} {image.test_access} ".encode())
        for at in range(0, length, _CHUNK):
            digest.update(view.read(slot + at, min(_CHUNK, length - at)))
        name = digest.hexdigest()
        whole = f"{name} {hashlib.sha256(kernel).hexdigest()}"
        try:
            if name not in self._roots:
                folder = self._empty(f"root-{len(self._roots)}")
                with (folder / "root").open("wb") as file:
                    for at in range(0, length, _CHUNK):
                        file.write(view.read(slot + at, min(_CHUNK, length - at)))
                self._roots[name] = self._root(image, folder, host())
            if whole not in self._made:
                folder = self._empty(f"image-{len(self._made)}")
                self._made[whole] = self._image(image, folder, self._roots[name], kernel)
        except TreeError:
            raise
        except Exception as error:  # a hostile root file system can make its readers fail in many ways
            raise TreeError(f"the image cannot be rebuilt: {type(error).__name__}: {error}") from error
        return self._made[whole]

    def vm_initramfs(self, image: ImageFile, vm: Path, archive: bytes) -> bytes:
        """Return the VM's initial RAM file system, built from the VM's own files and the modules in ``archive``.

        Raises:
            TreeError: it cannot be made of these.
        """
        folder = self._empty("vm")
        try:
            _only_plain(Tree(vm))
            modules = ArchivedModules(archive)
            made = frontend_image.initrd(folder, vm, modules, image.profile, arch=self.arch, tools=self.sets.tools)
            return made.read_bytes()
        except TreeError:
            raise
        except Exception as error:  # as above
            raise TreeError(f"it cannot be rebuilt: {type(error).__name__}: {error}") from error

    def _empty(self, name: str) -> Path:
        """Return a new, empty folder; a failed attempt may have left one of that name."""
        folder = self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _root(self, image: ImageFile, folder: Path, host: Path) -> _Root:
        tools, tree = self.sets.tools, Tree(host)
        _only_plain(tree)
        values = host_image.values(image.profile, image.engine, test_access=image.test_access)
        host_image.initrd(folder, host, InstalledModules(tree), image.profile, values, tools=tools)
        tools.run(["zstd", "-q", "-d", "initrd", "-o", "archive"], build=folder)
        return _Root(folder, verity.seal(tools, folder, folder / "root"))

    def _image(self, image: ImageFile, folder: Path, root: _Root, kernel: bytes) -> RebuiltImage:
        (folder / "linux").write_bytes(kernel)
        build = folder / "disk"
        build.mkdir()
        os.link(root.folder / "root.verity", build / "root.verity")
        made = disk.assemble(
            self.sets.tools,
            build,
            profile=image.profile,
            arch=self.arch,
            boot=self._boot,
            kernel=folder / "linux",
            initrd=root.folder / "initrd",
            verity=root.verity,
            release=version(),
        ).rename(folder / "disk.img")
        uki = (build / "uki.efi").read_bytes()
        shutil.rmtree(build)
        packed, archive = ((root.folder / name).read_bytes() for name in ("initrd", "archive"))
        tree = (root.folder / "root.verity").stat().st_size
        return RebuiltImage(made, uki, packed, archive, tree, root.verity.argument)


def _only_plain(tree: Tree) -> None:
    """Refuse a tree that could make a reader follow a link outside, or open something else than a file.

    Raises:
        TreeError: there is something else than files, directories and links, or a link where programs and libraries
            are leads outside, wherever it passes.
    """
    root = tree.root.resolve()
    for entry in tree.entries:
        if stat.S_IFMT(entry.mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise TreeError(f"the root has something else than files: {entry}")
        if entry.target and entry.path.startswith(("usr/bin/", "usr/sbin/", "usr/lib")):
            try:
                inside = not entry.target.startswith("/") and (root / entry.path).resolve().is_relative_to(root)
            except (OSError, RuntimeError):
                inside = False  # links in a circle
            if not inside:
                raise TreeError(f"the root has a link that leads outside: {entry.path!r} -> {entry.target!r}")
