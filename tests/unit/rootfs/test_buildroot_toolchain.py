"""The toolchain that is assembled from packages, and what stands in for Buildroot's own patchelf."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rootfs.engines.buildroot import toolchain
from rootfs.external.shims import patchelf
from rootfs.spec.architecture import X86_64

TRIPLET = X86_64.triplet
MULTIARCH = f"usr/lib/{TRIPLET}"
GCC = f"usr/lib/gcc/{TRIPLET}/14"
SCRIPT = f"""\
/* GNU ld script */
GROUP ( /{MULTIARCH}/libc.so.6 /{MULTIARCH}/libc_nonshared.a AS_NEEDED ( /lib64/ld-linux-x86-64.so.2 ) )
"""
FILES = {
    "gcc-14-x86-64-linux-gnu": [f"usr/bin/{TRIPLET}-gcc-14", f"{GCC}/libgomp.spec"],
    "g++-14-x86-64-linux-gnu": [],
    "cpp-14-x86-64-linux-gnu": [f"usr/libexec/gcc/{TRIPLET}/14/cc1", "usr/share/doc/x"],
    "libgcc-14-dev": [f"{GCC}/crtbegin.o", f"{GCC}/libgomp.a"],
    "libstdc++-14-dev": ["usr/include/c++/14/map"],
    "binutils-x86-64-linux-gnu": [f"usr/bin/{TRIPLET}-ld"],
    "libc6-dev": [f"{MULTIARCH}/libc.so", f"{MULTIARCH}/crt1.o", f"{MULTIARCH}/libanl.so", "usr/include/stdio.h"],
    "linux-libc-dev": [f"usr/include/{TRIPLET}/asm/a.h"],
    "libc6": [f"{MULTIARCH}/libc.so.6", f"{MULTIARCH}/libanl.so.1", f"{MULTIARCH}/gconv/x.so"],
    "libgcc-s1": [],
    "libstdc++6": [],
    "zlib1g-dev": ["usr/include/zlib.h", f"{MULTIARCH}/libz.so"],
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    fetched, output = tmp_path / "fetched", tmp_path / "toolchain"
    output.mkdir()
    for name in (name for names in FILES.values() for name in names):
        path = fetched / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("libanl.so"):
            path.symlink_to("libanl.so.1")
        else:
            path.write_text(SCRIPT if name.endswith("/libc.so") else name)
    (fetched / "files.json").write_text(json.dumps(FILES))
    toolchain.assemble(X86_64, fetched, fetched, output)
    return output


def test_the_compiler_has_the_names_of_a_cross_toolchain_and_its_own_sysroot(made: Path) -> None:
    wrapper = made / "bin" / f"{TRIPLET}-gcc"
    assert os.access(wrapper, os.X_OK)
    assert f"--sysroot={toolchain.PLACE}/sysroot" in wrapper.read_text()
    assert (made / "bin" / f"{TRIPLET}-ld").read_text().endswith("-ld")
    assert (made / GCC / "crtbegin.o").is_file()


def test_the_sysroot_has_the_c_library_and_nothing_else(made: Path) -> None:
    there = {p.relative_to(made / "sysroot").as_posix() for p in (made / "sysroot").rglob("*") if not p.is_dir()}
    assert there == {
        *("lib/libc.so.6", "lib/libanl.so.1", "usr/lib/libc.so", "usr/lib/crt1.o", "usr/lib/libanl.so"),
        *("usr/include/stdio.h", "usr/include/asm/a.h"),
    }
    assert (made / "sysroot/usr/lib/libanl.so").read_text() == f"{MULTIARCH}/libanl.so.1"
    script = (made / "sysroot/usr/lib/libc.so").read_text()
    assert "GROUP ( libc.so.6 libc_nonshared.a AS_NEEDED ( ld-linux-x86-64.so.2 ) )" in script


def test_what_is_not_declared_is_not_there(made: Path) -> None:
    """Buildroot refuses a toolchain with OpenMP that does not say so."""
    assert not list(made.rglob("libgomp*"))


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("$ORIGIN/../lib/x", "$ORIGIN/../lib/x"),
        ("/usr/lib/systemd", "/usr/lib/systemd"),
        ("{root}/usr/lib/systemd", "/usr/lib/systemd"),
        ("/usr/lib", None),
        ("{root}/usr/lib", None),
        ("/output/host/lib", None),
    ],
)
def test_of_a_run_path_stays_what_holds_on_the_target(tmp_path: Path, entry: str, kept: str | None) -> None:
    (tmp_path / "usr/lib/systemd").mkdir(parents=True)
    assert patchelf.on_target(entry.format(root=tmp_path), tmp_path) == kept
