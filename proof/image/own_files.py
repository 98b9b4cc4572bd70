"""The files that this project itself puts into an image, built again: overlays, code of host and VM, compiled C."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from proof.image.tree.entries import MAX_FILE, Tree
from proof.image.tree.findings import OwnFile
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.bytecode import compile_python
from rootfs.base.package_sets import PackageSets
from rootfs.base.version import PROJECT
from rootfs.tree import extension, frontend_image, host_image, overlay

_PACKAGES = "usr/lib/python3/dist-packages"


def own_files(sets: PackageSets, image: ImageFile, folder: Path) -> tuple[Mapping[str, OwnFile], Mapping[str, OwnFile]]:
    """Return what this checkout puts into the host's root file system and into the VM's, by path.

    Args:
        sets: has the tools tree.
        image: what its manifest says.
        folder: an empty one.

    Raises:
        SallyportError: it cannot be built.
    """
    test = ["host_test", "frontend_vm_test"] if image.test_access else []
    compiled = extension.build(sets, extension.FORWARDER)
    host, vm = folder / "host", folder / "vm"
    _lay(
        host / "tree",
        ["host", *test[:1]],
        host_image.values(image.profile, image.engine, test_access=image.test_access),
    )
    code = frontend_image.install_package(PROJECT / "backend", host / "tree", host_image.SOURCES_ONLY)
    for name in extension.FORWARDER.outputs:
        shutil.copyfile(compiled / name, code / "forwarder" / name)
    _lay(vm / "tree", ["frontend_vm", *test[1:]], frontend_image.values(image.profile))
    frontend_image.install_package(frontend_image.SOURCE, vm / "tree", frontend_image.BUILD_ONLY)
    for build, package in ((host, "backend"), (vm, "frontend_vm")):
        compile_python(sets.tools, build, f"tree/{_PACKAGES}/{package}")
    return _listed(host / "tree"), _listed(vm / "tree")


def _lay(tree: Path, overlays: Sequence[str], values: Mapping[str, object]) -> None:
    tree.mkdir(parents=True)
    overlay.lay([PROJECT / "overlays" / name for name in overlays], tree, values)


def _listed(root: Path) -> dict[str, OwnFile]:
    tree = Tree(root)
    found = {entry.path: OwnFile(entry.target, "", False) for entry in tree.entries if entry.target}
    for entry in tree.files():
        digest = hashlib.sha256(tree.read(entry.path, MAX_FILE)).hexdigest()
        found[entry.path] = OwnFile("", digest, bool(entry.mode & 0o100))
    return found
