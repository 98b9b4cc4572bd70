"""Provides Buildroot's release from a directory, an archive or an address, and checks its content by a known digest.

The digest is of the files and not of an archive, so it is the same for every archive and for a checkout. Left out are
hidden files at the top, such as ``.git``, and documentation that make does not read: only some archives have them.
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
"""The digest of each release, as `content` returns it. A tree's scripts run with our rights, so it is checked before
any of them runs."""
_MAX_ARCHIVE = 64 * 2**20
"""Maximum bytes of an archive; that of the release has less than 10 MiB."""
_MAX_UNPACKED = 512 * 2**20
"""Maximum bytes of all files in an archive; those of the release have less than 100 MiB."""
_MAX_DEPTH = 64
"""Maximum number of directories in a path of an archive."""
_HEADER = 512
"""Bytes that each file takes in a tar archive besides its contents (tar(5))."""
UPSTREAM = f"https://buildroot.org/downloads/buildroot-{BUILT}.tar.xz"
"""The archive of Buildroot's makers. `CONTENTS` was computed from their tag; this archive was not reachable to test."""
_COMPRESSED = {b"\xfd7zXZ": "--xz", b"\x1f\x8b": "--gzip", b"BZh": "--bzip2", b"\x28\xb5\x2f\xfd": "--zstd"}
_ANOTHER = f"name a directory, an archive or another address by --buildroot or by ${NAMED}"
_REMEDY = (
    "unpack that release anew; what we change in it is in rootfs/external/overrides.mk and rootfs/external/patches"
)


def content(directory: Path) -> str:
    """Digest of all files that a tree builds with, including compiled Python, which would run instead of its source.

    Raises:
        SallyportError: a file or directory at the top is a symbolic link.
    """
    tops = [path for path in directory.iterdir() if not path.name.startswith(".") and path.name != "docs"]
    for path in (*tops, directory / "docs"):
        if path.is_symlink():  # its target could change at any time
            raise SallyportError(f"{path} is a symbolic link, and a release has none at its top", _REMEDY)
    parts = sorted([*tops, *(directory / "docs").rglob("*.mk")])
    told = [f"{path.relative_to(directory).as_posix()} {digest_path(path, whole=True)}\n" for path in parts]
    return hashlib.sha256("".join(told).encode()).hexdigest()


def known(directory: Path) -> Source:
    """The tree in a directory, if it is one of the releases in `CONTENTS`, unchanged.

    Raises:
        SallyportError: it is another release, or its files are changed.
    """
    tree = Source.open(directory)
    tree.require(*CONTENTS)
    return _checked(tree, CONTENTS[tree.release])


def provide(named: str, cache: Cache, wanted: str = CONTENTS[BUILT], *, offline: bool = False) -> Source:
    """The tree of `BUILT`.

    Args:
        named: a directory, which is only read; an archive; or the address of one. Empty: `UPSTREAM`.
        cache: where an archive is unpacked, once.
        wanted: digest of the content, as `content` returns it.
        offline: whether a download is an error.

    Raises:
        OfflineError: the archive would have to be downloaded, and ``offline`` was given.
        SallyportError: it is another release, its files are changed, or it cannot be downloaded or unpacked.
    """
    named = named or UPSTREAM
    if Path(named).is_dir():
        return _checked(_built(Path(named)), wanted)
    remote = is_address(named)
    if not remote and not Path(named).is_file():
        raise SallyportError(
            f"{named}: no such directory or file", f"name a directory or an archive of Buildroot {BUILT}"
        )

    def build(output: Path) -> None:
        archive, tree = output / "archive" if remote else Path(named).resolve(), output / "tree"
        if remote and offline:
            raise OfflineError(named)
        if remote:
            download(named, archive, _MAX_ARCHIVE, cache.progress, _ANOTHER)
        tree.mkdir()
        # Owners and setuid bits in the archive are ignored.
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
            f"{tree.directory} belongs to user {owner}, who could change it after it was checked",
            "copy it, and name the copy",
        )
    if content(tree.directory) != wanted:
        raise SallyportError(
            f"{tree.directory}: the files are not those of Buildroot {tree.release}, which its Makefile names", _REMEDY
        )
    return tree


def _packed(archive: Path) -> str:
    """The option of tar(1) for the compression of an archive: tar does not detect it on its standard input."""
    with archive.open("rb") as file:
        begin = file.read(8)
    return next((option for magic, option in _COMPRESSED.items() if begin.startswith(magic)), "--blocking-factor=20")


def _look_into(archive: Path, packed: str, named: str) -> None:
    """Check the size and depth of what an archive contains, before it is unpacked; holes of sparse files count."""
    unpacked = 0

    def count(line: str) -> None:
        nonlocal unpacked
        # tar(1): mode, owner, bytes, date, time, name; owners as numbers, as a name may have spaces
        words = line.split(maxsplit=3)
        unpacked += _HEADER + (int(words[2]) if len(words) > 2 and words[2].isdigit() else 0)
        if line.count("/") > _MAX_DEPTH:
            raise SallyportError(f"{named}: the archive has directories more than {_MAX_DEPTH} deep", _ANOTHER)
        if unpacked > _MAX_UNPACKED:
            raise SallyportError(f"{named}: the archive has more than {_MAX_UNPACKED >> 20} MiB unpacked", _ANOTHER)

    with archive.open("rb") as file:
        run(powerless(["tar", "--list", packed, "--verbose", "--numeric-owner", "--file=-"]), stdin=file, on_line=count)
