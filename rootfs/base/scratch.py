"""Temporary directories that every program can use, and Unix sockets by paths of any length.

The user chooses the place of temporary files by TMPDIR. Programs that split their arguments at spaces or commas, or
that run parts of themselves as another user, fail in some such places without saying why: those are not used.
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
"""Used if the user's place is not plain. The first is on a disk: trees of a gigabyte are made in it."""
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]{1,60}")
_SUN_PATH = 107
"""Bytes of a path in the address of a Unix socket, without the terminating zero (unix(7))."""


def place() -> Path:
    """The directory for temporary files: TMPDIR, unless it is unsuitable, or else /var/tmp or /tmp.

    A path is unsuitable if it has other characters than letters, digits and ``/._+-``, more than 60 characters, or a
    directory on the way that other users may not enter.

    Raises:
        SallyportError: none is suitable.
    """
    for directory in (Path(tempfile.gettempdir()), *_PLACES):
        if _PLAIN.fullmatch(str(directory)) and os.access(directory, os.W_OK | os.X_OK) and _open_to_all(directory):
            return directory
    raise SallyportError(
        f"no place for temporary files: {', '.join(map(str, (tempfile.gettempdir(), *_PLACES)))} are unsuitable",
        "set TMPDIR to a directory with a short and simple path that all users may enter",
    )


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A new directory in `place`, which only its owner may enter; removed at the end of the context."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place()) as directory:
        yield Path(directory)


@contextmanager
def disposable(prefix: str, beside: Path) -> Iterator[Path]:
    """A new directory in ``beside`` for untrusted trees; removed at the end of the context.

    Such trees may be deeper than Python's own functions can follow, so rm(1) removes them.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True)


@contextmanager
def socket_path(path: Path) -> Iterator[str]:
    """A short path by which the Unix socket ``path`` can be bound or connected within the context."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
