"""What must go along with an image: licences, sources, and lists of both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rootfs.base.cache import remove
from rootfs.base.packages import Package
from rootfs.engines.buildroot.output import Output


def collect(output: Output, binaries: Sequence[Package], fetched: Path, target: Path) -> Path:
    """Buildroot's own collection (docs/manual/legal-notice.adoc), and the copyright files of what is prebuilt.

    The sources of that are in Debian's archive.

    Args:
        output: built.
        binaries: Debian's packages that are in it as they are.
        fetched: where they are, as `rootfs.base.packages.fetch` left them.
        target: the directory that gets it; what was there before is replaced.

    Raises:
        SallyportError: a licence is not what its hash says.
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
    """Sources are big, and on the same disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
