"""Opens an untrusted file as a flash image: it is recognised, or refused with a reason, before QEMU reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rootfs.artifact import gpt, layout
from rootfs.artifact.manifest import MAX_MANIFEST, Manifest
from rootfs.base import untrusted
from rootfs.base.errors import SallyportError
from rootfs.spec.profile import Profile

_KEEP = "keep the manifest that `invoke image` made beside the image: it names the device that the image is for"


@dataclass(frozen=True)
class ImageFile:
    """An image and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the image: a plain file name."""
        return self.manifest.name

    @property
    def profile(self) -> Profile:
        """Profile of the device that it is for."""
        return self.manifest.profile

    @property
    def test_access(self) -> bool:
        """Whether it is a test image, with root shells."""
        return self.manifest.test_access

    @property
    def engine(self) -> str:
        """Name of what made its root file systems."""
        return self.manifest.engine

    def sha256(self) -> str:
        """SHA-256 of the whole file, hexadecimal."""
        return untrusted.sha256(self.path)


def open_image(path: Path) -> ImageFile:
    """Open an image that `invoke image` made.

    Raises:
        SallyportError: the file is missing or truncated, is not such an image, or has no valid manifest beside it.
    """
    if not path.is_file():
        raise SallyportError(f"no image {path}", "build one: `invoke image`")
    path = path.resolve()  # QEMU runs in a directory of its own
    found = partitions(path)
    if tuple(found) != tuple(layout.TYPES):
        raise SallyportError(
            f"{path} is a disk image, but not one of Sallyport's: its partitions are {', '.join(found) or 'none'}",
            "name an image that `invoke image` made",
        )
    manifest = path.with_suffix(".manifest.json")
    try:
        said = Manifest.model_validate_json(untrusted.read(manifest, MAX_MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SallyportError(f"{manifest}: {where}: {first['msg']}", _KEEP) from error
    except SallyportError as error:
        raise SallyportError(str(error), _KEEP) from error
    return ImageFile(path, said)


def partitions(path: Path) -> dict[str, int]:
    """Offsets of the partitions in bytes, by their names, in the order of the table.

    Raises:
        SallyportError: as `gpt.read`, or two partitions have the same name.
    """
    parts = gpt.read(path).partitions
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SallyportError(
            f"{path}: more than one partition is named {', '.join(map(ascii, twice))}",
            "name an image that `invoke image` made",
        )
    return {part.name: part.start for part in parts}
