"""Collects what must be delivered with an image: licences, sources, and lists of both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rootfs.base.cache import remove
from rootfs.base.packages import Package
from rootfs.engines.buildroot.output import Output


def collect(output: Output, binaries: Sequence[Package], fetched: Path, target: Path) -> Path:
    """Buildroot's own collection (docs/manual/legal-notice.adoc), and the copyright files of prebuilt packages.

    The sources of prebuilt packages are in Debian's archive.

    Args:
        output: a finished build.
        binaries: Debian packages whose files are in it as they are.
        fetched: the set of those packages, as `rootfs.base.packages.fetch` left it.
        target: the directory to make; it is replaced.

    Raises:
        SallyportError: a licence file does not have its declared digest.
    """
    output.make("legal-info")
    work = target.with_name(f".{target.name}")
    remove(work)
    shutil.copytree(output.directory / "legal-info", work, copy_function=_link)
    for package in binaries:
        notice = fetched / "tree/usr/share/doc" / package.name / "copyright"
        (work / "prebuilt" / package.name).mkdir(parents=True)
        shutil.copyfile(notice, work / "prebuilt" / package.name / notice.name)
    remove(target)
    return work.rename(target)


def _link(source: str, target: str) -> None:
    """Make a hard link if possible, as sources are big, or else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
