"""A tree and its entries: read by descriptors from its root, nothing followed, everything bounded."""

from __future__ import annotations

import fnmatch
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rootfs.base.process import FIRST_ID
from rootfs.spec.profile import Forwarder

MAX_ENTRIES = 50_000
MAX_DEPTH = 64
MAX_TEXT = 1 << 20
"""Bytes of a file that is read as text."""
MAX_FILE = 1 << 28
"""Bytes of a file that is searched."""


class TreeError(Exception):
    """A tree or a file in it cannot be read, or is not of the expected kind."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of any type, by lstat(2); ``target`` of a symbolic link."""

    path: str
    mode: int
    uid: int
    gid: int
    size: int
    target: str = ""

    def __str__(self) -> str:
        return f"{self.path!r} ({stat.filemode(self.mode)} {self.uid}:{self.gid})"


def _inner(number: int) -> int:
    """Return a user or group id as it is in the image.

    The image was unpacked in a user namespace whose root is `FIRST_ID` here. Smaller ids are those of planted files,
    which were made outside of that namespace.
    """
    return number - FIRST_ID if number >= FIRST_ID else number


class Tree:
    """A root file system below ``root``; nothing outside of it is read."""

    def __init__(self, root: Path, *, test_access: bool = False) -> None:
        self.root, self.test_access = root, test_access

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All entries of the tree, sorted by path.

        Raises:
            TreeError: there are too many entries, they are nested too deep, or they cannot be read.
        """
        found: list[Entry] = []
        try:
            for path, folders, files, descriptor in os.fwalk(self.root, follow_symlinks=False):
                here = os.path.relpath(path, self.root)
                if here.count("/") > MAX_DEPTH or len(found) > MAX_ENTRIES:
                    raise TreeError(f"{self.root}: more than {MAX_ENTRIES} files, or deeper than {MAX_DEPTH}")
                for name in (*folders, *files):
                    at = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    target = os.readlink(name, dir_fd=descriptor) if stat.S_ISLNK(at.st_mode) else ""
                    full = name if here == "." else f"{here}/{name}"
                    found.append(Entry(full, at.st_mode, _inner(at.st_uid), _inner(at.st_gid), at.st_size, target))
        except OSError as error:
            raise TreeError(f"{self.root}: {error}") from error
        return tuple(sorted(found, key=lambda entry: entry.path))

    @cached_property
    def by_path(self) -> Mapping[str, Entry]:
        """The entries by their path."""
        return {entry.path: entry for entry in self.entries}

    def files(self) -> Iterator[Entry]:
        """Return the regular files."""
        return (entry for entry in self.entries if stat.S_ISREG(entry.mode))

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes:
        """Return the content of a regular file.

        Raises:
            TreeError: it is no regular file, is longer than ``limit`` bytes, or a part of its path is a symbolic link.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        *folders, name = parts = path.split("/")
        if {"", ".", ".."} & {*parts}:
            raise TreeError(f"{path!r} is no path below the root")
        at = -1
        try:
            at = os.open(self.root, flags | os.O_DIRECTORY)
            for folder in folders:
                at, above = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at), at
                os.close(above)
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise TreeError(f"{path!r} is no regular file")
            with os.fdopen(os.open(name, flags, dir_fd=at), "rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError) as error:
            raise TreeError(f"{path!r} cannot be read: {error}") from error
        finally:
            if at >= 0:
                os.close(at)
        if len(data) > limit:
            raise TreeError(f"{path!r} is longer than {limit} bytes")
        return data

    def text(self, path: str) -> str:
        """Return the content of a text file, with bytes replaced that are not UTF-8. See `read`."""
        return self.read(path).decode(errors="replace")

    def capability(self, entry: Entry) -> bool:
        """Whether a file has capabilities (capabilities(7), xattr(7)).

        Raises:
            TreeError: that cannot be asked.
        """
        try:
            return "security.capability" in os.listxattr(self.root / entry.path, follow_symlinks=False)
        except OSError as error:
            raise TreeError(f"{entry.path!r}: {error}") from error


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches one of the globs (fnmatch(3) without FNM_PATHNAME)."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def forwarder(tree: Tree) -> Forwarder:
    """Return the forwarder's settings in an image: the datapath, and which frames may pass.

    Raises:
        TreeError: they are missing, or no device profile may have them.
    """
    try:
        said = json.loads(tree.read("etc/sallyport/port.json"))
        limits = {
            name: {
                "rate": said[name]["all"]["rate"],
                "burst": said[name]["all"]["burst"],
                "group_rate": said[name]["group"]["rate"],
                "group_burst": said[name]["group"]["burst"],
            }
            for name in ("from_port", "from_vm")
        }
        same = {name: said[name] for name in ("port", "vm", "ethertypes", "tags", "max_frame")}
        return Forwarder.model_validate(same | limits)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TreeError(f"etc/sallyport/port.json: {error}") from error


def way(tree: Tree) -> tuple[str, str]:
    """Return the datapath in an image's settings: (port, vm).

    Raises:
        TreeError: see `forwarder`.
    """
    said = forwarder(tree)
    return said.port, said.vm
