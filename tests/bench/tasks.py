"""Tasks that measure: `invoke bench.*`."""

from __future__ import annotations

from pathlib import Path

from invoke import Collection, Context, task

from rootfs.base.cli_errors import NEWEST, build_task
from rootfs.base.cli_errors import console as _console
from rootfs.tasks import PROFILE, build


@task(
    name="build",
    help=NEWEST | {"runs": "how often each is measured; the median counts", "output": "JSON file for the figures"},
)
@build_task
def bench_build(_: Context, runs: int = 3, output: str = "out/bench/build.json") -> None:
    """Measure the build: cold, nothing changed, one overlay file changed; sizes."""
    from tests.bench import build

    build.run(runs, Path(output), _console)


@task(
    name="boot",
    help=NEWEST | {"runs": "how often each is measured; the median counts", "output": "JSON file for the figures"},
)
@build_task
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
@build_task
def bench_engines(_: Context, image: list[str], runs: int = 3, output: str = "out/bench/engines.json") -> None:
    """Compare images by different engines: sizes, files, packages, and power-on to UI by turns."""
    from rootfs.artifact.imagefile import open_image
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
@build_task
def bench_forwarder(
    _: Context,
    runs: int = 3,
    output: str = "out/bench/forwarder.json",
    quick: bool = False,
    json: bool = False,
    modules: str = "",
    vm: bool = False,
) -> None:
    """Measure the datapaths beside the kernel's bridge, in network namespaces."""
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
@build_task
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


collection = Collection("bench")
collection.add_task(bench_build)
collection.add_task(bench_boot)
collection.add_task(bench_engines)
collection.add_task(bench_forwarder)
collection.add_task(bench_probe)
