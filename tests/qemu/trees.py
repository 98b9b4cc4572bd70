"""The files of an image as the proof reads them: unpacked from the image itself, not taken from the build."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rootfs import unpack as unpacking
from rootfs.errors import SallyportError
from rootfs.imagefile import ImageFile
from rootfs.tools import BUILD, Confined, Tools
from tests.probes.outside import Progress
from tests.probes.result import Result
from tests.probes.tree import run_tree
from tests.qemu.machine import MachineError


@dataclass(frozen=True)
class Trees:
    """What an image holds, unpacked below ``folder``: root file systems of host and VM, kernel, and what it should be.

    ``files`` is the manifest's list (path and digest); ``None`` where it is not to be compared.
    """

    folder: Path
    host: Path
    vm: Path
    test_access: bool
    files: Mapping[str, str] | None = None
    kernel: Path | None = None
    root_hash: str = ""


def check(tools: Tools, trees: Trees) -> list[Result]:
    """All checks of the trees."""

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
        image.test_access,
        files=image.manifest.files,
        kernel=found.kernel,
        root_hash=image.manifest.root_hash,
    )


@contextmanager
def unpacked(tools: Tools, image: ImageFile) -> Iterator[Trees]:
    """`unpack` into a directory beside the image, for the time of the context."""
    with tempfile.TemporaryDirectory(prefix="sallyport-tree-", dir=image.path.parent) as directory:
        yield unpack(tools, image, Path(directory))


def prove(tools: Tools, image: ImageFile, *, say: Progress) -> list[Result]:
    """The checks of the image's own files.

    Raises:
        MachineError: they cannot be unpacked.
    """
    say("the files of the image", 0, 0)
    with unpacked(tools, image) as trees:
        return check(tools, trees)
