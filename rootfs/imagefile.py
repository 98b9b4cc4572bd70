"""A flash image as a file somebody hands us: recognised, or refused in one sentence, before QEMU sees it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rootfs import given
from rootfs.errors import SallyportError
from rootfs.profile import Profile

_SECTOR = 512
_PARTITIONS = ("esp", "slot-a", "slot-b", "data")


MAX_MANIFEST = 16 << 20
"""Bytes of a manifest; the largest that the project makes has less than 1 MiB."""
_KEEP = "keep the manifest that `invoke image` made beside the image: it tells which machine the image is for"
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Path = Annotated[str, Field(min_length=1, max_length=4096)]


class Boot(BaseModel):
    """SHA-256 of what of the unified kernel image nothing else of the image can tell."""

    model_config = ConfigDict(frozen=True, strict=True)

    kernel: _Digest
    stub: _Digest


class Manifest(BaseModel):
    """Of what a manifest says, what is read back; it was handed to us with the image, and is as hostile as that."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str = Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    """Names the directory of the image's report, so it must be one plain word."""
    profile: Profile
    """All of it and not its name: the image may be of a profile that is not in this tree."""
    test_access: bool
    engine: Literal["debian", "buildroot", "buildroot-vm"]
    root_hash: _Digest
    boot: Boot
    files: dict[_Path, _Digest] = Field(max_length=100_000)
    """Of the host's root file system: path to SHA-256."""


@dataclass(frozen=True)
class ImageFile:
    """An image with what its manifest says."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """By which people know it; a plain file name."""
        return self.manifest.name

    @property
    def profile(self) -> Profile:
        """Of the machine that it is for."""
        return self.manifest.profile

    @property
    def test_access(self) -> bool:
        """Whether it has root shells."""
        return self.manifest.test_access

    @property
    def engine(self) -> str:
        """What made its root file systems."""
        return self.manifest.engine

    def sha256(self) -> str:
        """Digest of the whole file, hexadecimal."""
        return given.sha256(self.path)


def open_image(path: Path) -> ImageFile:
    """Check that ``path`` is a whole image of ours.

    Raises:
        SallyportError: missing, truncated, foreign, or without its manifest.
    """
    if not path.is_file():
        raise SallyportError(f"no image {path}", "build one: `invoke image`")
    path = path.resolve()  # QEMU runs in a directory of its own
    found = partitions(path)
    if tuple(found) != _PARTITIONS:
        raise SallyportError(
            f"{path} is a disk image, but not one of Sallyport's: its partitions are {', '.join(found) or 'none'}",
            "name an image that `invoke image` made",
        )
    manifest = path.with_suffix(".manifest.json")
    try:
        said = Manifest.model_validate_json(given.read(manifest, MAX_MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SallyportError(f"{manifest}: {where}: {first['msg']}", _KEEP) from error
    except SallyportError as error:
        raise SallyportError(str(error), _KEEP) from error
    return ImageFile(path, said)


def partitions(path: Path) -> dict[str, int]:
    """Where each partition of the image begins, in bytes, by name and in the table's order.

    UEFI specification 2.10, section 5.3: GUID partition table.

    Raises:
        SallyportError: there is no whole table, it names a partition twice, or the file is not as long as it says.
    """
    size = path.stat().st_size
    with given.open_file(path) as file:
        file.seek(_SECTOR)
        header = file.read(92)
        if len(header) < 92 or header[:8] != b"EFI PART":
            raise SallyportError(
                f"{path} is not a disk image: it has no GUID partition table", "`invoke image` makes one"
            )
        (length, crc) = struct.unpack_from("<II", header, 12)
        (last,) = struct.unpack_from("<Q", header, 32)
        start, count, entry, table_crc = struct.unpack_from("<QIII", header, 72)
        if length != 92 or zlib.crc32(header[:16] + bytes(4) + header[20:]) != crc:
            raise SallyportError(f"{path}: the partition table's header is damaged", "build or copy the image again")
        if size != (last + 1) * _SECTOR:
            raise SallyportError(
                f"{path} has {size} bytes, its partition table says {(last + 1) * _SECTOR}: it is truncated or padded",
                "build or copy the image again",
            )
        if not (entry == 128 and count <= 128):
            raise SallyportError(f"{path}: its partition table is of an unknown form", "build the image again")
        file.seek(start * _SECTOR)
        table = file.read(entry * count)
    if zlib.crc32(table) != table_crc:
        raise SallyportError(f"{path}: the partition table is damaged", "build or copy the image again")
    entries = [table[i : i + entry] for i in range(0, len(table), entry)]
    used = [entry for entry in entries if any(entry[:16])]
    first = [struct.unpack_from("<Q", entry, 32)[0] * _SECTOR for entry in used]
    names = [entry[56:].decode("utf-16-le", "replace").rstrip("\0") for entry in used]
    if len(set(names)) != len(names):
        # Whoever looks for one by its name would see another than the firmware boots.
        raise SallyportError(
            f"{path}: two of its partitions have the same name: {', '.join(names)}", "build or copy the image again"
        )
    return dict(zip(names, first, strict=True))
