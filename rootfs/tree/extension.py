"""Builds the forwarder's C in the tools tree: two extension modules by setuptools, the BPF programs by clang.

The modules keep to Python's stable ABI and to symbols of an older C library than the tree's own, so the binaries that
go into the image are the very ones that the unit tests load on the build machine.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from rootfs.base import tools_tree
from rootfs.base.cache import digest_code, digest_path
from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from rootfs.engines.debian.engine import Engine
from rootfs.spec.architecture import X86_64, Arch

PACKAGE = PROJECT / "backend"
TARGET = PACKAGE / "forwarder"
"""Where `install` puts the outputs, and where the image has them."""
SOURCES = ("pyproject.toml", "forwarder/core", "forwarder/kernel")
BPF = ("kernel.bpf.c", "kernel.bpf.o")
OUTPUTS = ("_core.abi3.so", "_kernel.abi3.so", BPF[1])
OLDEST_GLIBC = (2, 36)
"""Debian 12's: the build machine may be one."""
COMPILER = ("clang-19", "-fuse-ld=lld-19")
_SYSROOT = Path("/sysroot")
"""Where the compiler sees what it compiles for."""
_BRANCHES = {"x86_64": "-fcf-protection=full", "aarch64": "-mbranch-protection=standard"}
"""Where jumps may lead, checked by the processor."""
_BPF_FLAGS = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


def build(debian: Engine) -> Path:
    """Compile everything.

    Returns:
        a directory with the `OUTPUTS`.

    Raises:
        CommandError: the compiler has something to say.
        SallyportError: a module needs a newer C library than `OLDEST_GLIBC`.
    """
    toolbox = debian.tools
    inputs = {source: digest_path(PACKAGE / source) for source in SOURCES} | {"tools": toolbox.tree.parent.name}
    inputs |= digest_code(tools_tree, sys.modules[__name__])
    arch = debian.arch
    if arch is not X86_64:
        inputs["sysroot"] = debian.sysroot.tree.parent.name

    def make(output: Path) -> None:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".extension-") as temporary:
            work = Path(temporary)
            _compile(toolbox, work, arch, None if arch is X86_64 else debian.sysroot.tree)
            for name in OUTPUTS[:2]:
                check_versions(work / "lib/backend/forwarder" / name)
                shutil.copyfile(work / "lib/backend/forwarder" / name, output / name)
            shutil.copyfile(work / BPF[1], output / BPF[1])

    return debian.cache.step(f"extension{arch.suffix}", "Forwarder (C, BPF)", inputs, make)


def _compile(toolbox: Tools, work: Path, arch: Arch, sysroot: Path | None) -> None:
    for source in SOURCES:
        target = work / source
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (PACKAGE / source).is_dir() else shutil.copyfile)(PACKAGE / source, target)
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
            "LDSHARED": f"{compiler} -shared {linker} -Wl,--strip-all -Wl,--build-id=none",
            "CFLAGS": f"-g0 {_BRANCHES[arch.name]}",
        },
        shown=shown,
    )
    source = f"forwarder/kernel/{BPF[0]}"
    includes = (f"-I/usr/include/{X86_64.triplet}",)  # a BPF program is for no architecture
    toolbox.run([COMPILER[0], *_BPF_FLAGS, *includes, "-c", source, "-o", BPF[1]], build=work)
    # Types for the verifier (BTF) stay, debugging goes.
    toolbox.run(["llvm-strip-19", "-g", BPF[1]], build=work)


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


def install(debian: Engine, target: Path = TARGET) -> None:
    """Put the outputs beside the Python code, each by one rename, unless they are there."""
    built = build(debian)
    for name in OUTPUTS:
        if (target / name).exists() and (target / name).read_bytes() == (built / name).read_bytes():
            continue
        new = target / f".{name}.{os.getpid()}"
        shutil.copyfile(built / name, new)
        new.replace(target / name)
