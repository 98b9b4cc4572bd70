"""Small files that are replaced atomically: after a crash or a power cut, a file has its old or its new content.

All functions block; the daemon calls those that touch flash in a `backend.daemon.worker.Worker`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def read(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Never follows a symbolic link at `path`.

    Raises:
        OSError: missing, not readable, not a regular file (EINVAL) or too long (EFBIG).
    """
    # O_NONBLOCK: opening a FIFO that somebody put there must not block.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = bytearray()
        while chunk := os.read(fd, limit + 1 - len(content)):
            content += chunk
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"longer than {limit} bytes", str(path))
        return bytes(content)
    finally:
        os.close(fd)


def replace(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True, group: int | None = None) -> None:
    """Replace the content of the file at `path`, or create it, atomically.

    The order that makes it safe (rename(2), fsync(2)): write a temporary file, fsync it, rename, fsync the folder.

    Args:
        path: The file. Only one writer at a time: the temporary file has a fixed name, so that none is left behind.
        content: The whole new content.
        mode: Permissions, not subject to the umask.
        durable: False if the folder is in memory: no fsync.
        group: Number of the file's group; None: the process's.

    Raises:
        OSError: the file still has its old content.
    """
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            if group is not None:
                os.fchown(fd, -1, group)
            os.fchmod(fd, mode)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were created, renamed or removed in `folder` durable.

    Raises:
        OSError: fsync failed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
