"""Fetches Debian packages with mmdebstrap(1): a named set becomes a directory tree and a list of its packages.

The lock file (``packages.lock``) names every package of every set with its version and hash, and only these are
accepted. If the archive no longer has one of them, the build stops and names it; `newest` takes the present versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rootfs.base import apt_sources
from rootfs.base.apt_sources import SUITE, Source
from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.process import run
from rootfs.base.scratch import scratch

LOCK = Path(__file__).parent / "packages.lock"
NEWEST = "SALLYPORT_NEWEST"
"""Environment variable: take the archive's present versions, not those of `LOCK`."""
_OTHER_VERSION = re.compile(r"Version '([^']+)' for '([^']+)' was not found")
_NO_PACKAGE = re.compile(r"Unable to locate package (\S+)")
_ORIGIN = ("dev/*", "etc/apt/*", "etc/hostname", "var/lib/apt/*", "var/cache/apt/*", "var/log/*")
"""Files that mmdebstrap leaves about where packages came from and about the build machine: not unpacked."""
_NAMED = 5
"""How many packages a message names; it only counts the others."""


@dataclass(frozen=True, order=True)
class Package:
    """One Debian binary package."""

    name: str
    version: str
    arch: str
    sha256: str
    source: str = field(default="", compare=False)
    """The source package and (below) its version, by which security advisories name it. Not in the lock file."""
    source_version: str = field(default="", compare=False)
    by: str = field(default="debian", compare=False)
    """Who built it: ``debian``, or ``buildroot`` from source."""
    cpe: str = field(default="", compare=False)
    """Its CPE name (NIST IR 7695), for packages that no distribution's advisories cover."""


def read_lock() -> dict[str, list[Package]]:
    """The lock file: set name to its packages.

    Raises:
        SallyportError: a line does not have five words; names file and line.
    """
    sets: dict[str, list[Package]] = {}
    if not LOCK.exists():
        return sets
    for number, line in enumerate(LOCK.read_text().splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 5:
            raise SallyportError(
                f"{LOCK}:{number}: a line must have five words: set, name, version, architecture, SHA-256",
                "run `invoke image.lock`",
            )
        sets.setdefault(words[0], []).append(Package(*words[1:]))
    return sets


def write_lock(sets: dict[str, list[Package]]) -> None:
    """Write the lock file by rename."""
    lines = ["# Made by `invoke image.lock`: set, package, version, architecture, SHA-256 of the .deb."]
    for name in sorted(sets):
        lines += [f"{name} {p.name} {p.version} {p.arch} {p.sha256}" for p in sorted(sets[name])]
    new = LOCK.with_suffix(".new")
    with new.open("w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(LOCK)


def newest() -> bool:
    """Whether `NEWEST` is set in the environment; the option ``--newest`` sets it."""
    return os.environ.get(NEWEST, "") not in ("", "0")


def fetch(
    name: str,
    include: Sequence[str],
    output: Path,
    *,
    arch: str = "amd64",
    newest: bool,
    progress: Callable[[str], None] | None = None,
) -> list[Package]:
    """Make ``output/tree`` from the packages and all they depend on, and ``output/packages.json``.

    No maintainer script runs, and all files belong to the user who builds: what a root file system needs besides
    files is in the overlays.

    Args:
        name: the set, as in the lock file.
        include: names of the packages to ask for; what they depend on is added.
        output: an empty directory; also gets ``files.json``, the files that each package brought.
        arch: Debian's name of the architecture.
        newest: take the archive's present versions, whatever the lock file says.
        progress: is called with each line that mmdebstrap prints.

    Raises:
        SallyportError: mmdebstrap is not installed, the archive no longer has a locked version, or a hash differs.
    """
    if shutil.which("mmdebstrap") is None:
        raise SallyportError("mmdebstrap is not installed", "sudo apt-get install mmdebstrap (`.ci/setup` does it)")
    archive = apt_sources.archive(arch)
    if newest:
        return _mmdebstrap(name, list(include), output, arch, archive, progress)
    lock = read_lock().get(name, [])
    if lacks := sorted(set(include) - {package.name for package in lock}):
        raise SallyportError(f"{LOCK}: set {name!r} lacks {', '.join(lacks)}", "run `invoke image.lock`")
    try:
        packages = _mmdebstrap(name, [f"{p.name}={p.version}" for p in lock], output, arch, archive, progress)
    except CommandError as error:
        gone = [f"{package} {version}" for version, package in _OTHER_VERSION.findall(str(error))]
        gone += _NO_PACKAGE.findall(str(error))
        if not gone:
            raise
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        raise SallyportError(
            f"{LOCK}: the archive no longer has {', '.join(gone[:_NAMED])}{more} (set {name!r})",
            "`--newest` builds with what it has now, `invoke image.lock` records that; or name a snapshot, which keeps "
            f"old versions, in apt's sources (now {apt_sources.told(archive)}{_without_security(archive)})",
        ) from error
    return _check(name, packages, lock)


def _without_security(archive: Sequence[Source]) -> str:
    there = any(source.suite == f"{SUITE}-security" for source in archive)
    return "" if there else f", and none of {SUITE}-security"


def _mmdebstrap(
    name: str,
    include: Sequence[str],
    output: Path,
    arch: str,
    archive: Sequence[Source],
    progress: Callable[[str], None] | None,
) -> list[Package]:
    with scratch(f"sallyport-{name}-") as work:
        # mmdebstrap's hooks run under another user id when we are not root: the directory must let it in.
        work.chmod(0o755)
        debs, tar, tree, listed = work / "debs", work / "tree.tar", output / "tree", work / "debian.sources"
        debs.mkdir()
        tree.mkdir()
        # In files: the address of a mirror or proxy may have a password, and every user can see command lines.
        settings = work / "settings"
        for file, text in (
            (listed, "\n".join(source.stanza() for source in archive)),
            (settings, apt_sources.settings()),
        ):
            file.touch(mode=0o600)
            file.write_text(text)
        argv = [
            "mmdebstrap",
            "--variant=extract",
            "--format=tar",
            f"--architectures={arch}",
            f"--include={','.join(include)}",
        ]
        argv += [
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            f"--aptopt={settings}",
        ]
        argv += [f"--extract-hook=copy-out /var/cache/apt/archives {debs}", SUITE, str(tar), str(listed)]
        try:
            run(argv, on_line=progress, env={"TMPDIR": str(work)})
        except CommandError as error:
            raise type(error)(str(error), error.hint or f"apt's sources gave: {apt_sources.told(archive)}") from error
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
        # tar(1) and not tarfile: it turns device nodes and unusual modes into plain files of the user who builds.
        left_out = [f"--exclude=./{path}" for path in _ORIGIN]
        run(["tar", "-C", tree, "-xf", tar, "--no-same-owner", "--no-same-permissions", *left_out])
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
                f"{LOCK}: set {name!r}: {package.name} {package.version} ({package.sha256[:12]}) is not as locked",
                "the archive serves other bytes than when the lock was made; if that is right, run `invoke image.lock`",
            )
    return packages


def load(output: Path) -> list[Package]:
    """The packages that `fetch` put into ``output``."""
    return [Package(**fields) for fields in json.loads((output / "packages.json").read_text())]


def differences(packages: Sequence[Package], lock: Sequence[Package]) -> list[str]:
    """Packages whose version differs from the locked one, or that only one side has: ``name locked -> present``."""
    now, then = ({package.name: package.version for package in one} for one in (packages, lock))
    return [
        f"{name} {then.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
