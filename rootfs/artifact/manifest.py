"""The manifest of an image: what it is, its sizes, its packages, and the digest of every file of the host.

`write` makes it with the image; `Manifest` has the fields that are read back when an image is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rootfs.artifact.publish import sha256
from rootfs.base.packages import Package
from rootfs.base.version import version
from rootfs.spec.profile import Profile

MAX_MANIFEST = 16 << 20
"""Bytes of a manifest; the largest that the project makes has less than 1 MiB."""
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Path = Annotated[str, Field(min_length=1, max_length=4096)]


class Boot(BaseModel):
    """SHA-256 of those parts of the unified kernel image that nothing else of the image can tell."""

    model_config = ConfigDict(frozen=True, strict=True)

    kernel: _Digest
    stub: _Digest
    tools: _Digest
    """Of the tools tree that compressed and put together the rest (`rootfs.base.package_sets.toolset`)."""


class Manifest(BaseModel):
    """What of a manifest is read back. It was handed to us with the image, and is as hostile as the image."""

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


def write(
    target: Path,
    *,
    profile: Profile,
    test_access: bool,
    engine: str,
    kernel: str,
    root: Path,
    packages: Mapping[str, Sequence[Package]],
    root_hash: str,
    toolset: str,
) -> None:
    """Write the manifest ``<name>.manifest.json`` of an image.

    Args:
        target: its file; beside it are ``<name>.img`` and, as `disk.assemble` left them, ``vmlinuz``, ``stub`` and
            ``uki.efi``.
        profile: of the appliance.
        test_access: whether the image has root shells.
        engine: name of what made its root file systems.
        kernel: release of the host's kernel, as `uname -r` prints it.
        root: a directory as `rootfs.tree.host_image.build` returns it.
        packages: of host and front-end VM, by ``host`` and ``frontend``.
        root_hash: dm-verity's of the host's root file system.
        toolset: as `rootfs.base.package_sets.toolset` returns it.
    """
    name, tree = target.name.removesuffix(".manifest.json"), root / "tree"
    vm = tree / "usr/share/sallyport/frontend"
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    content = {
        "name": name,
        "version": version(),
        "profile": profile.model_dump(mode="json"),
        "engine": engine,
        "test_access": test_access,
        "kernel": kernel,
        "root_hash": root_hash,
        "boot": {
            "kernel": sha256(target.parent / "vmlinuz"),
            "stub": sha256(target.parent / "stub"),
            "tools": toolset,
        },
        "sizes": {
            "image_bytes": (target.parent / f"{name}.img").stat().st_size,
            "root_bytes": (root / "root.squashfs").stat().st_size,
            "uki_bytes": (target.parent / "uki.efi").stat().st_size,
            "frontend_bytes": sum(path.stat().st_size for path in vm.iterdir()),
        },
        "packages": {part: [package.__dict__ for package in found] for part, found in packages.items()},
        "files": {path.relative_to(tree).as_posix(): sha256(path) for path in files},
    }
    target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
