"""Checks an image: its files, unpacked from the image itself and not taken from the build, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from driver.errors import MachineError
from proof.image import flash_image
from proof.image.own_files import own_files
from proof.image.rebuild import ImageRebuilder
from proof.image.tree import run_tree
from proof.image.tree.findings import OwnFile
from proof.progress import Progress
from proof.result import Result, Verdict
from rootfs.artifact import unpack as unpacking
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.base.scratch import disposable
from rootfs.base.tools_tree import BUILD, Confined, Tools

_PREFIX = "sallyport-tree-"


@dataclass(frozen=True)
class Trees:
    """An image unpacked below ``folder``: root file systems of host and VM, kernel, and what they are compared with.

    ``files`` is the manifest's list (path and digest); ``None`` where it is not to be compared.
    """

    folder: Path
    host: Path
    vm: Path
    kernel: Path
    test_access: bool
    files: Mapping[str, str] | None
    root_hash: str
    own_files: tuple[Mapping[str, OwnFile], Mapping[str, OwnFile]] | None = None
    """What this checkout puts into both; ``None``: it is not compared."""


def check(tools: Tools, trees: Trees) -> list[Result]:
    """Return the results of all checks of the trees."""

    def analyze(argv: Sequence[str]) -> str:
        words = [word.replace(str(trees.folder), str(BUILD)) for word in argv]
        return tools.run(words, build=trees.folder, confined=Confined())

    return run_tree(
        trees.host,
        trees.vm,
        analyze,
        files=trees.files,
        kernel=trees.kernel,
        root_hash=trees.root_hash,
        own_files=trees.own_files,
        test_access=trees.test_access,
    )


def unpack(tools: Tools, image: ImageFile, folder: Path) -> Trees:
    """Unpack the host's root file system, the VM's out of it, and the kernel with its command line.

    Raises:
        MachineError: the image holds no such file system.
    """
    try:
        found = unpacking.unpack(tools, image, folder)
    except SallyportError as error:
        raise MachineError(str(error), error.hint) from error
    return Trees(
        folder,
        found.host,
        found.vm,
        found.kernel,
        image.test_access,
        files=image.manifest.files,
        root_hash=image.manifest.root_hash,
    )


@contextmanager
def unpacked(tools: Tools, image: ImageFile) -> Iterator[Trees]:
    """Unpack an image into a directory beside it, for the time of the context; see `unpack`."""
    with disposable(_PREFIX, image.path.parent) as directory:
        yield unpack(tools, image, directory)


def prove(sets: PackageSets, image: ImageFile, *, say: Progress) -> list[Result]:
    """Return the results of all checks of an image's files and bytes; never raises for what is in the image."""
    say("the files of the image", 0, 0)
    with (
        disposable(_PREFIX, image.path.parent) as folder,
        ImageRebuilder(sets, folder) as rebuilder,
    ):
        return check_image(rebuilder, image)


def check_image(rebuilder: ImageRebuilder, image: ImageFile, *, files: bool = True) -> list[Result]:
    """Return the results as `prove` does; without ``files`` the files of both root file systems are left out."""
    tools = rebuilder.sets.tools
    with ExitStack() as stack:
        folder = stack.enter_context(disposable(_PREFIX, image.path.parent))

        @cache
        def trees() -> Trees:
            return stack.enter_context(unpacked(tools, image))

        results = [
            flash_image.partitions(image),
            *flash_image.Flash(rebuilder, image, folder, lambda: trees().host).results(),
        ]
        try:
            if files:
                # A directory of its own, as no confined program may have written there.
                place = stack.enter_context(disposable(_PREFIX, image.path.parent))
                made = own_files(rebuilder.sets, image, place / "ours")
                results += check(tools, replace(trees(), own_files=made))
                results.append(flash_image.vm_initramfs(rebuilder, image, trees().host, trees().vm))
        except SallyportError as error:
            tried = "the files of the image"
            results.append(Result("tree", "unpack", tried, Verdict.NOT_TESTED, str(error), "none seen", 0.0))
        return results
