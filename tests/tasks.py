"""Tasks that prove and measure: `invoke verify`, `invoke verify.*`, `invoke bench.*`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from invoke import Collection, Context, task

from rootfs import profile as profiles
from rootfs.friendly import NEWEST, building, friendly
from rootfs.friendly import console as _console
from rootfs.image import OUT, Built, Recipe
from rootfs.profile import Profile
from rootfs.tasks import PROFILE, WAY_HELP, build, debian, make


def _test_image(engine: str, device: Profile) -> Built:
    return make(Recipe(device, test_access=True), engine)


@task(
    help=NEWEST
    | {
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
@building
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
    from rootfs import imagefile
    from tests.probes import report as reports
    from tests.probes import statement as statements
    from tests.probes.result import exit_code
    from tests.qemu import hardware
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
        subject = imagefile.open_image(Path(image) if image else build(profile, way).image)
        prover.check_sums(subject)
        inner = (
            None
            if outside_only
            else prover.test_variant(subject, lambda d: make(Recipe(d, test_access=True), subject.engine))
        )
        folder = Path(report) if report else OUT / "verify" / subject.name
        result = prover.verify(debian(subject.profile.arch), subject, inner, folder, _console, effort)
    files = reports.publish(result, folder, Path(key) if key else None)
    if json:
        print(reports.to_json(result))
    else:
        reports.print_summary(result, _console)
        _console.print("  ".join(f"{kind}: {path}" for kind, path in files.items()), style="dim")
    sys.exit(exit_code(result.results))


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
@building
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
        debian(), profiles.load(PROFILE), OUT / "verify" / "mutants", _console, wanted,
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
    name="build",
    help=NEWEST | {"runs": "how often each is measured; the median counts", "output": "JSON file for the figures"},
)
@building
def bench_build(_: Context, runs: int = 3, output: str = "out/bench/build.json") -> None:
    """Measure the build: cold, nothing changed, one overlay file changed; sizes."""
    from tests.bench import build

    build.run(runs, Path(output), _console)


@task(
    name="boot",
    help=NEWEST | {"runs": "how often each is measured; the median counts", "output": "JSON file for the figures"},
)
@building
def bench_boot(_: Context, runs: int = 3, output: str = "out/bench/boot.json") -> None:
    """Measure the appliance: power-on to UI, VM killed to UI back."""
    from tests.bench import boot

    boot.run(runs, Path(output), _console, build(PROFILE, test_access=True), build(PROFILE))


@task(
    name="engines",
    iterable=["image"],
    help=NEWEST
    | {
        "image": "an image file; once for each, two at least",
        "runs": "how often each boots; the median counts",
        "output": "JSON file for the figures",
    },
)
@building
def bench_engines(_: Context, image: list[str], runs: int = 3, output: str = "out/bench/engines.json") -> None:
    """Compare images by different engines: sizes, files, packages, and power-on to UI by turns."""
    from rootfs.imagefile import open_image
    from tests.bench import engines

    engines.run(runs, Path(output), _console, [open_image(Path(path)) for path in image])


@task(
    name="forwarder",
    help=NEWEST
    | {
        "runs": "how often each is measured; the median counts",
        "output": "JSON file for the figures",
        "quick": "one short round, for a glance",
        "json": "print the figures as JSON",
        "modules": "directory with the forwarder's compiled modules, if they are not in the package",
        "vm": "TCP from the port to a VM, too, in an image that is booted for it (minutes)",
    },
)
@building
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
    help=NEWEST
    | {
        "runs": "how often each is measured; the median counts",
        "output": "JSON file for the figures",
        "nmap-rate": "packets per second of nmap",
        "masscan-rate": "packets per second of masscan",
        "no-sweeps": "leave out the whole sweep from outside, full and quick",
    },
)
@building
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
    probe.run(runs, Path(output), _console, build(PROFILE, test_access=True), rates=rates, sweeps=not no_sweeps)


verification = Collection("verify")
verification.add_task(verify, name="run", default=True)
verification.add_task(mutants)
verification.add_task(check)
bench = Collection("bench")
bench.add_task(bench_build)
bench.add_task(bench_boot)
bench.add_task(bench_engines)
bench.add_task(bench_forwarder)
bench.add_task(bench_probe)
