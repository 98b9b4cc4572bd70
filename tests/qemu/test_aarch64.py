"""The appliance on the other architecture: booted in QEMU's machine of it, where the VM runs under KVM, and probed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proof import verify
from proof.image import trees
from proof.result import Verdict
from proof.rig import Rig
from proof.stages import run_stages
from rootfs import build as images
from rootfs.artifact.imagefile import open_image
from rootfs.base.cache import Cache
from rootfs.base.package_sets import PackageSets
from rootfs.build import Built, Recipe
from rootfs.spec import architecture, profile
from tests.qemu.test_proof import CONSOLE, QUICK

pytestmark = pytest.mark.qemu

STAGES = ("listeners", "system", "devices", "drops", "link")
"""Where the architecture makes a difference; a shipped image gets the whole proof by `invoke verify`."""


def test_the_port_is_sealed(build_image: Callable[[Recipe], Built], tmp_path: Path) -> None:
    arch = architecture.AARCH64
    sets = PackageSets(Cache(images.CACHE, CONSOLE), arch.name, arch.debian)
    image = open_image(build_image(Recipe(profile.load("qemu-aarch64"), test_access=True)).image)
    with verify.Bar(CONSOLE) as bar:
        files = trees.prove(sets, image, say=bar.say)
        with Rig(
            sets.emulator,
            image,
            verify.target(image),
            tmp_path,
            say=lambda text: bar.say(text, 0, 0),
            early_seed=QUICK.seed,
        ) as rig:
            _, processes = rig.run_host("ps -o args")
            assert rig.early
            outside = [*rig.early, *run_stages(rig, ("outside",), QUICK, bar.say)]
            rig.restore()
            inside = run_stages(rig, STAGES, QUICK, bar.say)
    assert " -M virt," in processes
    assert " -accel kvm " in processes
    assert not [r for r in (*files, *outside, *inside) if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
    assert files
    for part in (outside, inside):
        assert any(r.verdict is Verdict.CONTROL for r in part)
