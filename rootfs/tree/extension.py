"""Builds C in the tools tree: extension modules by setuptools, the forwarder's BPF programs by clang.

The modules keep to Python's stable ABI and to symbols of an older C library than the tree's own, so the binaries that
go into the image are the very ones that the unit tests load on the build machine.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from rootfs.base import tools_tree
from rootfs.base.cache import digest_code, digest_path
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from rootfs.spec.architecture import ALL, X86_64, Arch

PACKAGE = PROJECT / "backend"
OLDEST_GLIBC = (2, 36)
"""Debian 12's: the build machine may be one."""
COMPILER = ("clang-19", "-fuse-ld=lld-19")
STANDARD = ("-std=c11", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030B0000")
"""The C that the modules are written in; 0x030B0000 is Python 3.11, whose stable ABI later ones keep."""
_FLAGS = (
    *STANDARD, "-g0", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion",
    "-Wstrict-prototypes", "-Werror", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3", "-fstack-protector-strong",
    "-fstack-clash-protection",
)  # fmt: skip
"""Warnings are errors; hardening as https://best.openssf.org/Compiler-Hardening-Guides advises for a library."""
_LINK = (
    "-shared", "-Wl,--strip-all", "-Wl,--build-id=none", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack",
    "-Wl,--as-needed",
)  # fmt: skip
_SYSROOT = Path("/sysroot")
"""Where the compiler sees what it compiles for."""
_BRANCHES = {"x86_64": "-fcf-protection=full", "aarch64": "-mbranch-protection=standard"}
"""Where jumps may lead, checked by the processor."""
_BPF_FLAGS = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Extension:
    """Extension modules of one Python package, built together."""

    step: str
    """Name of the step in the cache."""
    title: str
    """Shown while it is built."""
    sources: Mapping[str, Path]
    """Files and folders by their path in the build directory. ``pyproject.toml`` declares the modules."""
    package: str
    """Path of the Python package that the modules are in, below ``sources``' packages."""
    modules: tuple[str, ...]
    target: Path
    """Folder of the Python package: `install` puts the outputs there."""
    bpf: str = ""
    """Path of the source of BPF programs in the build directory, ``<name>.bpf.c``, if there is one."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the files that are built."""
        return (*self.modules, *([self._object] if self.bpf else []))

    @property
    def _object(self) -> str:
        return Path(self.bpf).with_suffix(".o").name


CORE = {"forwarder/core": PACKAGE / "forwarder/core"}
"""C of the data path that more than one extension is compiled from."""
FORWARDER = Extension(
    "extension",
    "Forwarder (C, BPF)",
    CORE | {"pyproject.toml": PACKAGE / "pyproject.toml", "forwarder/kernel": PACKAGE / "forwarder/kernel"},
    "backend/forwarder",
    ("_core.abi3.so", "_kernel.abi3.so"),
    PACKAGE / "forwarder",
    "forwarder/kernel/kernel.bpf.c",
)
LAN = Extension(
    "extension-lan",
    "Guest LAN (C)",
    CORE | {"pyproject.toml": PACKAGE / "lan/pyproject.toml", "lan/core": PACKAGE / "lan/core"},
    "backend/lan",
    ("_lan.abi3.so",),
    PACKAGE / "lan",
)


def build(sets: PackageSets, extension: Extension) -> Path:
    """Compile an extension.

    Returns:
        a directory with its outputs.

    Raises:
        CommandError: the compiler refused a source; with what it said.
        SallyportError: a module needs a newer C library than `OLDEST_GLIBC`.
    """
    toolbox = sets.tools
    inputs = {name: digest_path(path) for name, path in extension.sources.items()}
    inputs |= {"tools": toolbox.tree.parent.name} | digest_code(tools_tree, sys.modules[__name__])
    arch = ALL[sets.arch]
    if arch is not X86_64:
        inputs["sysroot"] = sets.sysroot.tree.parent.name

    def make(output: Path) -> None:
        work = output / "work"
        work.mkdir()
        for name, source in extension.sources.items():
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        _compile(toolbox, work, arch, None if arch is X86_64 else sets.sysroot.tree)
        for name in extension.modules:
            module = work / "lib" / extension.package / name
            check_versions(module)
            shutil.copyfile(module, output / name)
        if extension.bpf:
            _compile_bpf(toolbox, work, extension.bpf)
            shutil.copyfile(work / extension.outputs[-1], output / extension.outputs[-1])
        shutil.rmtree(work)

    return sets.cache.step(f"{extension.step}{arch.suffix}", extension.title, inputs, make)


def _compile(toolbox: Tools, work: Path, arch: Arch, sysroot: Path | None) -> None:
    # setuptools takes Python's own flags first; only the compiler and linker are ours to name.
    compiler, linker = COMPILER
    if sysroot is not None:
        compiler += f" --target={arch.triplet} --sysroot={_SYSROOT}"
        # Python names the build machine's directory of libraries, too.
        linker += f" -L{_SYSROOT}/usr/lib/{arch.triplet}"
    # Its linker scripts speak of /lib.
    shown = [(sysroot / "usr", _SYSROOT / "usr"), (sysroot / "usr/lib", _SYSROOT / "lib")] if sysroot else []
    toolbox.run(
        ["python3", "-c", "import setuptools; setuptools.setup()", "build_ext", "--build-lib", "lib"],
        build=work,
        env={
            "CC": compiler,
            "LDSHARED": f"{compiler} {linker} {' '.join(_LINK)}",
            "CFLAGS": f"{' '.join(_FLAGS)} {_BRANCHES[arch.name]}",
        },
        shown=shown,
    )


def _compile_bpf(toolbox: Tools, work: Path, source: str) -> None:
    result = Path(source).with_suffix(".o").name
    includes = (f"-I/usr/include/{X86_64.triplet}",)  # a BPF program is for no architecture
    toolbox.run([COMPILER[0], *_BPF_FLAGS, *includes, "-c", source, "-o", result], build=work)
    # Types for the verifier (BTF) stay, debugging goes.
    toolbox.run(["llvm-strip-19", "-g", result], build=work)


def check_versions(module: Path) -> None:
    """Refuse a module that `OLDEST_GLIBC` could not load.

    Raises:
        SallyportError: names the version that it needs.
    """
    with module.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".gnu.version_r")
        names = (
            [a.name for _, found in section.iter_versions() for a in found]
            if isinstance(section, GNUVerNeedSection)
            else []
        )
    for name in names:
        match = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", name)
        if match and (int(match[1]), int(match[2])) > OLDEST_GLIBC:
            raise SallyportError(
                f"{module.name} needs {name}: the build machine's C library may be {'.'.join(map(str, OLDEST_GLIBC))}",
                "find the call with `objdump -T` and use an older one",
            )


def install(sets: PackageSets, extension: Extension) -> None:
    """Put the outputs beside the Python code, each by one rename, unless they are there."""
    built = build(sets, extension)
    for name in extension.outputs:
        there = extension.target / name
        if there.exists() and there.read_bytes() == (built / name).read_bytes():
            continue
        new = extension.target / f".{name}.{os.getpid()}"
        shutil.copyfile(built / name, new)
        new.replace(there)
