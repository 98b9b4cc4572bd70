"""Chooses the files of a fetched tree that go into an image: by declared globs, plus the shared libraries they need."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from rootfs.base.errors import SallyportError
from rootfs.base.file_tree import files
from rootfs.spec.architecture import X86_64, Arch

_LIBRARY_DIRECTORIES = (
    "usr/lib/{triplet}",
    "usr/lib64",
    "usr/lib/{triplet}/systemd",  # RUNPATH of systemd's own programs
)


def needed(file: Path) -> list[str]:
    """Names of the shared libraries that an ELF file needs (DT_NEEDED, elf(5)); none for any other file."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return []
        try:
            dynamic = ELFFile(stream).get_section_by_name(".dynamic")
        except ELFError as error:
            raise SallyportError(f"{file}: broken ELF file: {error}", "fetch the package again") from error
        if not isinstance(dynamic, DynamicSection):
            return []
        return [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]


def choose(
    tree: Path, keep: Sequence[str], where: str, arch: Arch = X86_64, may_exclude_nothing: bool = False
) -> list[str]:
    """The relative paths to keep, including the targets of links and all needed libraries.

    Args:
        tree: the fetched tree.
        keep: globs; a leading ``!`` takes out again; the last match wins.
        where: the file that declares the globs, for messages.
        arch: what the tree is for.
        may_exclude_nothing: whether a glob that takes out may match nothing: the tree was made without such files.

    Raises:
        SallyportError: a glob matches nothing, or a needed library is not in the tree.
    """
    rules = [(not glob.startswith("!"), glob.removeprefix("!"), glob) for glob in keep]
    matchers = [(take, re.compile(fnmatch.translate(pattern)), glob) for take, pattern, glob in rules]
    present = list(files(tree))
    used: set[str] = set()
    chosen: set[str] = set()
    for path in present:
        verdict = False
        for take, matcher, glob in matchers:
            if matcher.match(path):
                verdict = take
                used.add(glob)
        if verdict:
            chosen.add(path)
    if useless := [glob for take, _, glob in rules if glob not in used and (take or not may_exclude_nothing)]:
        raise SallyportError(
            f"{where}: nothing matches {', '.join(sorted(useless))}", "remove the glob or correct its path"
        )
    queue = sorted(chosen)
    everything = set(present)
    directories = [arch.spell(directory) for directory in _LIBRARY_DIRECTORIES]
    while queue:
        path = queue.pop()
        file = tree / path
        more = (
            [_link_target(tree, path)]
            if file.is_symlink()
            else [_library(name, directories, everything) for name in needed(file)]
        )
        for name, found in zip([os.readlink(file)] if file.is_symlink() else needed(file), more, strict=True):
            if found is not None and file.is_symlink() and (tree / found).is_dir():
                continue  # a directory: the globs choose what is kept of it
            if found is None or found not in everything:
                raise SallyportError(
                    f"{where}: {path} needs {name}, which no package of the set has", "add the package that has it"
                )
            if found not in chosen:
                chosen.add(found)
                queue.append(found)
    return sorted(chosen)


def _link_target(tree: Path, path: str) -> str:
    link = os.readlink(tree / path)
    base = PurePosixPath("/") if link.startswith("/") else PurePosixPath("/") / PurePosixPath(path).parent
    return os.path.normpath(base / link).lstrip("/")


def _library(name: str, directories: Sequence[str], everything: set[str]) -> str | None:
    return next((f"{d}/{name}" for d in directories if f"{d}/{name}" in everything), None)


def copy(tree: Path, chosen: Sequence[str], destination: Path) -> None:
    """Copy the chosen files, with mode 0755 if they are executable and 0644 if not: no setuid bits."""
    for path in chosen:
        source, target = tree / path, destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            shutil.copyfile(source, target)
            target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
