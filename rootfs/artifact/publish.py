"""Checksums of finished files, and how they appear in the output directory: whole, read-only, each by one rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from rootfs.base.cache import exclusive_lock

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """Digest of a file of the build's, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(directory: Path) -> None:
    """Write `SUMS` for all files of a directory, as sha256sum(1) reads it."""
    sums = [f"{sha256(path)}  {path.name}" for path in sorted(directory.iterdir())]
    (directory / SUMS).write_text("\n".join(sums) + "\n")


def publish(finished: Path, out: Path) -> None:
    """Put all files of ``finished`` into ``out`` and add their sums to the `SUMS` there.

    They are hard links where that is possible, and read-only, so that nobody changes the cache by them. Sums of files
    that are no longer in ``out`` are dropped.
    """
    for path in sorted(finished.iterdir()):
        if path.name == SUMS:
            continue
        target = out / path.name
        if target.exists() and target.samefile(path):
            continue
        with tempfile.TemporaryDirectory(dir=out, prefix=".publish-") as temporary:
            linked = Path(temporary) / path.name
            path.chmod(0o444)
            try:
                os.link(path, linked)
            except OSError:  # the cache may be on another disk
                shutil.copyfile(path, linked)
                linked.chmod(0o444)
            linked.replace(target)
    with exclusive_lock(out / ".sums.lock"):
        sums = {line.split("  ")[1]: line for line in _lines(out / SUMS)}
        sums = {name: line for name, line in sums.items() if (out / name).exists()}
        sums |= {line.split("  ")[1]: line for line in _lines(finished / SUMS)}
        new = out / f".{SUMS}.new"
        new.write_text("\n".join(sums[key] for key in sorted(sums)) + "\n")
        new.replace(out / SUMS)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
