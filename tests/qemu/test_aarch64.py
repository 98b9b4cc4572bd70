"""The appliance on the other architecture: booted in QEMU's machine of it, where the VM runs under KVM, and probed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootfs import arch, profile
from rootfs import image as images
from rootfs.debian.engine import Engine
from rootfs.image import Recipe
from rootfs.imagefile import open_image
from rootfs.steps import Cache
from tests.probes.result import Verdict
from tests.qemu import trees, verify
from tests.qemu.test_proof import CONSOLE, QUICK

pytestmark = pytest.mark.qemu

STAGES = ("listeners", "system", "devices", "drops", "link")
"""Where the architecture makes a difference; a shipped image gets the whole proof by `invoke verify`."""


def test_the_port_is_sealed(tmp_path: Path) -> None:
    engine = Engine(Cache(images.CACHE, CONSOLE), arch=arch.AARCH64)
    image = open_image(images.make(Recipe(profile.load("qemu-aarch64"), test_access=True), CONSOLE).image)
    with verify.Bar(CONSOLE) as bar:
        files = trees.prove(engine.tools, image, say=bar.say)
        found, _ = verify.outside(engine.emulator, image, tmp_path, QUICK, say=bar.say)
        inside, _ = verify.inside(engine.emulator, image, tmp_path, QUICK, say=bar.say, stages=STAGES)
    for part in (files, found, inside):
        assert not [r for r in part if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
        assert any(r.verdict in (Verdict.CONTROL, Verdict.SEALED) for r in part)
