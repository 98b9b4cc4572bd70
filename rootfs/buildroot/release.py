"""Buildroot's release as it is built: whatever way it comes here, its content is what it was when it was proven.

The digest is of the files and not of an archive, so it holds for any archive and for a checkout. Left out are hidden
files at the top, such as ``.git``, and documentation, which only archives have whole, but for what make reads of it.
"""

from __future__ import annotations

import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rootfs.buildroot.source import BUILT, NAMED, Source
from rootfs.errors import CommandError, SallyportError
from rootfs.run import run
from rootfs.steps import Cache, digest_path

CONTENT = "f8485818b82f7040c479f3b8535d44dffdccbc57f876cc58881cdc51ebd26622"
"""Of `BUILT`, as `content` says it."""
_MOST = 64 * 2**20
"""Bytes of an archive; the release's has less than 10 MiB."""
_SECONDS = 60.0
_ANOTHER = "name another address, or a directory"
_REMEDY = f"unpack Buildroot {BUILT} anew; what we change in it is in rootfs/overrides.mk and rootfs/patches"


def content(directory: Path) -> str:
    """Digest of what a tree builds with, compiled Python, which would run in the place of a script, included."""
    tops = [path for path in directory.iterdir() if not path.name.startswith(".") and path.name != "docs"]
    parts = sorted([*tops, *(directory / "docs").rglob("*.mk")])
    told = [f"{path.relative_to(directory).as_posix()} {digest_path(path, whole=True)}\n" for path in parts]
    return hashlib.sha256("".join(told).encode()).hexdigest()


def provide(named: str, cache: Cache, wanted: str = CONTENT) -> Source:
    """The tree of `BUILT`.

    Args:
        named: a directory, which is only read; an archive; or the address of one (http, https).
        cache: where an archive is unpacked to, once.
        wanted: its content.

    Raises:
        SallyportError: it is another release, or not as it was released; or it cannot be had.
    """
    if not named:
        raise SallyportError(
            "no Buildroot tree is named", f"name a directory, an archive or its address by --buildroot or by ${NAMED}"
        )
    if Path(named).is_dir():
        return _checked(Path(named), wanted)
    remote = named.startswith(("https://", "http://"))
    if not remote and not Path(named).is_file():
        raise SallyportError(f"{named}: no such directory or file", f"name a Buildroot {BUILT}")

    def build(output: Path) -> None:
        archive, tree = output / "archive" if remote else Path(named).resolve(), output / "tree"
        if remote:
            _download(named, archive, cache)
        tree.mkdir()
        # Whoever made it has nothing to say about owners, or about setuid bits.
        modest = ("--strip-components=1", "--no-same-owner", "--no-same-permissions")
        try:
            run(["tar", "--extract", "--file", archive, "--directory", tree, *modest])
        except CommandError as error:
            raise SallyportError(
                f"{named} cannot be unpacked: {error}", f"name an archive of Buildroot {BUILT}"
            ) from error
        _checked(tree, wanted)
        if remote:
            archive.unlink()

    inputs = {"content": wanted, "archive": named if remote else digest_path(Path(named))}
    return Source.open(cache.step("buildroot", f"Buildroot {BUILT}", inputs, build) / "tree")


def _checked(directory: Path, wanted: str) -> Source:
    tree = Source.open(directory)
    tree.require(BUILT)
    if content(tree.directory) != wanted:
        raise SallyportError(f"{tree.directory} says it is Buildroot {BUILT}, and its files are others", _REMEDY)
    return tree


def _download(address: str, target: Path, cache: Cache) -> None:
    done = 0
    try:
        with (
            urllib.request.urlopen(address, timeout=_SECONDS) as answer,  # noqa: S310 - the scheme was looked at
            target.open("wb") as file,
        ):
            while part := answer.read(2**18):
                done += len(part)
                if done > _MOST:
                    raise SallyportError(f"{address}: more than {_MOST >> 20} MiB", _ANOTHER)
                file.write(part)
                cache.progress(f"{done / 2**20:.1f} MiB")
    except (OSError, HTTPException) as error:
        raise SallyportError(f"{address}: {error}", _ANOTHER) from error
