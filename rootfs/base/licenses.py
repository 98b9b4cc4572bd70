"""The licences of Debian packages, from the copyright file that each must carry (Debian Policy, section 12.5)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from debian.copyright import Copyright, MachineReadableFormatError, NotMachineReadableError

FILE = "licenses.json"
logging.getLogger("debian.copyright").setLevel(logging.ERROR)  # it warns of each malformed header


@dataclass(frozen=True)
class Licenses:
    """Licences in a copyright file: ``names`` as in DEP-5 ("GPL-2+"), or without any, the file's whole ``text``."""

    names: tuple[str, ...] = ()
    text: str = ""


def of_text(text: str) -> Licenses:
    """The licences of all paragraphs of a machine-readable copyright file; the whole text of any other file."""
    try:
        paragraphs = Copyright(text.splitlines(keepends=True), strict=False).all_files_paragraphs()
        said: list[Any] = [paragraph.license for paragraph in paragraphs]
        names = {license.synopsis.strip() for license in said if license is not None}
    except (NotMachineReadableError, MachineReadableFormatError, ValueError, TypeError):
        names = set()
    return Licenses(tuple(sorted(names - {""}))) if names - {""} else Licenses(text=text)


def read(tree: Path, packages: Iterable[str]) -> dict[str, Licenses]:
    """The licences of packages that are unpacked in ``tree``; empty for one without a copyright file."""
    found = {}
    for package in packages:
        try:
            file = tree / "usr/share/doc" / package / "copyright"
            found[package] = of_text(file.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            found[package] = Licenses()
    return found


def save(found: Mapping[str, Licenses], file: Path) -> None:
    """Write what `read` found."""
    file.write_text(json.dumps({package: asdict(licenses) for package, licenses in found.items()}))


def load(file: Path) -> dict[str, Licenses]:
    """What `save` wrote."""
    return {name: Licenses(tuple(f["names"]), f["text"]) for name, f in json.loads(file.read_text()).items()}
