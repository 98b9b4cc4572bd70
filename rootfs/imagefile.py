"""A flash image as a file somebody hands us: recognised, or refused in one sentence, before QEMU sees it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from rootfs import gpt, layout
from rootfs.errors import SallyportError
from rootfs.profile import Profile


@dataclass(frozen=True)
class ImageFile:
    """An image with what its manifest says."""

    path: Path
    name: str
    profile: Profile
    test_access: bool
    engine: str = "debian"

    def sha256(self) -> str:
        """Digest of the whole file, hexadecimal."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_image(path: Path) -> ImageFile:
    """Check that ``path`` is a whole image of ours.

    Raises:
        SallyportError: missing, truncated, foreign, or without its manifest.
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
        said = json.loads(manifest.read_text())
        return ImageFile(
            path,
            str(said["name"]),
            # All of it and not its name: the image may be of a profile that is not in this tree.
            Profile.model_validate_json(json.dumps(said["profile"])),
            bool(said["test_access"]),
            str(said["engine"]),
        )
    except (OSError, ValueError, KeyError) as error:
        raise SallyportError(
            f"{manifest}: {error}", "keep the manifest beside the image: it tells which machine the image is for"
        ) from error


def partitions(path: Path) -> dict[str, int]:
    """Where each partition of the image begins, in bytes, by name and in the table's order.

    Raises:
        SallyportError: as `gpt.read`, or two partitions have one name.
    """
    parts = gpt.read(path).partitions
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SallyportError(
            f"{path}: more than one partition is named {', '.join(map(ascii, twice))}",
            "name an image that `invoke image` made",
        )
    return {part.name: part.start for part in parts}
