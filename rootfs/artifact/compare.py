"""Compares two images: which of their files differ, and how (diffoscope)."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rootfs.artifact import gpt
from rootfs.artifact.imagefile import ImageFile
from rootfs.artifact.unpack import ROOT, VM, Unpacked, unpack
from rootfs.base.errors import CommandError
from rootfs.base.scratch import disposable
from rootfs.base.tools_tree import Confined, Tools, left

REPORT = "report.html"
_SECTIONS = ("linux", "initrd", "cmdline", "osrel")
"""Sections of the unified kernel image (UAPI Group, UKI specification)."""
_NO_FILE = "something that is in no file: order, padding, times, owners"
_MAX_REPORT = 256 << 20
_SHOWN = 40
"""Lines that are printed; the report has all differences."""


@dataclass(frozen=True)
class File:
    """One file; ``content`` is its SHA-256, or the target of a link; ``size`` in bytes."""

    mode: str
    size: int
    content: str


@dataclass(frozen=True)
class Difference:
    """A file that differs between two images; None for an image that does not have it."""

    path: str
    before: File | None
    after: File | None


def compare(tools: Tools, explain: Tools, images: tuple[ImageFile, ImageFile], folder: Path) -> list[Difference]:
    """Compare two images, and write a report if they differ.

    Args:
        tools: unpacks the images.
        explain: has diffoscope.
        images: the two images.
        folder: an existing directory; gets `REPORT`, if they differ.

    Returns:
        the files that differ; none if, and only if, the images have the same bytes.

    Raises:
        SallyportError: an image has no file system in its slot.
        CommandError: diffoscope failed.
    """
    if images[0].sha256() == images[1].sha256():
        return []
    # Only the report is kept: the images may have files with setuid bits, for example.
    with disposable(".work-", folder) as work:
        parts = (work / "a", work / "b")
        for image, part in zip(images, parts, strict=True):
            part.mkdir()
            _split(tools, unpack(tools, image, part), image)
        before, after = (_files(part) for part in parts)
        (folder / REPORT).write_bytes(_explained(explain, work))
    differ = [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]
    return [Difference(path, before.get(path), after.get(path)) for path in differ] or [
        Difference(_NO_FILE, None, None)
    ]


def _explained(explain: Tools, folder: Path) -> bytes:
    """The report about the directories ``a`` and ``b`` in a folder."""
    # Its tree has no ld.so.cache, as no maintainer script ran, so the library must be named.
    env = {"LIBARCHIVE": "libarchive.so.13"}
    try:
        explain.run(
            ["diffoscope", "--html", REPORT, "--exclude-directory-metadata=yes", "a", "b"],
            build=folder,
            env=env,
            confined=Confined(),
        )
    except CommandError:
        # Its status is 1 for "they differ", too (diffoscope(1)).
        if not (folder / REPORT).exists():
            raise
    return left(folder / REPORT, _MAX_REPORT)


def _split(tools: Tools, found: Unpacked, image: ImageFile) -> None:
    """Replace files that consist of parts by their parts, so that each is compared by itself."""
    dump = [f"--dump-section=.{name}=uki.{name}" for name in _SECTIONS]
    rest = [f"--remove-section=.{name}" for name in _SECTIONS]
    tools.run(["llvm-objcopy-19", *dump, *rest, found.kernel.name, "uki.stub"], build=found.folder, confined=Confined())
    # In the sandbox: a directory of the image may be a symbolic link to one of this machine.
    gone = [found.kernel.name, f"{found.host.name}/{VM}/{ROOT}"]
    tools.run(["rm", "--", *gone], build=found.folder, confined=Confined(owners=True))
    table = gpt.read(image.path)
    data = next(part for part in table.partitions if part.name == "data")
    with image.path.open("rb") as disk:
        with (found.folder / "partition-table").open("xb") as begin:
            begin.write(disk.read(min(part.start for part in table.partitions)))
        disk.seek(data.start)
        with (found.folder / "data.ext4").open("xb") as file:
            missing = data.size
            while missing and (block := disk.read(min(missing, 1 << 20))):
                file.write(block)
                missing -= len(block)
    (found.folder / "image").unlink()


def _files(folder: Path) -> dict[str, File]:
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            content = ""
        size = status.st_size if path.is_file() else 0
        found[path.relative_to(folder).as_posix()] = File(stat.filemode(status.st_mode), size, content)
    return found


def show(found: Sequence[Difference], console: Console) -> None:
    """Print the first differences as a table."""
    table = Table()
    for column, justify in (("file", "left"), ("A", "right"), ("B", "right")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for difference in found[:_SHOWN]:
        table.add_row(escape(difference.path), *(_word(file) for file in (difference.before, difference.after)))
    console.print(table)
    if len(found) > _SHOWN:
        console.print(f"... and {len(found) - _SHOWN} more")


def _word(file: File | None) -> str:
    return f"{file.mode} {file.size}" if file else "-"


def to_json(found: Sequence[Difference]) -> str:
    """All differences as JSON."""
    return json.dumps([asdict(difference) for difference in found], indent=1)
