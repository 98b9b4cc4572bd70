"""The proof finds every planted hole in the real image, and none in the clean one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from proof import verify
from proof.report.publish import write_report
from proof.result import EXIT_SEALED, Verdict, exit_code
from proof.stages import Effort
from rootfs import build as images
from rootfs.artifact.imagefile import open_image
from rootfs.base.package_sets import PackageSets
from rootfs.build import Built
from rootfs.spec import profile
from tests.mutants import MUTANTS, some
from tests.mutants.mutant import Mutant
from tests.mutants.mutation import Mutation

pytestmark = pytest.mark.qemu

CONSOLE = Console(stderr=True)
QUICK = Effort(seed=20260101, quick=True)


def test_clean_image_is_sealed(package_sets: PackageSets, release: Built, testing: Built) -> None:
    """The controls must have been seen for this verdict."""
    folder = images.OUT / "verify" / "ci"
    report = verify.verify(package_sets, open_image(release.image), open_image(testing.image), folder, CONSOLE, QUICK)
    write_report(report, folder)
    assert not [r for r in report.results if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
    assert exit_code(report.results) == EXIT_SEALED


@pytest.fixture(scope="module")
def mutation(package_sets: PackageSets, made_by: str) -> Iterator[Mutation]:
    if made_by != "debian":
        pytest.skip("holes are planted into images of engine debian: it is the proof that is tested")
    folder = images.OUT / "verify" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    device = profile.load("qemu")
    with (
        verify.Bar(CONSOLE) as bar,
        Mutation(package_sets, device, folder, CONSOLE, effort=QUICK, say=bar.say) as planted,
    ):
        yield planted


def test_the_machine_without_a_hole_is_quiet(mutation: Mutation) -> None:
    """Before any hole is planted into it, and over another cable than above: what is found later was planted."""
    outcome = mutation.clean(["tree", "listeners", "system", "outside"])
    assert outcome.good, outcome.evidence


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All mutants, or some (`tests/conftest.py`, ``--mutants``)."""
    if "mutant" in metafunc.fixturenames:
        seed = metafunc.config.getoption("--mutants")
        chosen = MUTANTS if seed is None else some(seed)
        metafunc.parametrize("mutant", chosen, ids=[mutant.name for mutant in chosen])


def test_a_planted_hole_is_named(mutation: Mutation, mutant: Mutant) -> None:
    outcome = mutation.outcome(mutant)
    assert outcome.good, f"{outcome.verdict}: {outcome.evidence}"
