"""The task that attacks the proof: `invoke verify.mutants`."""

from __future__ import annotations

import sys

from invoke import Context, task

from rootfs.base.cli_errors import NEWEST, build_task
from rootfs.base.cli_errors import console as _console
from rootfs.build import OUT
from rootfs.spec import profile as profiles
from rootfs.tasks import PROFILE, package_sets


@task(
    help=NEWEST
    | {
        "only": "names of mutants, with commas; `--list-all` shows them",
        "clean": "rounds without any hole, which must all be quiet: of all stages, or with --only of those mutants'",
        "seed": "seed of every random choice",
        "json": "print the outcomes as JSON",
        "list-all": "only list them",
    }
)
@build_task
def mutants(
    _: Context, only: str = "", clean: int = 1, seed: int = 1, json: bool = False, list_all: bool = False
) -> None:
    """Plant holes, one at a time, and require that the proof names each. Exit code: 0 if it did, else 1."""
    from proof.stages import Effort
    from tests import mutants as holes
    from tests.mutants import mutation

    wanted = holes.chosen(only)
    if list_all:
        mutation.show_list(wanted, _console)
        return
    outcomes = mutation.run(
        package_sets(), profiles.load(PROFILE), OUT / "verify" / "mutants", _console, wanted,
        clean=clean, stages=list(dict.fromkeys(mutant.stage for mutant in wanted)) if only else mutation.ROUND,
        effort=Effort(seed=seed, quick=True),
    )  # fmt: skip
    if json:
        print(mutation.to_json(outcomes))
    else:
        mutation.show(outcomes, _console)
    sys.exit(mutation.exit_code(outcomes))
