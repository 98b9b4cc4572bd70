"""The proof finds planted holes in real images, and none in the clean one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from rootfs import image as images
from rootfs import profile
from rootfs.image import Built, Recipe
from rootfs.tools import Tools
from tests.probes.report import write_report
from tests.probes.result import EXIT_SEALED, Result, Verdict, exit_code
from tests.qemu import verify
from tests.qemu.imagefile import ImageFile, open_image

pytestmark = pytest.mark.qemu

SABOTAGE = Path(__file__).parent / "sabotage"
CONSOLE = Console(stderr=True)
SEED = 20260101
FEW = range(8192)
"""Ports of the sweeps in sabotaged images: the holes are elsewhere, and the clean image gets all."""


def sabotaged(name: str) -> ImageFile:
    recipe = Recipe(profile.load("qemu"), test_access=True, extra=(SABOTAGE / name,), tag=name)
    return open_image(images.make(recipe, CONSOLE).image)


def holes(results: list[Result]) -> set[str]:
    return {f"{r.group}/{r.name}" for r in results if r.verdict is Verdict.HOLE}


def test_clean_image_is_sealed(tools: Tools, release: Built, testing: Built) -> None:
    folder = images.OUT / "verify" / "ci"
    report = verify.verify(tools, open_image(release.image), open_image(testing.image), folder, CONSOLE, seed=SEED)
    write_report(report, folder)
    not_sealed = [r for r in report.results if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
    assert not not_sealed
    assert exit_code(report.results) == EXIT_SEALED


def test_an_address_on_the_port_is_found(tools: Tools, tmp_path: Path) -> None:
    with verify.Bar(CONSOLE) as bar:
        results, _ = verify.outside(tools, sabotaged("address-on-port"), tmp_path, seed=SEED, bar=bar, ports=FEW)
    found = holes(results)
    assert "host/arp-prefix" in found
    assert "passive/frames-since-power-on" in found
    # The controls were seen: it is a hole, not a broken probe.
    assert any(r.verdict is Verdict.CONTROL for r in results)


def test_a_service_of_the_host_is_found(tools: Tools, tmp_path: Path) -> None:
    results: list[Result] = []
    image = sabotaged("host-service")
    with verify.Bar(CONSOLE) as bar:
        verify.inside(tools, image, tmp_path, results, seed=SEED, bar=bar, ports=range(6144, 8193))
    found = holes(results)
    assert "listeners/host-sockets" in found
    assert any(name.startswith("link/tcp") for name in found)
    assert any(r.verdict is Verdict.CONTROL for r in results)
