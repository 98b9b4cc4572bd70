"""The full build by Buildroot: an hour where nothing was compiled before, minutes where ccache knows it all."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from rootfs import tasks
from rootfs.artifact.imagefile import open_image
from rootfs.build import Built
from rootfs.engines.buildroot import source
from rootfs.spec import defconfig

pytestmark = [
    pytest.mark.image,
    pytest.mark.buildroot,
    pytest.mark.skipif(source.NAMED not in os.environ, reason=f"no Buildroot tree: name it by {source.NAMED}"),
]


@pytest.fixture(scope="module")
def from_source() -> Built:
    return tasks.build(tasks.PROFILE, engine="buildroot")


def units(image: Built) -> set[str]:
    system = image.host_tree / "etc/systemd/system"
    return {path.relative_to(system).as_posix() for path in system.rglob("*")}


def test_the_image_has_the_names_the_services_and_the_fields_of_the_other(from_source: Built, release: Built) -> None:
    assert from_source.image.name == f"{release.image.stem.removesuffix('-buildroot')}-buildroot.img"
    assert open_image(from_source.image).engine == "buildroot"
    assert units(from_source) == units(release)
    own_files, theirs = (json.loads(image.manifest.read_text()) for image in (from_source, release))
    assert set(own_files) == set(theirs)
    assert set(own_files["sizes"]) == set(theirs["sizes"])


def test_every_package_of_it_was_built_or_is_known_as_prebuilt(from_source: Built) -> None:
    packages = json.loads(from_source.manifest.read_text())["packages"]
    by = {part: {package["by"] for package in packages[part]} for part in packages}
    assert by == {"host": {"buildroot", "debian"}, "frontend": {"buildroot", "debian"}}
    built = {package["name"] for package in packages["host"] if package["by"] == "buildroot"}
    assert {"linux", "systemd", "qemu", "python3", "libopenssl"} <= built


@pytest.mark.parametrize("name", defconfig.ALL)
def test_what_must_go_along_is_collected(from_source: Built, tmp_path: Path, name: str) -> None:
    folder = tasks.buildroot_builder("").legal(name, tmp_path)
    rows = {row["PACKAGE"]: row for row in csv.DictReader((folder / "manifest.csv").open())}
    assert {"linux", "python3", "busybox"} <= set(rows)
    assert (folder / "prebuilt/libc6/copyright").read_text()
    for package in ("linux", "python3"):
        assert list((folder / "licenses").glob(f"{package}-*/*")), package
        assert list((folder / "sources").glob(f"{package}-*/*")), package
