"""The same inputs give the same bytes at another time and in another folder."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from rootfs import disk, profile, squashfs
from rootfs.debian.engine import Engine
from rootfs.disk import Verity
from rootfs.image import Built
from rootfs.overlay import link_tree
from rootfs.tools import Tools

pytestmark = pytest.mark.image


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_disk(engine: Engine, tools: Tools, release: Built, tmp_path: Path) -> None:
    root = release.host_tree.parent
    digests = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "root.verity").write_bytes((root / "root.verity").read_bytes())
        image = disk.assemble(
            tools,
            folder,
            profile=profile.load("qemu"),
            arch=engine.arch,
            boot=engine.boot / "tree",
            kernel=release.frontend / "vmlinuz",
            initrd=root / "initrd",
            verity=Verity(**json.loads((root / "verity.json").read_text())),
            release="0",
        )
        digests.append(digest(image))
        time.sleep(1.1)  # file systems keep seconds
    assert digests[0] == digests[1]


def test_root_file_system(tools: Tools, release: Built, tmp_path: Path) -> None:
    digests = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        link_tree(release.frontend / "tree", folder / "tree")
        digests.append(digest(squashfs.make(tools, folder, "tree", "root.squashfs", level=None)))
        time.sleep(1.1)
    assert digests == [digests[0]] * 2
    assert digests[0] == digest(release.frontend / "root.squashfs")
