"""Fetches packages with mmdebstrap: a named set of packages becomes a directory tree and a list of what is in it.

The lock file (``packages.lock``) names every package of every set with version and hash. While the archive still has
those versions they are what is built; when it has moved on the build says so and goes on with what there is, unless
``locked`` asks for the very same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rootfs.errors import CommandError, SallyportError
from rootfs.run import run

LOCK = Path(__file__).parent / "packages.lock"
SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, order=True)
class Package:
    """One Debian binary package."""

    name: str
    version: str
    arch: str
    sha256: str
    source: str = field(default="", compare=False)
    """The source package, and its version: security advisories speak of these. The lock file does not name them."""
    source_version: str = field(default="", compare=False)
    by: str = field(default="debian", compare=False)
    """Who made it: the distribution, or `buildroot` from source."""
    cpe: str = field(default="", compare=False)
    """What advisories call it, where no distribution's do (NIST IR 7695)."""


def read_lock() -> dict[str, list[Package]]:
    """The lock file: set name to its packages.

    Raises:
        SallyportError: a line has not five words.
    """
    sets: dict[str, list[Package]] = {}
    if not LOCK.exists():
        return sets
    for number, line in enumerate(LOCK.read_text().splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 5:
            raise SallyportError(f"{LOCK}:{number}: want: set name version arch sha256", "run `invoke image.lock`")
        sets.setdefault(words[0], []).append(Package(*words[1:]))
    return sets


def write_lock(sets: dict[str, list[Package]]) -> None:
    """Write the lock file by rename."""
    lines = ["# Made by `invoke image.lock`: set, package, version, architecture, SHA-256 of the .deb."]
    for name in sorted(sets):
        lines += [f"{name} {p.name} {p.version} {p.arch} {p.sha256}" for p in sorted(sets[name])]
    new = LOCK.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.rename(LOCK)


def archive() -> list[str]:
    """Sources of the suite, derived from where this machine's own apt gets Debian.

    Raises:
        SallyportError: apt knows no Debian archive.
    """
    found = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Created-By: Packages"]
    )
    lines = []
    for line in found.splitlines():
        words = line.split(maxsplit=3)
        # By origin: a browser's archive has a suite `stable` with a component `main`, too.
        if words[2:] != ["main", "Debian"]:
            continue
        if match := re.fullmatch(r"(bookworm|trixie|forky|stable|testing)(|-updates|-security)", words[1]):
            lines.append(f"deb [signed-by={KEYRING}] {words[0]} {SUITE}{match.group(2)} main")
    if not lines:
        raise SallyportError(
            "apt on this machine has no Debian archive among its sources",
            "the engine wants Debian 12 or 13 with component main in /etc/apt/sources.list(.d); run `apt-get update`",
        )
    return list(dict.fromkeys(lines))


def fetch(
    name: str,
    include: Sequence[str],
    output: Path,
    *,
    arch: str = "amd64",
    locked: bool,
    say: Callable[[str], None],
    progress: Callable[[str], None] | None = None,
) -> list[Package]:
    """Make ``output/tree`` from the packages and all they depend on, and ``output/packages.json``.

    No maintainer script runs and nobody owns a file: what a root file system needs beyond files is in the overlays.

    Args:
        name: the set, as in the lock file.
        include: packages to ask for.
        output: an empty directory.
        arch: Debian's name of the architecture.
        locked: fail rather than build with other versions than the lock's.
        say: gets a sentence when the archive no longer has the locked versions.
        progress: gets mmdebstrap's own words as it goes on.

    Raises:
        SallyportError: mmdebstrap is missing, or locked versions cannot be had, or a hash differs.
    """
    if shutil.which("mmdebstrap") is None:
        raise SallyportError("mmdebstrap is not installed", "sudo apt-get install mmdebstrap (`.ci/setup` does it)")
    lock = read_lock().get(name, [])
    if lock:
        try:
            packages = _mmdebstrap(name, [f"{p.name}={p.version}" for p in lock], output, arch, progress)
            return _check(name, packages, lock)
        except CommandError as error:
            gone = re.findall(r"Version '([^']+)' for '([^']+)' was not found", str(error))
            if not gone:
                raise
            if locked:
                some = ", ".join(f"{package} {version}" for version, package in gone[:5])
                raise SallyportError(
                    f"{LOCK}: the archive no longer has {some}",
                    "name a mirror that keeps old versions in apt's sources, or `invoke image.lock` for new ones",
                ) from error
            say(
                f"the archive has moved on since {LOCK.name} was made ({len(gone)} packages of set {name!r}): "
                "building with its present versions; `--locked` forbids that, `invoke image.lock` records them"
            )
            for leftover in output.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    elif locked:
        raise SallyportError(f"{LOCK} has no packages for {name!r}", "run `invoke image.lock` and commit the file")
    return _mmdebstrap(name, list(include), output, arch, progress)


def _mmdebstrap(
    name: str, include: Sequence[str], output: Path, arch: str, progress: Callable[[str], None] | None
) -> list[Package]:
    # mmdebstrap's hooks run under another user id when we are not root: the directory must let it in.
    with tempfile.TemporaryDirectory(prefix=f"sallyport-{name}-") as temporary:
        work = Path(temporary)
        work.chmod(0o755)
        debs, tar, tree = work / "debs", work / "tree.tar", output / "tree"
        debs.mkdir(mode=0o777)
        tree.mkdir()
        argv = [
            "mmdebstrap",
            "--variant=extract",
            "--format=tar",
            f"--architectures={arch}",
            f"--include={','.join(include)}",
        ]
        argv += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
        argv += [f"--extract-hook=copy-out /var/cache/apt/archives {debs}", SUITE, str(tar), *archive()]
        run(argv, on_line=progress)
        packages = []
        files: dict[str, list[str]] = {}
        for deb in sorted(debs.rglob("*.deb")):
            fields = run(["dpkg-deb", "--field", deb, "Package", "Version", "Architecture", "Source"])
            value = dict(line.split(": ", 1) for line in fields.splitlines())
            digest = hashlib.sha256(deb.read_bytes()).hexdigest()
            source = origin(value["Package"], value["Version"], value.get("Source", ""))
            packages.append(Package(value["Package"], value["Version"], value["Architecture"], digest, *source))
            listing = run(["dpkg-deb", "--contents", deb])
            names = [line.split(None, 5)[5].split(" -> ")[0].split(" link to ")[0] for line in listing.splitlines()]
            files[value["Package"]] = [n.removeprefix("./") for n in names if not n.endswith("/")]
        # tar and not tarfile: a tree of device nodes and odd modes becomes plain files that we own.
        run(["tar", "-C", tree, "-xf", tar, "--no-same-owner", "--no-same-permissions", "--exclude=./dev/*"])
    (output / "packages.json").write_text(json.dumps([asdict(package) for package in packages]))
    (output / "files.json").write_text(json.dumps(files))
    return packages


def origin(package: str, version: str, source: str) -> tuple[str, str]:
    """The source package of a binary one and its version, from the binary's fields (Debian Policy, section 5.6.1)."""
    match = re.fullmatch(r"(?P<name>\S+)(?: \((?P<version>\S+)\))?", source)
    return (match["name"], match["version"] or version) if match else (package, version)


def _check(name: str, packages: list[Package], lock: list[Package]) -> list[Package]:
    wanted = {package.name: package for package in lock}
    for package in packages:
        if wanted.pop(package.name, None) != package:
            raise SallyportError(
                f"{LOCK}: set {name!r}: {package.name} {package.version} ({package.sha256[:12]}) is not what is locked",
                "the archive served other bytes than when the lock was made; `invoke image.lock` if that is right",
            )
    return packages


def load(output: Path) -> list[Package]:
    """The packages that `fetch` put into ``output``."""
    return [Package(**fields) for fields in json.loads((output / "packages.json").read_text())]
