"""The files that a build is made of: which are there, which are missing, which are not what their hash says.

Buildroot finds out about a missing file when it comes to the package, half an hour into the build; without a network
that is where the build ends. Here all of them are looked at before anything is built, in the package's folder of the
download directory and flat in it (support/download/dl-wrapper and package/pkg-download.mk).
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rootfs.base.errors import SallyportError
from rootfs.engines.buildroot.output import Package
from rootfs.engines.buildroot.source import EXTERNAL

_ALGORITHMS = frozenset({"md5", "sha1", "sha224", "sha256", "sha384", "sha512"})
"""Those of Buildroot's hash files (docs/manual/adding-packages-directory.adoc)."""
_STRONG = ("sha256", "sha384", "sha512")


class State(enum.StrEnum):
    """State of a source file."""

    THERE = "there"
    MISSING = "missing"
    DIFFERS = "differs"
    """Its digest is not the declared one."""
    UNHASHED = "no hash"
    """It is there, but no digest is declared for it."""


@dataclass(frozen=True)
class Needed:
    """One source file. ``where`` is the file found, or the path in the download directory where it is expected."""

    packages: tuple[str, ...]
    folder: str
    """Below the download directory."""
    file: str
    state: State
    where: Path
    hashes: tuple[tuple[str, str], ...]
    """Algorithm and hexadecimal digest."""

    @property
    def good(self) -> bool:
        """Whether a build may use it: our defconfigs demand declared digests (BR2_DOWNLOAD_FORCE_CHECK_HASHES)."""
        return self.state is State.THERE

    def sha256(self) -> str:
        """SHA-256 of the file found, hexadecimal."""
        with self.where.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def look(packages: Iterable[Package], tree: Path, downloads: Path) -> list[Needed]:
    """The state of each file that the packages need, each once, sorted by folder and name.

    Args:
        packages: the packages of the build.
        tree: Buildroot's source tree, which has the hash files.
        downloads: Buildroot's download directory (BR2_DL_DIR).

    Raises:
        SallyportError: a hash file cannot be read; names file and line.
    """
    users: dict[tuple[str, str], list[Package]] = {}
    for package in packages:
        for download in package.downloads if not package.overridden else ():
            users.setdefault((package.dl_dir, download.source), []).append(package)
    found = []
    for (folder, file), makers in sorted(users.items()):
        places = [downloads / folder / file, downloads / file]
        hashes = _hashes(makers, tree, file)
        names = tuple(sorted({package.name for package in makers}))
        # Buildroot deletes a file with another digest, and tries the next place.
        states = {place: state(place, hashes) for place in places if place.is_file()}
        where = next((place for place, state in states.items() if state is not State.DIFFERS), None)
        where = where or next(iter(states), places[0])
        found.append(Needed(names, folder, file, states.get(where, State.MISSING), where, hashes))
    return found


def state(where: Path, hashes: Iterable[tuple[str, str]]) -> State:
    """The state of a file that is there: all declared digests must be right, and one of them must be strong."""
    wanted = dict(hashes)
    for algorithm, digest in wanted.items():
        with where.open("rb") as stream:
            if hashlib.file_digest(stream, algorithm).hexdigest() != digest.lower():
                return State.DIFFERS
    return State.THERE if any(algorithm in wanted for algorithm in _STRONG) else State.UNHASHED


def _hashes(makers: Iterable[Package], tree: Path, file: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for path in sorted({path for package in makers for path in _hash_files(package, tree)}):
        found |= read_hashes(path).get(file, {})
    return tuple(sorted(found.items()))


def _hash_files(package: Package, tree: Path) -> list[Path]:
    """The hash files that Buildroot reads (package/pkg-download.mk): the package's, then BR2_GLOBAL_PATCH_DIR's."""
    place = Path(package.package_dir)
    # An absolute path is in our external tree as the build sandbox sees it.
    own = EXTERNAL / "package" / place.name if place.is_absolute() else tree / place
    places = [place for place in (own, EXTERNAL / "patches" / place.name) if package.package_dir]
    name = f"{place.name}.hash"
    return [path for place in places for path in (place / name, place / package.version / name) if path.is_file()]


def read_hashes(path: Path) -> dict[str, dict[str, str]]:
    """The digests in a package's hash file: file name to algorithm to hexadecimal digest.

    Raises:
        SallyportError: the file cannot be read, or a line is malformed; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SallyportError(f"{path}: {error}", "use an unchanged release of Buildroot") from error
    hashes: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[0] not in _ALGORITHMS:
            raise SallyportError(
                f"{path}:{number}: not a line of a hash file: {line!r}", "write: sha256, the digest, the file's name"
            )
        hashes.setdefault(words[2], {})[words[0]] = words[1]
    return hashes


def show(found: Sequence[Needed], console: Console) -> None:
    """Print the files that a build cannot use, by their path below the download directory, and how many there are."""
    bad = [needed for needed in found if not needed.good]
    if bad:
        table = Table(box=SIMPLE, padding=0, pad_edge=False)
        for column in ("file", "state"):
            table.add_column(column, no_wrap=True)
        table.add_column("needed by", overflow="fold")
        for needed in bad:
            # A package for the build machine (host-...) has the same source as that for the image.
            users = dict.fromkeys(name.removeprefix("host-") for name in needed.packages)
            table.add_row(f"{needed.folder}/{needed.file}", needed.state, ", ".join(users))
        console.print(table)
    counts = Counter(needed.state for needed in found)
    console.print(", ".join(f"{counts[state]} {state}" for state in State if counts[state]) or "nothing is needed")


def to_json(found: Sequence[Needed]) -> str:
    """All files as JSON."""
    rows = [
        {
            "file": needed.file,
            "packages": needed.packages,
            "state": needed.state,
            "where": str(needed.where),
            "hashes": dict(needed.hashes),
        }
        for needed in found
    ]
    return json.dumps(rows, indent=1)
