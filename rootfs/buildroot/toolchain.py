"""The external toolchain: Debian's GCC and binutils, moved, and a sysroot with nothing in it but the C library.

Buildroot refuses a distribution's own compiler, and rightly: it would find every library of the machine. GCC looks for
its parts relative to where it stands, so the same files in a directory of their own find no library but a sysroot's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

TRIPLET = "x86_64-linux-gnu"
GCC = "14"
PLACE = Path("/opt/toolchain")
"""Where it is seen during a build."""
SETTINGS = {
    "BR2_TOOLCHAIN_EXTERNAL": "y",
    "BR2_TOOLCHAIN_EXTERNAL_CUSTOM": "y",
    "BR2_TOOLCHAIN_EXTERNAL_PREINSTALLED": "y",
    "BR2_TOOLCHAIN_EXTERNAL_PATH": f'"{PLACE}"',
    "BR2_TOOLCHAIN_EXTERNAL_CUSTOM_PREFIX": f'"{TRIPLET}"',
    f"BR2_TOOLCHAIN_EXTERNAL_GCC_{GCC}": "y",
    "BR2_TOOLCHAIN_EXTERNAL_HEADERS_6_12": "y",
    "BR2_TOOLCHAIN_EXTERNAL_CUSTOM_GLIBC": "y",
    "BR2_TOOLCHAIN_EXTERNAL_CXX": "y",
    "BR2_TOOLCHAIN_EXTERNAL_INET_RPC": "n",
}
"""How a defconfig names it."""
_COMPILER = (f"gcc-{GCC}-x86-64-linux-gnu", f"g++-{GCC}-x86-64-linux-gnu", f"cpp-{GCC}-x86-64-linux-gnu")
_SUPPORT = (f"libgcc-{GCC}-dev", f"libstdc++-{GCC}-dev", "binutils-x86-64-linux-gnu")
_HEADERS = ("libc6-dev", "linux-libc-dev")
_LIBRARIES = ("libc6", "libc6-dev", "libgcc-s1", "libstdc++6")
_DRIVERS = {"gcc": f"gcc-{GCC}", "cc": f"gcc-{GCC}", "g++": f"g++-{GCC}", "c++": f"g++-{GCC}", "cpp": f"cpp-{GCC}"}
_PLUGGED = ("gcc-ar", "gcc-nm", "gcc-ranlib")
_OWN = rf"usr/(bin|lib/gcc|libexec/gcc|include/c\+\+|include/{TRIPLET}/c\+\+)/(?!.*/libgomp)"
"""Without OpenMP: nothing here wants it, and Buildroot insists that what a toolchain can do is declared."""
_DIRECTORIES = re.compile(rf"(?:/usr)?/lib(?:64)?(?:/{TRIPLET})?/(?=lib|ld-)")
"""In the linker scripts libc.so and libm.so: they hold for the machine that they were made for."""


def assemble(fetched: Path, output: Path) -> None:
    """Make the toolchain out of a fetched set of packages (``tree`` and ``files.json``).

    Args:
        fetched: what `rootfs.debian.packages.fetch` made.
        output: an empty directory; `PLACE` during a build.
    """
    tree = fetched / "tree"
    origin: dict[str, list[str]] = json.loads((fetched / "files.json").read_text())
    for name in _files(origin, (*_COMPILER, *_SUPPORT), _OWN):
        _copy(tree / name, output / name)
    _programs(output)
    sysroot = output / "sysroot"
    for name in _files(origin, _HEADERS, "usr/include/"):
        _copy(tree / name, sysroot / name.replace(f"/{TRIPLET}/", "/"))
    for name in _files(origin, _LIBRARIES, rf"usr/lib/{TRIPLET}/[^/]+$"):
        # As on a system whose / and /usr are two: what a program needs to run in lib, what a linker reads in usr/lib.
        leaf = Path(name).name
        runs = ".so." in leaf
        _library(tree / name, sysroot / ("lib" if runs else "usr/lib") / leaf, link_to="" if runs else "../../lib/")


def _files(origin: dict[str, list[str]], packages: Iterable[str], pattern: str) -> list[str]:
    wanted = re.compile(pattern)
    return [name for package in packages for name in origin[package] if wanted.match(name)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), target)


def _library(source: Path, target: Path, link_to: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(link_to + os.path.basename(os.readlink(source)))
        return
    content = source.read_bytes()
    if content.startswith(b"/* GNU ld script"):
        content = _DIRECTORIES.sub("", content.decode()).encode()
    target.write_bytes(content)
    target.chmod(0o755)


def _programs(output: Path) -> None:
    """``bin``: the names that a cross toolchain has."""
    directory = output / "bin"
    directory.mkdir()
    inside = PLACE / "usr/bin"
    for name, program in _DRIVERS.items():
        wrapper = directory / f"{TRIPLET}-{name}"
        wrapper.write_text(f'#!/bin/sh\nexec {inside}/{TRIPLET}-{program} --sysroot={PLACE}/sysroot "$@"\n')
        wrapper.chmod(0o755)
    for name in _PLUGGED:
        (directory / f"{TRIPLET}-{name}").symlink_to(f"../usr/bin/{TRIPLET}-{name}-{GCC}")
    for path in (output / "usr/bin").glob(f"{TRIPLET}-*"):
        if not path.name.endswith(f"-{GCC}"):
            (directory / path.name).symlink_to(f"../usr/bin/{path.name}")
