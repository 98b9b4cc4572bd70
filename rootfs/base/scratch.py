"""Temporary directories that every program can use, and sockets by paths of any length.

Where temporary files go, the user says by TMPDIR, and a path may have anything in it. Programs that split their
arguments, or that run parts of themselves as another user, fail in such a place with words that do not tell why.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rootfs.base.errors import SallyportError

_PLACES = (Path("/var/tmp"), Path("/tmp"))  # noqa: S108 - the fallback; names in it are made by mkdtemp(3)
"""In the place of one that is not plain. The first is on a disk: trees of a gigabyte are made here."""
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]{1,60}")
_SUN_PATH = 107
"""Bytes of a path in the address of a unix socket, without the zero at its end (unix(7))."""


def place() -> Path:
    """Where temporary files go: what the user says, or else a usual place.

    It is not what the user says if the path has other characters than letters, digits and ``/._+-``, is longer than 60
    of them, or leads through a directory that others may not enter.

    Raises:
        SallyportError: there is none.
    """
    for directory in (Path(tempfile.gettempdir()), *_PLACES):
        if _PLAIN.fullmatch(str(directory)) and os.access(directory, os.W_OK | os.X_OK) and _open_to_all(directory):
            return directory
    raise SallyportError(
        f"no place for temporary files: neither {tempfile.gettempdir()} nor {' nor '.join(map(str, _PLACES))} will do",
        "name a directory with a short and simple path, open to all users, by TMPDIR",
    )


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A new directory in `place` for the time of the context, its owner's alone."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place()) as directory:
        yield Path(directory)


@contextmanager
def disposable(prefix: str, beside: Path) -> Iterator[Path]:
    """A new directory in another one for the time of the context, where trees of somebody's are unpacked.

    They may be deeper than Python's own functions can follow, so rm(1) removes them.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True)


@contextmanager
def socket_path(path: Path) -> Iterator[str]:
    """A path by which the unix socket ``path`` can be bound or connected within the context, however long it is."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
