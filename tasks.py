"""Sallyport's tasks: `invoke --list` shows them, `invoke --help <task>` explains one."""

from __future__ import annotations

import functools
import json as json_module
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke import Collection, Context, Exit, task
from rich.console import Console

from rootfs import c_style, defconfig
from rootfs import image as images
from rootfs import profile as profiles
from rootfs.debian import packages
from rootfs.debian.engine import Engine
from rootfs.errors import SallyportError
from rootfs.image import OUT, Built, Recipe
from rootfs.profile import Profile
from rootfs.steps import Cache, remove

PROFILE = "qemu"
WAY_HELP = f"what moves frames, in place of the profile's: {', '.join(profiles.WAYS)}"
_console = Console(stderr=True, soft_wrap=True)


def friendly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn expected errors into a sentence and a hint, Ctrl-C into a quiet end."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        # Being told to end is like Ctrl-C, and a shell's background job must hear Ctrl-C's signal, too.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            return function(*args, **options)
        except SallyportError as error:
            _console.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False)
            if error.hint:
                _console.print(f"[bold]what to do:[/] {_escape(error.hint)}", highlight=False)
            raise Exit(code=getattr(error, "exit_code", 1)) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _console.print(f"[bold red]error:[/] {_escape(where)}{error.strerror or error}", highlight=False)
            raise Exit(code=1) from error
        except KeyboardInterrupt:
            _console.print("interrupted", style="yellow")
            raise Exit(code=130) from None

    return wrapper


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def _build(
    profile: str, way: str = "", *, test_access: bool = False, locked: bool = False, engine: str = "debian",
    buildroot: str = "",
) -> Built:  # fmt: skip
    device = profiles.load(profile, way)
    if engine == "debian":
        return images.make(Recipe(device, test_access=test_access, locked=locked), _console)
    recipe = Recipe(device, test_access=test_access, locked=locked, tag=engine)
    return images.make(recipe, _console, engines=_engines(engine, buildroot, locked=locked))


def _engines(name: str, buildroot: str, *, locked: bool) -> images.Engines:
    """Of ``--engine``: `buildroot`, or `buildroot-vm` for the front-end VM alone."""
    from rootfs.buildroot.engine import Engine as FromSource

    if name not in ("buildroot", "buildroot-vm"):
        raise SallyportError(f"no engine {name!r}", "name debian, buildroot or buildroot-vm")
    cache = Cache(images.CACHE, _console)
    source = FromSource(cache, _builder(buildroot), locked=locked)
    return images.Engines(Engine(cache, locked=locked) if name == "buildroot-vm" else source, source)


def _test_image(device: Profile) -> Built:
    return images.make(Recipe(device, test_access=True), _console)


def _engine() -> Engine:
    return Engine(Cache(images.CACHE, _console))


@task(
    help={
        "profile": f"device profile: {', '.join(profiles.names())}, or a .toml file of your own",
        "way": WAY_HELP,
        "test-access": "add root shells for QA (serial port 2, SSH port 2022 of the VM); never ship it",
        "locked": "fail rather than build with other package versions than rootfs/debian/packages.lock names",
        "engine": "debian: from packages; buildroot: from source; buildroot-vm: the front-end VM from source",
        "buildroot": "directory of a Buildroot release; without it $SALLYPORT_BUILDROOT",
        "json": "print the manifest's summary as JSON",
    }
)
@friendly
def image(
    _: Context,
    profile: str = PROFILE,
    way: str = "",
    test_access: bool = False,
    locked: bool = False,
    engine: str = "debian",
    buildroot: str = "",
    json: bool = False,
) -> None:
    """Build the flash image: out/sallyport-<version>-<profile>.img with .bmap, manifest, SBOM and SHA256SUMS."""
    built = _build(profile, way, test_access=test_access, locked=locked, engine=engine, buildroot=buildroot)
    manifest = json_module.loads(built.manifest.read_text())
    sizes = {name: f"{size / 2**20:.1f} MiB" for name, size in manifest["sizes"].items()}
    if json:
        print(json_module.dumps({"image": str(built.image), "root_hash": built.root_hash, "sizes": manifest["sizes"]}))
    else:
        _console.print(f"[bold]{built.image.relative_to(OUT.parent)}[/]  root hash {built.root_hash[:16]}…")
        _console.print("  ".join(f"{name.removesuffix('_bytes')} {size}" for name, size in sizes.items()), style="dim")


@task
@friendly
def lock(_: Context) -> None:
    """Resolve all packages anew and write rootfs/debian/packages.lock."""
    sets = _engine().lock()
    packages.write_lock(sets)
    _console.print(f"{packages.LOCK.relative_to(OUT.parent)}: {sum(len(found) for found in sets.values())} packages")


@task(
    help={
        "image": "image file to boot; built if it is not named",
        "profile": "device profile to build when no image is named",
        "way": WAY_HELP,
        "https": "port of 127.0.0.1 for the page",
        "ssh": "port of 127.0.0.1 for the command line",
        "persist": "keep what the appliance writes (in out/run/), for the next run",
        "serial": "put the appliance's serial console on this terminal",
    }
)
@friendly
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
    from tests.qemu import imagefile
    from tests.qemu import run as runner

    runner.check_ports(https, ssh)  # before a build of minutes
    path = Path(image) if image else _build(profile, way).image
    runner.run(
        _engine().tools, imagefile.open_image(path), _console, https=https, ssh=ssh, persist=persist, serial=serial
    )


@task(
    help={
        "image": "image file to prove; built if it is not named",
        "profile": "device profile to build when no image is named; with --interface that of the device",
        "way": WAY_HELP,
        "quick": "samples of what is big, for every commit; the full one is for releases",
        "seed": "seed of every random choice; printed and reported",
        "outside-only": "leave out the probes from inside the VM (the verdict is then at best `not-tested`)",
        "report": "directory for report.html, report.json, junit.xml, captures and the statement",
        "key": "PEM private key that signs the statement; its passphrase in SALLYPORT_KEY_PASSPHRASE",
        "json": "print the report as JSON",
        "interface": "aim the outside probes at a real device behind this network interface",
        "mac": "with --interface: the VM's MAC, in place of confirming it at the terminal",
        "port-mac": "with --interface: the burned-in MAC of the device's port, if it is known",
        "power-cycle": "with --interface: watch the device from power-on; you are asked to switch it",
    },
)
@friendly
def verify(
    _: Context,
    image: str = "",
    profile: str = PROFILE,
    way: str = "",
    quick: bool = False,
    seed: int = -1,
    outside_only: bool = False,
    report: str = "",
    key: str = "",
    json: bool = False,
    interface: str = "",
    mac: str = "",
    port_mac: str = "",
    power_cycle: bool = False,
) -> None:
    """Prove that the VM is the only way in. Exit code: 0 sealed, 3 hole found, 4 could not test."""
    from tests.probes import report as reports
    from tests.probes import statement as statements
    from tests.probes.result import exit_code
    from tests.qemu import hardware, imagefile
    from tests.qemu import verify as prover
    from tests.qemu.stages import Effort

    if key:
        statements.require_key(Path(key))
    effort = Effort(seed=random.SystemRandom().randrange(2**32) if seed < 0 else seed, quick=quick)
    if interface:
        device = profiles.load(profile, way)
        folder = Path(report) if report else OUT / "verify" / f"{device.name}-{interface}"
        power = hardware.ByHand(_console) if power_cycle else None
        ask = _console.input if sys.stdin.isatty() else None
        result = hardware.prove(
            device, interface, effort, folder=folder, console=_console, mac=mac, port_mac=port_mac, power=power, ask=ask
        )
    else:
        subject = imagefile.open_image(Path(image) if image else _build(profile, way).image)
        prover.check_sums(subject)
        inner = None if outside_only else prover.test_variant(subject, _test_image)
        folder = Path(report) if report else OUT / "verify" / subject.name
        result = prover.verify(_engine().tools, subject, inner, folder, _console, effort)
    files = reports.publish(result, folder, Path(key) if key else None)
    if json:
        print(reports.to_json(result))
    else:
        reports.print_summary(result, _console)
        _console.print("  ".join(f"{kind}: {path}" for kind, path in files.items()), style="dim")
    sys.exit(exit_code(result.results))


@task(
    help={
        "only": "names of mutants, with commas; `--list-all` shows them",
        "clean": "rounds without any hole, which must all be quiet: of all stages, or with --only of those mutants'",
        "seed": "seed of every random choice",
        "json": "print the outcomes as JSON",
        "list-all": "only list them",
    }
)
@friendly
def mutants(
    _: Context, only: str = "", clean: int = 1, seed: int = 1, json: bool = False, list_all: bool = False
) -> None:
    """Plant holes, one at a time, and require that the proof names each. Exit code: 0 if it did, else 1."""
    from tests.qemu import mutants as holes
    from tests.qemu import mutation
    from tests.qemu.stages import Effort

    wanted = holes.chosen(only)
    if list_all:
        mutation.show_list(wanted, _console)
        return
    outcomes = mutation.run(
        _engine().tools, profiles.load(PROFILE), OUT / "verify" / "mutants", _console, wanted,
        clean=clean, stages=list(dict.fromkeys(mutant.stage for mutant in wanted)) if only else mutation.ROUND,
        effort=Effort(seed=seed, quick=True),
    )  # fmt: skip
    if json:
        print(mutation.to_json(outcomes))
    else:
        mutation.show(outcomes, _console)
    sys.exit(mutation.exit_code(outcomes))


@task(
    help={
        "statement": "the signed statement of a run: statement.dsse.json beside its report",
        "image": "the image that it must be about",
        "public-key": "PEM public key of who signed it",
    }
)
@friendly
def check(_: Context, statement: str, image: str, public_key: str) -> None:
    """Check a signed statement: signature, image, report and captures. Exit code as of the run that it is about."""
    from tests.probes import statement as statements

    checked = statements.check(Path(statement), Path(image), Path(public_key))
    statements.show(checked, _console)
    sys.exit(checked.exit_code)


@task(
    positional=[],
    help={
        "minutes": "how long in all, building aside",
        "target": "one target; all if none is named",
        "seed": "seed of the random choices; printed",
        "replay": "run this one input instead, or every kept one with `--replay all`",
    },
)
@friendly
def fuzz(_: Context, minutes: float = 10.0, target: str = "", seed: int = -1, replay: str = "") -> None:
    """Attack the forwarder's parsers with libFuzzer, ASan and UBSan. Exit code: 1 if one of them broke."""
    from tests.fuzz import run as fuzzer

    start, targets = fuzzer.on_tree(_engine().tools), [target] if target else []
    if replay:
        report = fuzzer.replay(start, targets, _console, inputs=[] if replay == "all" else [Path(replay)])
    else:
        seed = random.SystemRandom().randrange(2**31) if seed < 0 else seed
        report = fuzzer.run(start, minutes, targets, _console, seed=seed)
    report.show(_console)
    sys.exit(report.exit_code)


@task(help={"part": "unit, image, qemu, fuzz, or all", "options": "further options for pytest"})
@friendly
def test(context: Context, part: str = "all", options: str = "") -> None:
    """Run the tests: unit (a minute), image (reads the built tree), qemu (boots it; minutes), fuzz (minutes)."""
    parts = {
        "unit": ["tests/unit"],
        "image": ["tests/image"],
        "qemu": ["tests/qemu"],
        "fuzz": ["tests/fuzz"],
        "all": ["tests"],
    }
    if part not in parts:
        raise SallyportError(f"no part {part!r} of the tests", f"choose one of {', '.join(parts)}")
    if part not in ("unit", "fuzz"):
        _build(PROFILE)
        _build(PROFILE, test_access=True)
    _python(context, "pytest", *parts[part], *options.split())


@task(help={"fix": "format Python and C in place first"})
@friendly
def lint(context: Context, fix: bool = False) -> None:
    """Check style and types: ruff, mypy --strict, clang-format, clang-tidy."""
    toolbox = _engine().tools
    if fix:
        _python(context, "ruff", "format", ".")
        c_style.rewrite(toolbox)
    _python(context, "ruff", "check", ".")
    _python(context, "ruff", "format", "--check", ".")
    _python(context, "mypy")
    c_style.check(toolbox)
    _console.print("[green]clean[/]")


def _python(context: Context, *words: str) -> None:
    """Run one of our Python tools with its output as it comes; its failure is ours."""
    import subprocess

    del context
    status = subprocess.run([sys.executable, "-m", *words], cwd=OUT.parent, check=False).returncode
    if status != 0:
        raise Exit(code=status)


@task(help={"all": "the caches of Python tools, too"})
@friendly
def clean(_: Context, all: bool = False) -> None:
    """Remove everything that was built: out/ with images, trees, the tools tree and reports."""
    remove(OUT)
    if all:
        for name in (".mypy_cache", ".ruff_cache", ".pytest_cache"):
            remove(OUT.parent / name)
    _console.print("out/ is gone")


@task(
    name="build",
    help={"runs": "how often each is measured; the median counts", "output": "JSON file for the figures"},
)
@friendly
def bench_build(_: Context, runs: int = 3, output: str = "out/bench/build.json") -> None:
    """Measure the build: cold, nothing changed, one overlay file changed; sizes."""
    from tests.bench import build

    build.run(runs, Path(output), _console)


@task(
    name="boot",
    help={"runs": "how often each is measured; the median counts", "output": "JSON file for the figures"},
)
@friendly
def bench_boot(_: Context, runs: int = 3, output: str = "out/bench/boot.json") -> None:
    """Measure the appliance: power-on to UI, VM killed to UI back."""
    from tests.bench import boot

    boot.run(runs, Path(output), _console, _build(PROFILE, test_access=True), _build(PROFILE))


@task(
    name="forwarder",
    help={
        "runs": "how often each is measured; the median counts",
        "output": "JSON file for the figures",
        "quick": "one short round, for a glance",
        "json": "print the figures as JSON",
        "modules": "directory with the forwarder's compiled modules, if they are not in the package",
        "vm": "TCP from the port to a VM, too, in an image that is booted for it (minutes)",
    },
)
@friendly
def bench_forwarder(
    _: Context,
    runs: int = 3,
    output: str = "out/bench/forwarder.json",
    quick: bool = False,
    json: bool = False,
    modules: str = "",
    vm: bool = False,
) -> None:
    """Measure the ways of forwarding beside the kernel's bridge, in network namespaces."""
    from tests.bench import forwarder, forwarder_vm

    figures = forwarder_vm.run(1 if quick else runs, _console) if vm else None
    where = Path(modules) if modules else None
    forwarder.run(runs, Path(output), _console, quick=quick, json=json, modules=where, vm=figures)


@task(
    name="probe",
    help={
        "runs": "how often each is measured; the median counts",
        "output": "JSON file for the figures",
        "nmap-rate": "packets per second of nmap",
        "masscan-rate": "packets per second of masscan",
        "no-sweeps": "leave out the whole sweep from outside, full and quick",
    },
)
@friendly
def bench_probe(
    _: Context,
    runs: int = 3,
    output: str = "out/bench/probe.json",
    nmap_rate: int = 3000,
    masscan_rate: int = 2000,
    no_sweeps: bool = False,
) -> None:
    """Measure the proof's sweeps beside nmap and masscan, at the same VM of the same image."""
    from tests.bench import probe

    rates = {"nmap": nmap_rate, "masscan": masscan_rate}
    probe.run(runs, Path(output), _console, _build(PROFILE, test_access=True), rates=rates, sweeps=not no_sweeps)


@task(
    help={
        "buildroot": "source tree of a Buildroot release; or the variable SALLYPORT_BUILDROOT",
        "record": "write rootfs/buildroot/symbols.lock, if every symbol is kept",
    }
)
@friendly
def symbols(_: Context, buildroot: str = "", record: bool = False) -> None:
    """Check that Buildroot keeps every symbol of both defconfigs. Exit code: 1 if it does not."""
    from rootfs.buildroot import source, symbols

    if not (buildroot or os.environ.get(source.NAMED)):
        symbols.check_recorded()
        _console.print(f"as recorded with Buildroot {source.RELEASE}; name a tree by --buildroot to ask Kconfig itself")
        return
    tree = source.Source.open(source.named(buildroot))
    tree.require(*([source.RELEASE] if record else [source.RELEASE, source.BUILT]))
    with _console.status(f"reading the symbols of Buildroot {tree.release}"):
        kconfig = tree.kconfig()
    found = [line for config in defconfig.ALL.values() for line in symbols.lost(kconfig, config)]
    for line in found:
        _console.print(f"[red]✗[/] {line}", highlight=False, soft_wrap=True)
    if found:
        sys.exit(1)
    if record:
        symbols.record()
    _console.print(f"Buildroot {tree.release} keeps every symbol of {len(defconfig.ALL)} defconfigs")


@task(
    positional=["bill", "feed"],
    help={
        "bill": "bill of materials of an image: out/<name>.cdx.json",
        "feed": "the Debian security tracker's JSON file, on this machine",
        "minor": "list those, too, that hardly matter",
        "json": "print all of them as JSON",
    },
)
@friendly
def vulnerabilities(_: Context, bill: str, feed: str, minor: bool = False, json: bool = False) -> None:
    """Compare what an image is made of with a feed of known vulnerabilities. Exit code: 0 none, 3 some, 1 wrong use."""
    from rootfs import vulnerabilities as known

    found = known.find(Path(bill), known.read_feed(Path(feed)))
    if json:
        print(known.to_json(found))
    else:
        known.show(found, _console, all_of_them=minor)
    sys.exit(0 if all(finding.minor for finding in found) else 3)


_BUILDROOT_HELP = {
    "buildroot": "directory of a Buildroot release; without it $SALLYPORT_BUILDROOT",
    "downloads": "Buildroot's download directory",
    "only": f"{' or '.join(defconfig.ALL)}, not both",
}
_DOWNLOADS = str(OUT / "buildroot/dl")


def _builder(buildroot: str, downloads: str = _DOWNLOADS, *, jobs: int = 0) -> Any:
    from rootfs.buildroot import source, workshop
    from rootfs.buildroot.builder import Builder

    tree = source.Source.open(source.named(buildroot))
    tree.require(source.BUILT)
    shop = workshop.prepare(_engine())
    return Builder(tree, OUT / "buildroot", Path(downloads), jobs, _console, shop.bench)


@task(help=_BUILDROOT_HELP | {"json": "print every file as JSON"})
@friendly
def sources(_: Context, buildroot: str = "", downloads: str = _DOWNLOADS, only: str = "", json: bool = False) -> None:
    """List the source files that a build by Buildroot would miss, before it begins. Exit code: 1 if it would."""
    from rootfs.buildroot import downloads as files

    found = _builder(buildroot, downloads).sources([only] if only else list(defconfig.ALL))
    if json:
        print(files.to_json(found))
    else:
        files.show(found, _console)
    sys.exit(0 if all(needed.good for needed in found) else 1)


@task(
    help=_BUILDROOT_HELP
    | {
        "again": "a package to build anew from its sources, first of all",
        "jobs": "of make within one package; 0: as many as there are processors, and one",
    }
)
@friendly
def buildroot(
    _: Context, buildroot: str = "", downloads: str = _DOWNLOADS, only: str = "", again: str = "", jobs: int = 0
) -> None:
    """Build the root file systems by Buildroot, or go on with it: out/buildroot/<host|frontend>/target."""
    builder = _builder(buildroot, downloads, jobs=jobs)
    for name in [only] if only else list(defconfig.ALL):
        print(builder.build(name, again=again) / "target")


_image = Collection("image")
_image.add_task(image, name="build", default=True)
_image.add_task(lock)
_image.add_task(vulnerabilities)
_image.add_task(symbols)
_image.add_task(sources)
_image.add_task(buildroot)
_bench = Collection("bench")
_bench.add_task(bench_build)
_bench.add_task(bench_boot)
_bench.add_task(bench_forwarder)
_bench.add_task(bench_probe)
_verify = Collection("verify")
_verify.add_task(verify, name="run", default=True)
_verify.add_task(mutants)
_verify.add_task(check)
namespace = Collection(run, test, fuzz, lint, clean, _image, _verify, _bench)
