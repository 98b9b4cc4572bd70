"""Makes an image anew, as the build does, of what only the image itself can say: its root file system and its kernel.

The root's files come from somebody: what is taken of them is regular and lies in the tree, or nothing is made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rootfs import disk
from rootfs import image as images
from rootfs.debian.engine import Engine
from rootfs.disk import Verity
from rootfs.errors import SallyportError
from rootfs.image import Recipe
from rootfs.imagefile import ImageFile
from rootfs.version import version
from tests.probes.flash.view import View
from tests.probes.tree.entries import MAX_FILE, Tree, TreeError

_MODULES = "usr/lib/modules"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Remade:
    """An image made anew; ``argument`` is what its command line says of the root."""

    image: Path
    uki: bytes
    initrd: bytes
    archive: bytes
    tree: int
    """Bytes of the root file system with its hash tree."""
    argument: str


class _Installed:
    """The kernel's modules as an image's root has them (`rootfs.initramfs.Modules`)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        releases = [e.path for e in tree.entries if e.path.rpartition("/")[0] == _MODULES and stat.S_ISDIR(e.mode)]
        if len(releases) != 1:
            raise TreeError(f"the root has modules of {len(releases)} kernels")
        self._base = releases[0]

    def closure(self, names: Iterable[str], where: str) -> list[str]:
        """As `rootfs.kernel.Kernel.closure`, by the index that modprobe reads (modules.dep(5))."""
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
        """As `rootfs.kernel.Kernel.copy`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self._tree.read(f"{self._base}/{path}", MAX_FILE))
        target.chmod(0o644)


class Remaker:
    """Makes images anew in a folder of its own; the same image but once. A context manager.

    Args:
        engine: has the tools, and the stub.
        folder: where there is room.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self._folder = folder
        self._made: dict[str, Remade] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def stub(self) -> bytes:
        """The code that loads what a unified kernel image has."""
        return (self._boot / f"usr/lib/systemd/boot/efi/linux{self.engine.arch.efi}.efi.stub").read_bytes()

    @property
    def _boot(self) -> Path:
        return self.engine.boot / "tree"

    def remake(self, image: ImageFile, view: View, slot: int, length: int, host: Path, kernel: bytes) -> Remade:
        """The image that this checkout makes with this root file system and this kernel.

        Args:
            image: what its manifest says.
            view: its bytes.
            slot: where slot A begins.
            length: bytes of the root file system.
            host: it, unpacked.
            kernel: of the host.

        Raises:
            TreeError: it cannot be made of these.
        """
        digest = hashlib.sha256()
        for at in range(0, length, _CHUNK):
            digest.update(view.read(slot + at, min(_CHUNK, length - at)))
        key = f"{digest.hexdigest()} {hashlib.sha256(kernel).hexdigest()} {image.profile.model_dump_json()}"
        key = hashlib.sha256(f"{key} {image.engine} {image.test_access}".encode()).hexdigest()[:20]
        if key not in self._made:
            folder = self._folder / key
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with (folder / "root").open("wb") as file:
                for at in range(0, length, _CHUNK):
                    file.write(view.read(slot + at, min(_CHUNK, length - at)))
            (folder / "linux").write_bytes(kernel)
            try:
                self._made[key] = self._make(image, folder, host)
            except TreeError:
                raise
            except SallyportError as error:
                raise TreeError(f"the image cannot be made anew: {error}") from error
            except Exception as error:  # a broken program of a hostile root breaks its reader in many ways
                raise TreeError(f"the image cannot be made anew: {type(error).__name__}: {error}") from error
        return self._made[key]

    def _make(self, image: ImageFile, folder: Path, host: Path) -> Remade:
        tools = self.engine.tools
        _only_plain(Tree(host))
        recipe = Recipe(image.profile, test_access=image.test_access)
        initrd = images.initrd(folder, host, _Installed(Tree(host)), recipe, image.engine, tools=tools)
        (folder / "disk").mkdir()
        verity: Verity = disk.seal(tools, folder, folder / "root")
        (folder / "root.verity").rename(folder / "disk/root.verity")
        tree = (folder / "disk/root.verity").stat().st_size
        made = disk.assemble(
            tools,
            folder / "disk",
            profile=image.profile,
            arch=self.engine.arch,
            boot=self._boot,
            kernel=folder / "linux",
            initrd=initrd,
            verity=verity,
            release=version(),
        )
        tools.run(["zstd", "-q", "-d", "initrd", "-o", "archive"], build=folder)
        whole = made.rename(folder / "disk.img")
        uki = (folder / "disk/uki.efi").read_bytes()
        shutil.rmtree(folder / "disk")
        shutil.rmtree(folder / "initrd-tree")
        archive = (folder / "archive").read_bytes()
        return Remade(whole, uki, initrd.read_bytes(), archive, tree, verity.argument)


def _only_plain(tree: Tree) -> None:
    """Refuse what could lead a reader astray.

    Raises:
        TreeError: there is something else than files, directories and links, or a link of /usr leads outside.
    """
    root = tree.root.resolve()
    for entry in tree.entries:
        if stat.S_IFMT(entry.mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise TreeError(f"the root has something else than files: {entry}")
        if entry.target and entry.path.startswith("usr/"):
            try:
                inside = not entry.target.startswith("/") and (root / entry.path).resolve().is_relative_to(root)
            except (OSError, RuntimeError):
                inside = False  # links in a circle
            if not inside:
                raise TreeError(f"the root has a link that leads outside: {entry.path!r} -> {entry.target!r}")


def declared(manifest: Path) -> dict[str, str]:
    """What a manifest says of kernel and stub: SHA-256 by name; nothing where it is none."""
    try:
        said = json.loads(manifest.read_text())["boot"]
        return {name: str(said[name]) for name in ("kernel", "stub")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
