"""A flash image that somebody damaged on purpose is objected to, whatever it does to those who read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proof.image import trees
from proof.image.rebuild import ImageRebuilder
from proof.result import Result, Verdict
from rootfs.artifact.imagefile import ImageFile, open_image
from rootfs.base.package_sets import PackageSets
from rootfs.base.process import run
from rootfs.build import Built
from tests.mutants.forge import Forge

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def rebuilder(package_sets: PackageSets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRebuilder]:
    with ImageRebuilder(package_sets, tmp_path_factory.mktemp("flash") / "remade") as rebuilder:
        yield rebuilder


def looked_at(rebuilder: ImageRebuilder, release: Built, folder: Path, change: Callable[[Forge], None]) -> list[Result]:
    """What the proof says of a changed copy."""
    image = open_image(release.image)
    copy = folder / image.path.name
    run(["cp", "--reflink=auto", "--sparse=always", image.path, copy])
    shutil.copyfile(release.manifest, copy.with_suffix(".manifest.json"))
    copy.chmod(0o600)
    changed: ImageFile = replace(image, path=copy)
    change(Forge(rebuilder, changed))
    return trees.check_image(rebuilder, changed, files=False)


def test_an_image_as_built_is_sealed(rebuilder: ImageRebuilder, release: Built, tmp_path: Path) -> None:
    results = looked_at(rebuilder, release, tmp_path, lambda forge: None)
    assert [(r.label, r.evidence) for r in results if r.verdict is not Verdict.SEALED] == []
    assert len(results) == 8


def _circle(forge: Forge) -> None:
    """A directory that is its own subdirectory, without end (FAT specification, section 6): its first entry."""
    forge.put("EFI/BOOT/X/Y", b"x")
    at = forge.find(b"X          \x10")
    place = forge.find(b"BOOT       \x10")
    forge.write(at + 26, forge.read(place + 26, 2))


def _short(forge: Forge) -> None:
    forge.cut(forge.begins("slot-b") + 12345)


def _no_sections(forge: Forge) -> None:
    forge.write(forge.find(b".linux\0\0"), b".linux\0x" + b"\xff" * 32)


def _no_superblock(forge: Forge) -> None:
    forge.write(forge.begins("data") + 1024, b"\xff" * 1024)


@pytest.mark.parametrize("change", [_circle, _short, _no_sections, _no_superblock])
def test_a_damaged_one_is_not(
    rebuilder: ImageRebuilder, release: Built, tmp_path: Path, change: Callable[[Forge], None]
) -> None:
    results = looked_at(rebuilder, release, tmp_path, change)
    assert {r.verdict for r in results} & {Verdict.HOLE, Verdict.NOT_TESTED}
    assert not [r for r in results if r.name == "whole" and r.verdict is Verdict.SEALED]
