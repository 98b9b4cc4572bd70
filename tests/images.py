"""Images for tests that boot none."""

from __future__ import annotations

from pathlib import Path

from rootfs.artifact.imagefile import ImageFile
from rootfs.artifact.manifest import Boot, Manifest
from rootfs.spec import profile as profiles


def image_file(path: Path, *, test_access: bool = False) -> ImageFile:
    """A file that says it is an image of profile ``qemu``."""
    manifest = Manifest(
        name="an-image",
        profile=profiles.load("qemu"),
        test_access=test_access,
        engine="debian",
        root_hash="0" * 64,
        boot=Boot(kernel="0" * 64, stub="0" * 64, tools="0" * 64),
        files={},
    )
    return ImageFile(path, manifest)
