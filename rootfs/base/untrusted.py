"""Reads untrusted files: regular files only, and no more bytes than expected."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from rootfs.base.errors import SallyportError


def open_file(path: Path) -> BinaryIO:
    """Open a regular file to read. Pipes and devices are refused: reading them may never end.

    Raises:
        SallyportError: there is no such file, it cannot be read, or it is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        why = error.strerror if isinstance(error, OSError) else error
        raise SallyportError(f"{path} cannot be read: {why}", "name a file that is there") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SallyportError(f"{path} is not a file", "name a file")
    return os.fdopen(descriptor, "rb")


def read(path: Path, limit: int) -> bytes:
    """Read a whole file of at most ``limit`` bytes.

    Raises:
        SallyportError: as `open_file`, or the file is longer.
    """
    try:
        with open_file(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SallyportError(f"{path} cannot be read: {error.strerror}", "name a file that is whole") from error
    if len(data) > limit:
        raise SallyportError(f"{path} has more than {limit} bytes", "name the right file: this one is too long")
    return data


def sha256(path: Path) -> str:
    """Digest of a whole file, hexadecimal, whatever its size.

    Raises:
        SallyportError: as `open_file`.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def printable(text: str) -> str:
    """Replace by ``?`` each character that XML 1.0 cannot have or that controls a terminal or the text direction."""
    return "".join(c if c in "\n\t" or (c.isprintable() and c not in "\ufffe\uffff") else "?" for c in text)
