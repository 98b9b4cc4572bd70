"""Sallyport's tasks: `invoke --list` shows them, `invoke --help <task>` explains one."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from invoke import Collection, Context, Exit, task

from proof import tasks as proof
from rootfs.base.cache import empty, remove
from rootfs.base.cli_errors import NEWEST, build_task, report_errors
from rootfs.base.cli_errors import console as _console
from rootfs.base.errors import SallyportError
from rootfs.build import OUT
from rootfs.tasks import ENGINES, PROFILE, WAY_HELP, build, package_sets
from rootfs.tasks import collection as image
from tests.bench.tasks import collection as bench
from tests.lint import parts
from tests.lint.parts import PARTS
from tests.mutants.tasks import mutants


@task(
    help=NEWEST
    | {
        "image": "image file to boot; built if it is not named",
        "profile": "device profile to build when no image is named",
        "way": WAY_HELP,
        "https": "port of 127.0.0.1 for the page",
        "ssh": "port of 127.0.0.1 for the command line",
        "persist": "keep what the appliance writes (in out/run/), for the next run",
        "serial": "put the appliance's serial console on this terminal",
    }
)
@build_task
def run(
    _: Context,
    image: str = "",
    profile: str = PROFILE,
    way: str = "",
    https: int = 8443,
    ssh: int = 2222,
    persist: bool = False,
    serial: bool = False,
) -> None:
    """Boot an image in QEMU: page on https://localhost:8443, SSH on port 2222, until Ctrl-C."""
    from driver import run as runner
    from rootfs.artifact import imagefile

    runner.check_ports(https, ssh)  # before a build of minutes
    subject = imagefile.open_image(Path(image) if image else build(profile, way).image)
    runner.run(
        package_sets(subject.profile.arch).emulator,
        subject,
        _console,
        https=https,
        ssh=ssh,
        persist=persist,
        serial=serial,
    )


@task(
    positional=[],
    help=NEWEST
    | {
        "minutes": "how long in all, building aside",
        "target": "one target; all if none is named",
        "seed": "seed of the random choices; printed",
        "replay": "run this one input instead, or every kept one with `--replay all`",
    },
)
@build_task
def fuzz(_: Context, minutes: float = 10.0, target: str = "", seed: int = -1, replay: str = "") -> None:
    """Attack the forwarder's parsers with libFuzzer, ASan and UBSan. Exit code: 1 if one of them broke."""
    from tests.fuzz import run as fuzzer

    start, targets = fuzzer.on_tree(package_sets().tools), [target] if target else []
    if replay:
        report = fuzzer.replay(start, targets, _console, inputs=[] if replay == "all" else [Path(replay)])
    else:
        seed = random.SystemRandom().randrange(2**31) if seed < 0 else seed
        report = fuzzer.run(start, minutes, targets, _console, seed=seed)
    report.show(_console)
    sys.exit(report.exit_code)


@task(
    help=NEWEST
    | {
        "part": "unit, image, qemu, fuzz, or all",
        "engine": "what makes the images that are tested: debian or buildroot",
        "all": "plant every mutant, as before a release; else a tenth of them, which the commit draws",
        "options": "further options for pytest",
    }
)
@build_task
def test(context: Context, part: str = "all", engine: str = "debian", all: bool = False, options: str = "") -> None:
    """Run the tests: unit (minutes), image (reads the built tree), qemu (boots it; half an hour), fuzz (minutes)."""
    parts = {
        "unit": ["tests/unit"],
        "image": ["tests/image"],
        "qemu": ["tests/qemu"],
        "fuzz": ["tests/fuzz"],
        "all": ["tests"],
    }
    if part not in parts:
        raise SallyportError(f"no part {part!r} of the tests", f"choose one of {', '.join(parts)}")
    if engine not in ENGINES[:2]:
        raise SallyportError(f"no tests for engine {engine!r}", f"choose one of {', '.join(ENGINES[:2])}")
    began = time.monotonic()
    if part not in ("unit", "fuzz"):
        build(PROFILE, engine=engine)
        build(PROFILE, test_access=True, engine=engine)
    mutants = () if all else ("--mutants", str(_drawn()))
    built = f"--built={time.monotonic() - began:.1f}"
    # One after the other: appliances have deadlines, and two emulators on two processors miss them.
    _python(context, "pytest", "--engine", engine, built, *mutants, *parts[part], *options.split())


def _drawn() -> int:
    """The seed of this commit, so that each commit plants another tenth of the mutants."""
    import subprocess

    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=OUT.parent, capture_output=True, text=True, check=False)
    return int(done.stdout[:8], 16) if done.returncode == 0 else random.SystemRandom().randrange(2**32)


@task(
    help=NEWEST
    | {
        "part": f"{', '.join(PARTS)}, or all",
        "fix": "first mend in place what a program can: imports, formatting of Python and C",
    }
)
@build_task
def lint(_: Context, part: str = "all", fix: bool = False) -> None:
    """Check style, types and hazards: ruff, mypy --strict, shellcheck, oxlint, clang-format, clang-tidy."""
    root = OUT.parent
    failed = []
    for name in PARTS if part == "all" else [part]:
        if fix:
            parts.fix(name, root, lambda: package_sets().tools)
        if not parts.check(name, root, lambda: package_sets().tools):
            failed.append(name)
    if failed:
        _console.print(f"[red]lint found something in: {', '.join(failed)}[/]")
        raise Exit(code=1)
    _console.print("[green]clean[/]")


@task(help={"upgrade": "take the newest versions that pyproject.toml allows; else keep what is locked and still fits"})
@report_errors
def lock(context: Context, upgrade: bool = False) -> None:
    """Make requirements.lock (versions and hashes of every Python package) from the groups of pyproject.toml."""
    more = ["--upgrade"] if upgrade else []
    words = ["--quiet", "--group", "dev", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
    # Without --universal: the lock is for Linux alone, and the oldest Python that is supported resolves it.
    head = ["--custom-compile-command", "invoke lock"]
    _python(context, "uv", "pip", "compile", *words, *head, *more, "--output-file", "requirements.lock")


def _python(context: Context, *words: str) -> None:
    """Run one of our Python tools with its output as it comes; its failure is ours."""
    import subprocess

    del context
    status = subprocess.run([sys.executable, "-m", *words], cwd=OUT.parent, check=False).returncode
    if status != 0:
        raise Exit(code=status)


@task(help={"serve": "serve them on http://127.0.0.1:8000 and build again when a page changes, until Ctrl-C"})
@report_errors
def docs(_: Context, serve: bool = False) -> None:
    """Build the documents: out/docs/index.html. A link that leads nowhere is an error."""
    from docs.generate import site

    if serve:
        site.serve("127.0.0.1:8000")
    else:
        _note(str(site.build(OUT / "docs")))


@task(help={"all": "the caches of Python tools, too"})
@report_errors
def clean(_: Context, all: bool = False) -> None:
    """Remove everything that was built: out/ with images, trees, the tools tree and reports. A link out/ stays."""
    if OUT.is_dir():
        elsewhere, foreign = empty(OUT)
        for place in elsewhere:
            _note(f"a link led to {place}: what is there was left alone")
        for place in foreign:
            _note(f"{place} is nothing that this project makes: it was left alone")
    if OUT.is_symlink():
        _note(f"what was built is gone; out/ is still a link to {OUT.readlink()}")
    else:
        remove(OUT)
        _console.print("out/ is gone")
    if all:
        for name in (".mypy_cache", ".ruff_cache", ".pytest_cache"):
            remove(OUT.parent / name)


def _note(text: str) -> None:
    _console.print(text, markup=False, highlight=False)


verification = Collection("verify", proof.check, mutants)
verification.add_task(proof.verify, name="run", default=True)
namespace = Collection(run, test, fuzz, lint, lock, docs, clean, image, verification, bench)
