"""`invoke image.compare` tells in which file two images differ, and nothing of two that are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rootfs.artifact.compare import REPORT, compare
from rootfs.artifact.imagefile import open_image
from rootfs.build import Built, Recipe
from rootfs.spec import profile as profiles
from rootfs.tasks import package_sets

pytestmark = pytest.mark.image


def test_the_file_that_differs_is_named_and_explained(
    build_image: Callable[[Recipe], Built], release: Built, tmp_path: Path
) -> None:
    etc = tmp_path / "overlay/etc"
    etc.mkdir(parents=True)
    (etc / "planted").write_text("a line that only one image has\n")
    recipe = Recipe(profiles.load("qemu"), extra=(etc.parent,), tag="compared")
    other = build_image(recipe)
    sets = package_sets()
    folder = tmp_path / "report"
    folder.mkdir()
    found = {
        file.path: file
        for file in compare(sets.tools, sets.compare, (open_image(release.image), open_image(other.image)), folder)
    }
    assert found["host/etc/planted"].before is None
    # Its hash tree has another root, which is on the kernel's command line and makes the disk's identifiers.
    assert set(found) == {"host/etc/planted", "uki.cmdline", "partition-table", "data.ext4"}
    assert "a/uki.cmdline" in (folder / REPORT).read_text()
    for file in other.image.parent.glob(f"{other.image.stem}.*"):
        file.unlink()


def test_a_copy_does_not_differ(release: Built, tmp_path: Path) -> None:
    for suffix in (".img", ".manifest.json"):
        shutil.copyfile(release.image.with_suffix(suffix), tmp_path / f"copy{suffix}")
    sets = package_sets()
    pair = open_image(release.image), open_image(tmp_path / "copy.img")
    assert compare(sets.tools, sets.compare, pair, tmp_path) == []
