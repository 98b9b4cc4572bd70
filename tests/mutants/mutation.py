"""`invoke verify.mutants`: plants each hole and checks that the proof names it; then that it names none without one.

Most holes are planted into one booted machine, which is resumed from its saved state (`proof.rig`) before each of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from driver.errors import MachineError
from proof import verify
from proof.image import flash_image, trees
from proof.image.own_files import own_files
from proof.image.rebuild import ImageRebuilder
from proof.image.tree.findings import OwnFile
from proof.progress import Progress
from proof.report.whole_file import replace_text
from proof.result import Result, Verdict
from proof.rig import Rig
from proof.stages import STAGES, Effort
from proof.wire.wire import WireError
from rootfs import build as images
from rootfs.artifact.imagefile import ImageFile, open_image
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.build import Built, Recipe
from rootfs.spec.profile import Profile
from tests.mutants.mutant import Mutant
from tests.mutants.plants import AtBoot, InImage, InTree


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant, or of a run without any.

    Args:
        name: of the mutant; ``clean`` for a run without one.
        layer: the mutant's.
        hole: the mutant's sentence.
        verdict: ``found``, ``missed``, ``quiet``, ``false alarm`` or ``not tested``.
        evidence: which results called it a hole, or why there are none.
        seconds: planting and probing.
    """

    name: str
    layer: str
    hole: str
    verdict: str
    evidence: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the proof did what it must."""
        return self.verdict in ("found", "quiet")


def judge(mutant: Mutant, results: Sequence[Result]) -> tuple[str, str]:
    """Whether ``results`` name the hole: verdict and evidence of an `Outcome`."""
    holes = [r for r in results if r.verdict is Verdict.HOLE]
    named = [r for r in holes if any(fnmatchcase(f"{r.group}/{r.name}", pattern) for pattern in mutant.found)]
    if named:
        return "found", "; ".join(f"{r.group}/{r.name}: {r.evidence}" for r in named[:2])
    if holes:
        others = ", ".join(f"{r.group}/{r.name}" for r in holes)
        return "missed", f"called a hole by others than {', '.join(mutant.found)}: {others}"
    blind = [f"{r.group}/{r.name}: {r.evidence}" for r in results if r.verdict is Verdict.NOT_TESTED]
    return "missed", "; ".join(blind[:2]) or "everything was sealed"


def judge_clean(results: Sequence[Result]) -> tuple[str, str]:
    """Whether a run without a mutant was quiet."""
    if holes := [f"{r.group}/{r.name}: {r.evidence}" for r in results if r.verdict is Verdict.HOLE]:
        return "false alarm", "; ".join(holes)
    if blind := [f"{r.group}/{r.name}: {r.evidence}" for r in results if r.verdict is Verdict.NOT_TESTED]:
        return "not tested", "; ".join(blind)
    sealed = sum(r.verdict is Verdict.SEALED for r in results)
    return ("quiet", f"{sealed} probes sealed") if sealed else ("not tested", "nothing was probed")


ROUND = ("tree", *STAGES)
"""All stages of a clean round."""


class Mutation:
    """Plants holes into the test image of one profile; a context manager, which keeps one machine for all of them."""

    def __init__(
        self, sets: PackageSets, device: Profile, folder: Path, console: Console, *, effort: Effort, say: Progress
    ) -> None:
        self._sets, self._tools = sets, sets.tools
        self._device, self._folder, self._console = device, folder, console
        self._effort, self._say = effort, say
        self._built: Built = images.make(Recipe(device, test_access=True), console)
        self._machine = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.close()

    @cached_property
    def _rig(self) -> Rig:
        """The machine, booted when the first mutant needs it."""
        return self._machine.enter_context(self._boot(open_image(self._built.image)))

    @cached_property
    def _rebuilder(self) -> ImageRebuilder:
        """Kept for all of them: few change what the image is made anew of."""
        beside = tempfile.TemporaryDirectory(prefix="sallyport-remade-", dir=self._built.image.parent)
        return self._machine.enter_context(ImageRebuilder(self._sets, Path(self._machine.enter_context(beside))))

    @cached_property
    def _ours(self) -> tuple[Mapping[str, OwnFile], Mapping[str, OwnFile]]:
        """What this checkout puts into the image. As the manifest, it would find nearly every one in a tree."""
        with tempfile.TemporaryDirectory(prefix="sallyport-mutant-") as folder:
            return own_files(self._sets, open_image(self._built.image), Path(folder))

    def outcome(self, mutant: Mutant) -> Outcome:
        """Plant one and look for it."""
        self._say(mutant.name, 0, 0)
        began = time.monotonic()
        try:
            apart = isinstance(mutant.plant, InTree | InImage | AtBoot)
            verdict, evidence = judge(mutant, self._apart(mutant) if apart else self._on_rig(mutant))
        except (WireError, MachineError) as error:
            verdict, evidence = "not tested", str(error)
        return Outcome(mutant.name, mutant.layer, mutant.hole, verdict, evidence, time.monotonic() - began)

    def clean(self, stages: Sequence[str]) -> Outcome:
        """Run stages on the machine as it is."""
        began = time.monotonic()
        results: list[Result] = []
        for stage in stages:
            try:
                if stage == "tree":
                    results += trees.prove(self._sets, open_image(self._built.image), say=self._say)
                else:
                    self._rig.restore(f"clean-{stage}")
                    results += STAGES[stage](self._rig, self._effort, self._say)
            except (WireError, MachineError) as error:
                # What the other stages found stands.
                results.append(Result(stage, "run", stage, Verdict.NOT_TESTED, str(error), "none seen", 0.0))
        verdict, evidence = judge_clean(results)
        return Outcome("clean", "", "no hole is there", verdict, evidence, time.monotonic() - began)

    def _on_rig(self, mutant: Mutant) -> list[Result]:
        rig = self._rig
        rig.restore(f"mutant-{mutant.name}")
        assert not isinstance(mutant.plant, InTree | InImage | AtBoot)
        mutant.plant(rig)
        # Of the attacks on the backend's protocol only those that must find it: each takes its time.
        named = tuple(pattern.split("/")[1] for pattern in mutant.found)
        attacks = named if mutant.stage == "instructions" else ()
        effort = replace(self._effort, attacks=attacks, ports=mutant.ports)
        return STAGES[mutant.stage](rig, effort, self._say)

    def _apart(self, mutant: Mutant) -> list[Result]:
        """A mutant that needs no machine, or one of its own."""
        if isinstance(mutant.plant, InTree):
            image = open_image(self._built.image)
            with trees.unpacked(self._tools, image) as unpacked:
                planted = mutant.plant.planted(unpacked)
                if any("own-files" in pattern for pattern in mutant.found):
                    planted = replace(planted, own_files=self._ours)
                booted = flash_image.vm_initramfs(self._rebuilder, image, planted.host, planted.vm)
                return [*trees.check(self._tools, planted), booted]
        if isinstance(mutant.plant, InImage):
            clean = open_image(self._built.image)
            with tempfile.TemporaryDirectory(prefix="sallyport-mutant-", dir=clean.path.parent) as directory:
                forged = mutant.plant.image(self._rebuilder, clean, Path(directory))
                return trees.check_image(self._rebuilder, forged, files=False)
        assert isinstance(mutant.plant, AtBoot)
        with tempfile.TemporaryDirectory(prefix="sallyport-mutant-") as directory:
            image = open_image(mutant.plant.image(self._with_overlay, Path(directory)))
            if mutant.stage == "outside":
                return verify.outside(self._tools, image, self._folder, self._effort, say=self._say)[0]
            with self._boot(image) as rig:
                return STAGES[mutant.stage](rig, self._effort, self._say)

    def _with_overlay(self, overlay: Path | None) -> Path:
        if overlay is None:
            return self._built.image
        recipe = Recipe(self._device, test_access=True, extra=(overlay,), tag=overlay.name)
        return images.make(recipe, self._console).image

    def _boot(self, image: ImageFile) -> Rig:
        return Rig(self._tools, image, verify.target(image), self._folder, say=lambda text: self._say(text, 0, 0))


def run(
    sets: PackageSets,
    device: Profile,
    folder: Path,
    console: Console,
    mutants: Sequence[Mutant],
    *,
    clean: int,
    stages: Sequence[str],
    effort: Effort,
) -> list[Outcome]:
    """Run mutants and clean rounds with progress on the console; keeps the outcomes in ``folder``/mutants.json.

    Args:
        sets: has the tools tree, and QEMU.
        device: whose test image is probed.
        folder: where captures and outcomes go.
        console: where progress and each outcome are told.
        mutants: the holes to plant.
        clean: how many rounds to run on the image as it is.
        stages: those of a clean round, out of `ROUND`.
        effort: seed, and how much of each stage.

    Raises:
        SallyportError: QEMU cannot be used, or an image not built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with verify.Bar(console) as bar:

        def tell(outcome: Outcome) -> None:
            style = "green" if outcome.good else "bold red"
            console.print(
                f"  [{style}]{outcome.verdict}[/] {outcome.name} [dim]{escape(outcome.evidence[:110])}[/] "
                f"{outcome.seconds:.0f} s",
                highlight=False,
            )

        outcomes: list[Outcome] = []
        with Mutation(sets, device, folder, console, effort=effort, say=bar.say) as mutation:
            for mutant in mutants:
                outcomes.append(mutation.outcome(mutant))
                tell(outcomes[-1])
            for _ in range(clean):
                outcomes.append(mutation.clean(stages))
                tell(outcomes[-1])
    replace_text(folder / "mutants.json", to_json(outcomes))
    return outcomes


def show_list(mutants: Sequence[Mutant], console: Console) -> None:
    """Print what there is."""
    table = Table(title=f"{len(mutants)} mutants", title_justify="left")
    for column in ("mutant", "layer", "hole", "stage", "named by"):
        table.add_column(column, overflow="fold")
    for mutant in mutants:
        table.add_row(mutant.name, mutant.layer, escape(mutant.hole), mutant.stage, ", ".join(mutant.found))
    console.print(table)


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table and the sum."""
    table = Table(title="holes that were planted", title_justify="left")
    for column in ("mutant", "layer", "hole", "verdict", "named by"):
        table.add_column(column, overflow="fold")
    table.add_column("s", justify="right")
    for outcome in outcomes:
        style = "green" if outcome.good else "bold red"
        word = f"[{style}]{outcome.verdict}[/]"
        evidence = escape(outcome.evidence[:160])
        table.add_row(outcome.name, outcome.layer, escape(outcome.hole), word, evidence, f"{outcome.seconds:.0f}")
    console.print(table)
    mutants = [outcome for outcome in outcomes if outcome.name != "clean"]
    clean = [outcome for outcome in outcomes if outcome.name == "clean"]
    found = sum(outcome.good for outcome in mutants)
    console.print(
        f"{found} of {len(mutants)} found; {sum(not o.good for o in clean)} alarms in {len(clean)} clean runs"
    )


def to_json(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as JSON."""
    return msgspec.json.format(msgspec.json.encode([asdict(outcome) for outcome in outcomes]), indent=2).decode() + "\n"


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 if every mutant was found and no clean run gave an alarm, else 1."""
    if not outcomes:
        raise SallyportError("nothing was run", "name a mutant or some clean runs")
    return 0 if all(outcome.good for outcome in outcomes) else 1
