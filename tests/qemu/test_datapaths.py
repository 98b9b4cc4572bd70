"""Every datapath but the default one seals the port, too; `test_proof.py` has the whole proof of the default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proof import verify
from proof.result import Verdict
from proof.rig import Rig
from proof.stages import run_stages
from rootfs.artifact.imagefile import open_image
from rootfs.base.tools_tree import Tools
from rootfs.build import Built, Recipe
from rootfs.spec import profile
from tests.qemu.test_proof import CONSOLE, QUICK

pytestmark = pytest.mark.qemu

STAGES = ("listeners", "system", "drops", "link", "spoof")
"""Where the datapath makes a difference."""
OTHERS = sorted(set(profile.DATAPATHS) - {"ring"})


@pytest.mark.parametrize("datapath", OTHERS)
def test_the_port_is_sealed(
    tools: Tools, build_image: Callable[[Recipe], Built], tmp_path: Path, datapath: str
) -> None:
    """One boot, with probes from power-on; each stage that needs it resumes the machine as it was right after that."""
    image = open_image(build_image(Recipe(profile.load("qemu", datapath), test_access=True)).image)
    with (
        verify.Bar(CONSOLE) as bar,
        Rig(
            tools, image, verify.target(image), tmp_path, say=lambda text: bar.say(text, 0, 0), early_seed=QUICK.seed
        ) as rig,
    ):
        assert rig.early
        outside = [*rig.early, *run_stages(rig, ("outside",), QUICK, bar.say)]
        # Else frames to a group of the VM's, or to its own MAC, do not reach it; `ring` asks for it at its socket.
        if datapath == "kernel":
            assert " promiscuity 0 " not in rig.host.check("ip -n mgmt -d link show mgmt0")
        rig.restore()
        inside = run_stages(rig, STAGES, QUICK, bar.say)
    for part in (outside, inside):
        assert not [r for r in part if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
        assert any(r.verdict is Verdict.CONTROL for r in part)
