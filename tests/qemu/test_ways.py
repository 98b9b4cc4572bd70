"""Every other way of forwarding seals the port, too; `test_proof.py` has the whole proof of the default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proof import verify
from proof.result import Verdict
from rootfs.artifact.imagefile import open_image
from rootfs.base.tools_tree import Tools
from rootfs.build import Built, Recipe
from rootfs.spec import profile
from tests.qemu.test_proof import CONSOLE, QUICK

pytestmark = pytest.mark.qemu

STAGES = ("listeners", "system", "drops", "link", "spoof")
"""Where the way makes a difference."""
OTHERS = sorted(set(profile.DATAPATHS) - {"ring"})


@pytest.mark.parametrize("way", OTHERS)
def test_the_port_is_sealed(tools: Tools, build_image: Callable[[Recipe], Built], tmp_path: Path, way: str) -> None:
    image = open_image(build_image(Recipe(profile.load("qemu", way), test_access=True)).image)
    with verify.Bar(CONSOLE) as bar:
        found, _ = verify.outside(tools, image, tmp_path, QUICK, say=bar.say)
        inside, _ = verify.inside(tools, image, tmp_path, QUICK, say=bar.say, stages=STAGES)
    for part in (found, inside):
        assert not [r for r in part if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
        assert any(r.verdict is Verdict.CONTROL for r in part)
