"""The external toolchain: Debian's GCC and binutils in a directory of their own, and a sysroot with the C library.

Buildroot refuses a distribution's own compiler, because that would find every library of the machine. GCC looks for its
parts relative to its own path, so the same files in another directory find only the libraries of the sysroot.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from rootfs.spec.architecture import X86_64, Arch

GCC = "14"
PLACE = Path("/opt/toolchain")
"""Its path inside the build sandbox."""
_DRIVERS = {"gcc": f"gcc-{GCC}", "cc": f"gcc-{GCC}", "g++": f"g++-{GCC}", "c++": f"g++-{GCC}", "cpp": f"cpp-{GCC}"}
_PLUGGED = ("gcc-ar", "gcc-nm", "gcc-ranlib")
_HEADERS = ("libc6-dev", "linux-libc-dev")
_LIBRARIES = ("libc6", "libc6-dev", "libgcc-s1", "libstdc++6")


def settings(arch: Arch) -> dict[str, str]:
    """The symbols by which a defconfig selects this toolchain."""
    return {
        "BR2_TOOLCHAIN_EXTERNAL": "y",
        "BR2_TOOLCHAIN_EXTERNAL_CUSTOM": "y",
        "BR2_TOOLCHAIN_EXTERNAL_PREINSTALLED": "y",
        "BR2_TOOLCHAIN_EXTERNAL_PATH": f'"{PLACE}"',
        "BR2_TOOLCHAIN_EXTERNAL_CUSTOM_PREFIX": f'"{arch.triplet}"',
        f"BR2_TOOLCHAIN_EXTERNAL_GCC_{GCC}": "y",
        "BR2_TOOLCHAIN_EXTERNAL_HEADERS_6_12": "y",
        "BR2_TOOLCHAIN_EXTERNAL_CUSTOM_GLIBC": "y",
        "BR2_TOOLCHAIN_EXTERNAL_CXX": "y",
        "BR2_TOOLCHAIN_EXTERNAL_INET_RPC": "n",
    }


def _compiler(arch: Arch) -> tuple[str, ...]:
    """The packages of the compiler and of binutils, and of the compiler's own libraries."""
    target = arch.triplet.replace("_", "-")
    kind = "dev" if arch is X86_64 else f"dev-{arch.debian}-cross"
    programs = [f"{program}-{GCC}-{target}" for program in ("gcc", "g++", "cpp")]
    return (*programs, *(f"{library}-{GCC}-{kind}" for library in ("libgcc", "libstdc++")), f"binutils-{target}")


def _own(arch: Arch) -> str:
    """A pattern of those packages' files that belong to the compiler, native or cross: no documentation, no OpenMP.

    OpenMP is left out because nothing here needs it, and Buildroot demands that a toolchain's abilities are declared.
    """
    own = rf"bin|include|lib/gcc|libexec/gcc|lib/gcc-cross|libexec/gcc-cross|{arch.triplet}/(?:bin|include/c\+\+)"
    return rf"usr/(?:{own})/(?!.*/libgomp)"


def assemble(arch: Arch, compilers: Path, libraries: Path, output: Path) -> None:
    """Make the toolchain out of fetched sets of packages (``tree`` and ``files.json``).

    Args:
        arch: the architecture of the programs that it compiles.
        compilers: a set that has the compiler, a program for the build machine (`rootfs.base.packages.fetch`).
        libraries: a set that has the C library of the architecture.
        output: an empty directory; the build sandbox has it at `PLACE`.
    """
    for name in _files(compilers, _compiler(arch), _own(arch)):
        _copy(compilers / "tree" / name, output / name)
    _programs(arch.triplet, output)
    sysroot, tree = output / "sysroot", libraries / "tree"
    for name in _files(libraries, _HEADERS, "usr/include/"):
        _copy(tree / name, sysroot / name.replace(f"/{arch.triplet}/", "/"))
    # Directories that the linker scripts libc.so and libm.so name.
    directories = re.compile(rf"(?:/usr)?/lib(?:64)?(?:/{arch.triplet})?/(?=lib|ld-)")
    for name in _files(libraries, _LIBRARIES, rf"usr/lib/{arch.triplet}/[^/]+$"):
        # As on a system with separate / and /usr: shared libraries in lib, files for the linker in usr/lib.
        leaf = Path(name).name
        runs = ".so." in leaf
        target = sysroot / ("lib" if runs else "usr/lib") / leaf
        _library(tree / name, target, directories, link_to="" if runs else "../../lib/")


def _files(fetched: Path, packages: Iterable[str], pattern: str) -> list[str]:
    origin: dict[str, list[str]] = json.loads((fetched / "files.json").read_text())
    wanted = re.compile(pattern)
    return [name for package in packages for name in origin[package] if wanted.match(name)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), target)


def _library(source: Path, target: Path, directories: re.Pattern[str], link_to: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(link_to + os.path.basename(os.readlink(source)))
        return
    content = source.read_bytes()
    if content.startswith(b"/* GNU ld script"):
        content = directories.sub("", content.decode()).encode()
    target.write_bytes(content)
    target.chmod(0o755)


def _programs(triplet: str, output: Path) -> None:
    """Make ``bin`` with the program names of a cross toolchain."""
    directory = output / "bin"
    directory.mkdir()
    inside = PLACE / "usr/bin"
    for name, program in _DRIVERS.items():
        wrapper = directory / f"{triplet}-{name}"
        wrapper.write_text(f'#!/bin/sh\nexec {inside}/{triplet}-{program} --sysroot={PLACE}/sysroot "$@"\n')
        wrapper.chmod(0o755)
    for name in _PLUGGED:
        (directory / f"{triplet}-{name}").symlink_to(f"../usr/bin/{triplet}-{name}-{GCC}")
    for path in (output / "usr/bin").glob(f"{triplet}-*"):
        if not path.name.endswith(f"-{GCC}"):
            (directory / path.name).symlink_to(f"../usr/bin/{path.name}")
