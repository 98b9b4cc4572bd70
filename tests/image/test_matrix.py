"""Images of two profiles built at the same time, from the same cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from rootfs import matrix
from rootfs.artifact.imagefile import open_image
from rootfs.base.version import PROJECT
from rootfs.build import Built

pytestmark = pytest.mark.image


def test_two_profiles_at_the_same_time(made_by: str, release: Built, tmp_path: Path) -> None:
    other = tmp_path / "roomy.toml"
    text = (PROJECT / "rootfs/spec/profiles/qemu.toml").read_text()
    other.write_text(text.replace('name = "qemu"', 'name = "roomy"').replace("memory_mib = 192", "memory_mib = 224"))
    rows = matrix.build(["qemu", str(other)], ["--engine", made_by], 2, tmp_path, Console(quiet=True))
    assert [row.good for row in rows] == [True, True], rows[1].log.read_text()
    assert Path(rows[0].image) == release.image
    assert open_image(Path(rows[1].image)).profile.vm.memory_mib == 224
    for file in Path(rows[1].image).parent.glob("sallyport-*-roomy*"):
        file.unlink()
