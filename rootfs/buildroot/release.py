"""Buildroot's release as it is built: whatever way it comes here, its content is what it was when it was proven.

The digest is of the files and not of an archive, so it holds for any archive and for a checkout. Documentation is left
out, which only archives of releases have whole, and so are hidden files at the top, such as ``.git``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rootfs.buildroot.source import BUILT, NAMED, Source
from rootfs.errors import SallyportError
from rootfs.run import run
from rootfs.steps import Cache

CONTENT = "119b30c7d8fd5f006095a99d866790cfdcbabcab501be3ee21094d646ea2e07c"
"""Of `BUILT`, as `content` says it."""
_MOST = 64 * 2**20
"""Bytes of an archive; the release's has less than 10 MiB."""
_SECONDS = 60.0
_ANOTHER = "name another address, or a directory"
_REMEDY = f"unpack Buildroot {BUILT} anew; what we change in it is in rootfs/overrides.mk and rootfs/patches"


def content(directory: Path) -> str:
    """Digest of what a tree builds with: names, modes, links and contents. Nothing is left out below the top.

    Compiled Python would run in the place of the script beside it, so it is in it, too.
    """
    digest = hashlib.sha256()
    tops = [path for path in directory.iterdir() if not path.name.startswith(".") and path.name != "docs"]
    for path in sorted(path for top in tops for path in (top, *top.rglob("*"))):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            digest.update(f"l {name}\0{os.readlink(path)}\0".encode())
        elif path.is_file():
            inside = path.read_bytes()
            mode = "x" if path.stat().st_mode & stat.S_IXUSR else "-"
            digest.update(f"{mode} {name}\0{len(inside)}\0".encode() + inside)
    return digest.hexdigest()


def provide(named: str, cache: Cache, wanted: str = CONTENT) -> Source:
    """The tree of `BUILT`.

    Args:
        named: a directory, which is only read; an archive; or the address of one (http, https). Empty is what was
            unpacked here before.
        cache: where an archive is unpacked to.
        wanted: its content.

    Raises:
        SallyportError: it is another release, or not as it was released; or it cannot be had.
    """
    if named and Path(named).is_dir():
        return _checked(Path(named), wanted)

    def build(output: Path) -> None:
        if not named:
            raise SallyportError(
                "no Buildroot tree is named",
                f"name a directory, an archive or its address by --buildroot or by ${NAMED}",
            )
        archive = output / "archive"
        if named.startswith(("https://", "http://")):
            _download(named, archive, cache)
        elif Path(named).is_file():
            archive = Path(named).resolve()
        else:
            raise SallyportError(f"{named}: no such directory or file", f"name a Buildroot {BUILT}")
        tree = output / "tree"
        tree.mkdir()
        run(["tar", "--extract", "--file", archive, "--directory", tree, "--strip-components=1", "--no-same-owner"])
        _checked(tree, wanted)
        (output / "archive").unlink(missing_ok=True)

    return Source.open(cache.step("buildroot", f"Buildroot {BUILT}", {"content": wanted}, build) / "tree")


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
