"""`invoke bench.engines`: images by different engines, side by side: what is in them, how long they take to boot.

They boot by turns, so that what slows the machine down slows all of them down.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rootfs import build as images
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.cache import Cache
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from tests.bench import boot, figures
from tests.bench.figures import Figure

_SIZES = {
    "root_bytes": "root file system, compressed, the VM in it",
    "frontend_bytes": "of it the VM, uncompressed",
    "uki_bytes": "kernel with initramfs",
}
"""Of the manifest."""


def run(runs: int, output: Path, console: Console, subjects: Sequence[ImageFile]) -> None:
    """Measure them and write the figures.

    Raises:
        SallyportError: fewer than two images; or one did not come up.
    """
    if len({subject.path for subject in subjects}) < max(2, len(subjects)):
        raise SallyportError("one image cannot be compared", "name two or more: --image A --image B")
    bench = figures.begin(runs, output, console)
    tools = PackageSets(Cache(images.CACHE, Console(quiet=True))).tools
    boots: dict[Path, list[float]] = {subject.path: [] for subject in subjects}
    engines = {subject.engine for subject in subjects}
    with console.status("power-on to UI") as status:
        for number in range(1, runs + 1):
            for subject in subjects:
                status.update(f"power-on to UI: {subject.name}, {number} of {runs}")
                boots[subject.path].append(boot.power_on(tools, subject, output.with_suffix(".serial.log")))
    told = []
    for subject in subjects:
        said = json.loads(subject.path.with_suffix(".manifest.json").read_text())
        label = subject.engine if len(engines) == len(subjects) else subject.name
        told += [
            Figure(f"{label}: {what}", "MB", None, (said["sizes"][field] / 1e6,)) for field, what in _SIZES.items()
        ]
        told.append(Figure(f"{label}: files of the host", "", None, (len(said["files"]),)))
        told += [
            Figure(f"{label}: packages of the {part}", "", None, (len(inside),))
            for part, inside in said["packages"].items()
        ]
        told.append(Figure(f"{label}: power-on to UI", "s", boot.BOOT_S, tuple(boots[subject.path])))
    bench.finish(told)
