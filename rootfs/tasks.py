"""Tasks about images: `invoke image`, `invoke image.*`."""

from __future__ import annotations

import dataclasses
import json as json_module
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from invoke import Collection, Context, task
from rich.markup import escape

from rootfs import build as images
from rootfs.base import packages
from rootfs.base.cache import KEEP, Cache, remove
from rootfs.base.cli_errors import NEWEST, build_task, report_errors
from rootfs.base.cli_errors import console as _console
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets, require
from rootfs.base.version import shown
from rootfs.build import OUT, Built, Recipe
from rootfs.engines.debian.engine import lock as newest_packages
from rootfs.spec import defconfig
from rootfs.spec import profile as profiles
from rootfs.spec.architecture import ALL, X86_64

PROFILE = "qemu"
ENGINES = ("debian", "buildroot", "buildroot-vm")
_BUILDROOT = (
    "a Buildroot release: directory, archive or its address; else $SALLYPORT_BUILDROOT, else its makers' archive"
)
_OFFLINE = "fail instead of fetching anything"
WAY_HELP = f"what moves frames, in place of the profile's: {', '.join(profiles.DATAPATHS)}"


def build(
    profile: str, way: str = "", *, test_access: bool = False, engine: str = "debian", buildroot: str = "",
    offline: bool = False,
) -> Built:  # fmt: skip
    """Build the image of a named profile; arguments as of `make`."""
    recipe = Recipe(profiles.load(profile, way), test_access=test_access)
    return make(recipe, engine, buildroot, offline=offline)


def make(recipe: Recipe, engine: str = "debian", buildroot: str = "", *, offline: bool = False) -> Built:
    """Build an image; an engine other than `debian` is in its name.

    Args:
        recipe: what to make.
        engine: `debian`, `buildroot`, or `buildroot-vm` (the front-end VM alone from source).
        buildroot: Buildroot's tree; empty: as the environment says.
        offline: whether it is an error, before anything is built, if something would have to be fetched.

    Raises:
        SallyportError: there is no such engine, or the image cannot be built.
    """
    if engine not in ENGINES:
        raise SallyportError(f"no engine {engine!r}", f"name one of {', '.join(ENGINES)}")
    engines = images.debian(recipe.profile, Cache(images.CACHE, _console), offline=offline)
    if engine != engines.name:
        from rootfs.engines.buildroot.engine import Engine

        arch = recipe.profile.arch
        builder = buildroot_builder(buildroot, arch=arch, offline=offline)
        from_source = Engine(package_sets(arch, offline=offline), builder)
        host = engines.host if engine == "buildroot-vm" else from_source
        engines = images.Engines(engine, host, from_source)
        recipe = dataclasses.replace(recipe, tag="-".join(word for word in (engine, recipe.tag) if word))
    engines.host.prepare()
    return images.make(recipe, _console, engines=engines)


def package_sets(arch: str = X86_64.name, *, offline: bool = False) -> PackageSets:
    """The package sets that the build uses for an architecture, in the project's cache."""
    return PackageSets(Cache(images.CACHE, _console), arch, ALL[arch].debian, offline=offline)


@task(
    help=NEWEST
    | {
        "profile": f"device profile: {', '.join(profiles.names())}, or a .toml file of your own",
        "way": WAY_HELP,
        "test-access": "add root shells for QA (serial port 2, SSH port 2022 of the VM); never ship it",
        "engine": "debian: from packages; buildroot: from source; buildroot-vm: the front-end VM from source",
        "buildroot": _BUILDROOT,
        "offline": _OFFLINE,
        "json": "print the manifest's summary as JSON",
    }
)
@build_task
def image(
    _: Context,
    profile: str = PROFILE,
    way: str = "",
    test_access: bool = False,
    engine: str = "debian",
    buildroot: str = "",
    offline: bool = False,
    json: bool = False,
) -> None:
    """Build the flash image: out/sallyport-<version>-<profile>.img with .bmap, manifest, SBOM and SHA256SUMS."""
    built = build(profile, way, test_access=test_access, engine=engine, buildroot=buildroot, offline=offline)
    manifest = json_module.loads(built.manifest.read_text())
    sizes = {name: f"{size / 2**20:.1f} MiB" for name, size in manifest["sizes"].items()}
    if json:
        print(json_module.dumps({"image": str(built.image), "root_hash": built.root_hash, "sizes": manifest["sizes"]}))
    else:
        _console.print(f"[bold]{shown(built.image)}[/]  root hash {built.root_hash[:16]}…")
        _console.print("  ".join(f"{name.removesuffix('_bytes')} {size}" for name, size in sizes.items()), style="dim")


@task(
    iterable=["profile"],
    help=NEWEST
    | {
        "profile": "device profile, once for each; without it all that the project has",
        "engine": "as of `invoke image`",
        "jobs": "how many at the same time",
        "json": "print the summary as JSON",
    },
)
@build_task
def matrix(_: Context, profile: list[str], engine: str = "debian", jobs: int = 2, json: bool = False) -> None:
    """Build the images of several profiles at the same time, with one summary. Exit code: 1 if one failed."""
    from rootfs import matrix as builds

    names = profile or profiles.names()
    if not 1 <= jobs <= KEEP:
        # The cache keeps so many outputs of a step, and those in use must be among them.
        raise SallyportError(f"--jobs {jobs}: want 1 to {KEEP}", "name a number in that range")
    if len({profiles.load(name).name for name in names}) < len(names):
        raise SallyportError(
            "two of the profiles have the same name", "name each once: images are named by their profiles"
        )
    rows = builds.build(names, ["--engine", engine], jobs, OUT / "matrix", _console)
    if json:
        print(builds.to_json(rows))
    else:
        builds.show(rows, _console)
    sys.exit(0 if all(row.good for row in rows) else 1)


@task(help={})
@report_errors
def lock(_: Context) -> None:
    """Resolve all packages anew and write rootfs/base/packages.lock."""
    sets = newest_packages(Cache(images.CACHE, _console))
    packages.write_lock(sets)
    _console.print(f"{shown(packages.LOCK)}: {sum(len(found) for found in sets.values())} packages")


@task(
    help={
        "buildroot": "a Buildroot release: directory, archive or its address; or $SALLYPORT_BUILDROOT",
        "record": "write rootfs/engines/buildroot/symbols.lock, if every symbol is kept",
    }
)
@report_errors
def symbols(_: Context, buildroot: str = "", record: bool = False) -> None:
    """Check that Buildroot keeps every symbol of both defconfigs. Exit code: 1 if it drops one."""
    from rootfs.engines.buildroot import release, source, symbols

    if not (named := source.named(buildroot)):
        symbols.check_recorded(defconfig.every())
        _console.print(f"as recorded with Buildroot {source.RELEASE}; --buildroot checks them against a tree")
        return
    # A directory may have the long-term release as well; an archive must have the release that is built.
    cache = Cache(images.CACHE, _console)
    tree = release.known(Path(named)) if Path(named).is_dir() else release.provide(named, cache)
    tree.require(*([source.RELEASE] if record else [source.RELEASE, source.BUILT]))
    with _console.status(f"reading the symbols of Buildroot {tree.release}"):
        kconfig = tree.kconfig()
    found = [line for parts in defconfig.every() for line in symbols.lost(kconfig, parts)]
    for line in found:
        _console.print(f"[red]✗[/] {line}", highlight=False, soft_wrap=True)
    if found:
        sys.exit(1)
    if record:
        symbols.record(defconfig.every())
    _console.print(f"Buildroot {tree.release} keeps every symbol of {len(defconfig.every())} defconfigs")


@task(
    positional=["bill", "feed"],
    iterable=["nvd"],
    help={
        "bill": "bill of materials of an image: out/<name>.cdx.json",
        "feed": "the Debian security tracker's JSON file, on this machine",
        "nvd": "data of the National Vulnerability Database for packages built from source: file or directory",
        "minor": "also list vulnerabilities that hardly matter",
        "json": "print all of them as JSON",
    },
)
@report_errors
def vulnerabilities(_: Context, bill: str, feed: str, nvd: list[str], minor: bool = False, json: bool = False) -> None:
    """Compare the packages of an image with known vulnerabilities, offline. Exit code: 0 none, 3 some, 1 wrong use."""
    from rootfs.artifact import nvd as database
    from rootfs.artifact import vulnerabilities as known

    found = known.find(Path(bill), known.read_feed(Path(feed)))
    if nvd:
        found += database.find(Path(bill), database.read(Path(path) for path in nvd))
    if json:
        print(known.to_json(found))
    else:
        known.show(found, _console, all_of_them=minor)
        if others := known.unknown(Path(bill), by_cpe=bool(nvd)):
            _console.print(f"[yellow]not compared[/]: {escape(', '.join(others))}", highlight=False)
            if not nvd:
                _console.print("these were built from source: --nvd compares them", style="dim")
    sys.exit(0 if all(finding.minor for finding in found) else 3)


@task(
    positional=["a", "b"],
    help=NEWEST
    | {
        "a": "an image",
        "b": "another one",
        "json": "print every file that differs as JSON",
    },
)
@build_task
def compare(_: Context, a: str, b: str, json: bool = False) -> None:
    """List the files in which two images differ, and explain it in out/compare. Exit code: 0 same bytes, 3 not."""
    from rootfs.artifact import compare as comparing
    from rootfs.artifact.imagefile import open_image

    sets = package_sets()
    images_ = (open_image(Path(a)), open_image(Path(b)))
    folder = OUT / "compare"
    remove(folder)
    folder.mkdir(parents=True)
    found = comparing.compare(sets.tools, sets.compare, images_, folder)
    if json:
        print(comparing.to_json(found))
    elif not found:
        _console.print("the same bytes")
    else:
        comparing.show(found, _console)
        if (folder / comparing.REPORT).exists():
            _console.print(f"explained in {shown(folder / comparing.REPORT)}")
    sys.exit(3 if found else 0)


_BUILDROOT_HELP = {
    "buildroot": _BUILDROOT,
    "only": f"build only {' or '.join(defconfig.ALL)}",
    "arch": f"architecture: {' or '.join(ALL)}",
}
CCACHE = "SALLYPORT_CCACHE"
"""Environment variable: the directory of ccache(1), instead of one below out/."""
DOWNLOADS = "SALLYPORT_DOWNLOADS"
"""Environment variable: Buildroot's download directory, instead of one below out/."""
TOOLCHAIN = "SALLYPORT_TOOLCHAIN"
"""Environment variable: a file with defconfig lines that select another toolchain than the project's."""


def _require_locked(why: str) -> None:
    """Refuse --newest: other machines must have the same compiler, which the lock file ensures."""
    if packages.newest():
        raise SallyportError(
            f"{why}: machines that compile together need the same compiler, but --newest may give each another one",
            f"do not use --newest (${packages.NEWEST}); `invoke image.lock` records newer packages for all machines",
        )


def _architecture(name: str) -> str:
    if name not in ALL:
        raise SallyportError(f"no architecture {name!r}", f"name one of {', '.join(ALL)}")
    return name


def buildroot_builder(buildroot: str, *, jobs: int = 0, arch: str = X86_64.name, offline: bool = False) -> Any:
    """A `rootfs.engines.buildroot.builder.Builder` for the tree that the user names, with the project's directories."""
    from rootfs.engines.buildroot import distcc, release, sandbox, source
    from rootfs.engines.buildroot.builder import Builder

    if jobs < 0:
        raise SallyportError(f"--jobs {jobs}: not a number of compilers", "want at least 1, or 0 for one per processor")
    _architecture(arch)
    tree = release.provide(source.named(buildroot), Cache(images.CACHE, _console), offline=offline)
    others = distcc.read(os.environ.get(distcc.SETTING, ""))
    if others.nodes:
        _require_locked(distcc.SETTING)
    sets = package_sets(arch, offline=offline)
    require([lambda: sets.sandbox, lambda: sets.prebuilt])
    made = sandbox.prepare(sets, others)
    downloads, ccache = (
        Path(os.environ.get(name) or OUT / "buildroot" / folder)
        for name, folder in ((DOWNLOADS, "dl"), (CCACHE, "ccache"))
    )
    compiler = Path(os.environ[TOOLCHAIN]) if os.environ.get(TOOLCHAIN) else None
    return Builder(tree, OUT / "buildroot", downloads, ccache, jobs or others.jobs, _console, made, ALL[arch], compiler)


@task(
    help=NEWEST
    | _BUILDROOT_HELP
    | {
        "fetch": "first fetch what is in the archives that apt and pip are configured for",
        "mirror": "first fetch what is in this directory or at this address, laid out as Buildroot's primary site",
        "json": "print every file as JSON",
    }
)
@build_task
def sources(
    _: Context,
    buildroot: str = "",
    only: str = "",
    arch: str = X86_64.name,
    fetch: bool = False,
    mirror: str = "",
    json: bool = False,
) -> None:
    """List the source files that a build by Buildroot lacks, before it begins. Exit code: 1 if it lacks some."""
    from rootfs.engines.buildroot import downloads as files

    names = defconfig.chosen(only)
    builder = buildroot_builder(buildroot, arch=arch)
    found = builder.sources(names)
    origins = ([mirror] if mirror else []) + ([""] if fetch else [])
    for origin in origins:
        if bad := [needed for needed in found if not needed.good]:
            from rootfs.engines.buildroot import fetch as fetching

            say = partial(_console.print, "  …", highlight=False)
            fetching.fetch(bad, builder.downloads, say, origin)
            found = builder.sources(names)
    if json:
        print(files.to_json(found))
    else:
        files.show(found, _console)
    sys.exit(0 if all(needed.good for needed in found) else 1)


@task(
    help=NEWEST
    | _BUILDROOT_HELP
    | {
        "again": "a package to build anew from its sources first",
        "jobs": "compilers at the same time for each; 0: as many as processors, those of other machines included",
        "offline": _OFFLINE,
    }
)
@build_task
def buildroot(
    _: Context,
    buildroot: str = "",
    only: str = "",
    arch: str = X86_64.name,
    again: str = "",
    jobs: int = 0,
    offline: bool = False,
) -> None:
    """Build the root file systems by Buildroot, or continue: out/buildroot/<host|frontend>/target."""
    names = defconfig.chosen(only)
    builder = buildroot_builder(buildroot, jobs=jobs, arch=arch, offline=offline)
    for directory in builder.build(names, again=again):
        print(directory / "target")


@task(help=NEWEST | _BUILDROOT_HELP)
@build_task
def legal(_: Context, buildroot: str = "", only: str = "", arch: str = X86_64.name) -> None:
    """Collect licences and sources of a build by Buildroot, to deliver with the image: out/legal/<host|frontend>/."""
    names = defconfig.chosen(only)
    builder = buildroot_builder(buildroot, arch=arch)
    for name in names:
        print(builder.legal(name, OUT / "legal"))


@task(
    help={
        "listen": "address of this machine",
        "allow": "address, or network such as 192.168.1.0/24, whose machines may have files compiled here",
        "port": "TCP port; 0: distcc's own",
        "jobs": "compilers at the same time; 0: as many as processors",
        "arch": _BUILDROOT_HELP["arch"] + " of the compiled files",
    }
)
@report_errors
def node(_: Context, listen: str, allow: str, port: int = 0, jobs: int = 0, arch: str = X86_64.name) -> None:
    """Compile for builds of other machines until Ctrl-C. They name this machine in SALLYPORT_FARM."""
    from rootfs.engines.buildroot import distcc, sandbox

    port, jobs = port or distcc.PORT, jobs or distcc.Farm().jobs
    words = distcc.command(listen, allow, port, jobs)
    _require_locked("image.node")
    made = sandbox.prepare(package_sets(_architecture(arch)))
    _console.print(f"{distcc.SETTING}={listen}:{port}/{jobs}", highlight=False)
    made.serve(words)


collection = Collection("image")
collection.add_task(image, name="build", default=True)
collection.add_task(matrix)
collection.add_task(lock)
collection.add_task(vulnerabilities)
collection.add_task(compare)
collection.add_task(symbols)
collection.add_task(sources)
collection.add_task(buildroot)
collection.add_task(legal)
collection.add_task(node)
