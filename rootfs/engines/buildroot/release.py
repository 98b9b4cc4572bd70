"""Buildroot's release as it is built: whatever way it comes here, its content is what it was when it was proven.

The digest is of the files and not of an archive, so it holds for any archive and for a checkout. Left out are hidden
files at the top, such as ``.git``, and documentation, which only archives have whole, but for what make reads of it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from rootfs.base.cache import Cache, digest_path
from rootfs.base.download import download, is_address
from rootfs.base.errors import CommandError, OfflineError, SallyportError, without_credentials
from rootfs.base.process import powerless, run
from rootfs.base.tools_tree import disown, own
from rootfs.engines.buildroot.source import BUILT, NAMED, RELEASE, Source

CONTENTS = {
    BUILT: "f8485818b82f7040c479f3b8535d44dffdccbc57f876cc58881cdc51ebd26622",
    RELEASE: "943f895497f4bd38c9a3a845d5b66eb18c7513a1570f6a331f7a4f7a661fd3ad",
}
"""Of each release, as `content` says it. A tree's scripts run with our rights: none does before this is known of it."""
_MAX_ARCHIVE = 64 * 2**20
"""Bytes of an archive; the release's has less than 10 MiB."""
_MAX_UNPACKED = 512 * 2**20
"""Bytes of all its files; the release's have less than 100 MiB."""
_MAX_DEPTH = 64
_HEADER = 512
"""Bytes of a tar archive for each file, however small it is (tar(5))."""
UPSTREAM = f"https://buildroot.org/downloads/buildroot-{BUILT}.tar.xz"
"""Where its makers have it. `CONTENTS` was learned from their tag; this archive could not be reached to be tried."""
_COMPRESSED = {b"\xfd7zXZ": "--xz", b"\x1f\x8b": "--gzip", b"BZh": "--bzip2", b"\x28\xb5\x2f\xfd": "--zstd"}
_ANOTHER = f"name a directory, an archive or another address by --buildroot or by ${NAMED}"
_REMEDY = (
    "unpack that release anew; what we change in it is in rootfs/external/overrides.mk and rootfs/external/patches"
)


def content(directory: Path) -> str:
    """Digest of what a tree builds with, compiled Python, which would run in the place of a script, included."""
    tops = [path for path in directory.iterdir() if not path.name.startswith(".") and path.name != "docs"]
    for path in (*tops, directory / "docs"):
        if path.is_symlink():  # what it leads to could be another at any time
            raise SallyportError(f"{path} is a link, which a release has not at its top", _REMEDY)
    parts = sorted([*tops, *(directory / "docs").rglob("*.mk")])
    told = [f"{path.relative_to(directory).as_posix()} {digest_path(path, whole=True)}\n" for path in parts]
    return hashlib.sha256("".join(told).encode()).hexdigest()


def known(directory: Path) -> Source:
    """The tree in a directory, of a release whose content is known.

    Raises:
        SallyportError: it is another release, or not as it was released.
    """
    tree = Source.open(directory)
    tree.require(*CONTENTS)
    return _checked(tree, CONTENTS[tree.release])


def provide(named: str, cache: Cache, wanted: str = CONTENTS[BUILT], *, offline: bool = False) -> Source:
    """The tree of `BUILT`.

    Args:
        named: a directory, which is only read; an archive; or the address of one. Without it, `UPSTREAM`.
        cache: where an archive is unpacked to, once.
        wanted: its content.
        offline: whether one that would have to be downloaded is an error.

    Raises:
        OfflineError: it would.
        SallyportError: it is another release, or not as it was released; or it cannot be had.
    """
    named = named or UPSTREAM
    if Path(named).is_dir():
        return _checked(_built(Path(named)), wanted)
    remote = is_address(named)
    if not remote and not Path(named).is_file():
        raise SallyportError(f"{named}: no such directory or file", f"name a Buildroot {BUILT}")

    def build(output: Path) -> None:
        archive, tree = output / "archive" if remote else Path(named).resolve(), output / "tree"
        if remote and offline:
            raise OfflineError(named)
        if remote:
            download(named, archive, _MAX_ARCHIVE, cache.progress, _ANOTHER)
        tree.mkdir()
        # Whoever made it has nothing to say about owners, or about setuid bits.
        modest = ("--strip-components=1", "--no-same-owner", "--no-same-permissions")
        try:
            packed = _packed(archive)
            _look_into(archive, packed, named)
            own(tree)
            with archive.open("rb") as file:
                run(powerless(["tar", "--extract", packed, "--file=-", *modest]), stdin=file, cwd=tree)
            disown(tree)
        except CommandError as error:
            raise SallyportError(
                f"{named} cannot be unpacked: {error}", f"name an archive of Buildroot {BUILT}"
            ) from error
        _checked(_built(tree), wanted)
        if remote:
            archive.unlink()

    inputs = {"content": wanted, "archive": without_credentials(named) if remote else digest_path(Path(named))}
    return Source.open(cache.step("buildroot", f"Buildroot {BUILT}", inputs, build) / "tree")


def _built(directory: Path) -> Source:
    tree = Source.open(directory)
    tree.require(BUILT)
    return tree


def _checked(tree: Source, wanted: str) -> Source:
    if (owner := tree.directory.stat().st_uid) not in (0, os.geteuid()):
        raise SallyportError(
            f"{tree.directory} belongs to user {owner}, who could change it once it was looked at",
            "copy it, and name the copy",
        )
    if content(tree.directory) != wanted:
        raise SallyportError(f"{tree.directory} says it is Buildroot {tree.release}, and its files are others", _REMEDY)
    return tree


def _packed(archive: Path) -> str:
    """The option of tar(1) for how an archive is compressed: it does not find out what its standard input is."""
    with archive.open("rb") as file:
        begin = file.read(8)
    return next((option for magic, option in _COMPRESSED.items() if begin.startswith(magic)), "--blocking-factor=20")


def _look_into(archive: Path, packed: str, named: str) -> None:
    """Before anything is written: how much there would be, headers and holes of sparse files included."""
    unpacked = 0

    def count(line: str) -> None:
        nonlocal unpacked
        # tar(1): mode, owner, bytes, date, time, name; owners as numbers, as a name may have spaces
        words = line.split(maxsplit=3)
        unpacked += _HEADER + (int(words[2]) if len(words) > 2 and words[2].isdigit() else 0)
        if line.count("/") > _MAX_DEPTH:
            raise SallyportError(f"{named}: has directories more than {_MAX_DEPTH} deep", _ANOTHER)
        if unpacked > _MAX_UNPACKED:
            raise SallyportError(f"{named}: more than {_MAX_UNPACKED >> 20} MiB unpacked", _ANOTHER)

    with archive.open("rb") as file:
        run(powerless(["tar", "--list", packed, "--verbose", "--numeric-owner", "--file=-"]), stdin=file, on_line=count)
