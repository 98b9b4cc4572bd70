"""The forwarder's C part: what is built loads here and in the image, and is put in place whole."""

from __future__ import annotations

import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from rich.console import Console

from rootfs import build
from rootfs.base.cache import Cache, digest_path
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.tree import extension
from rootfs.tree.extension import FORWARDER, LAN, Extension


@pytest.fixture(scope="module")
def sets() -> PackageSets:
    return PackageSets(Cache(build.CACHE, Console(stderr=True)))


@pytest.fixture(scope="module")
def built(sets: PackageSets) -> Path:
    return extension.build(sets, FORWARDER)


def test_there_are_two_modules_and_the_bpf_programs(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == sorted(FORWARDER.outputs)
    with (built / "kernel.bpf.o").open("rb") as stream:
        programs = ELFFile(stream)
        assert programs["e_machine"] == "EM_BPF"
        assert programs.get_section_by_name(".BTF") is not None
        assert programs.get_section_by_name(".debug_info") is None


@pytest.mark.parametrize(("of", "name"), [(of, name) for of in (FORWARDER, LAN) for name in of.modules])
def test_modules_are_hardened(sets: PackageSets, of: Extension, name: str) -> None:
    with (extension.build(sets, of) / name).open("rb") as stream:
        module = ELFFile(stream)
        segments = {segment["p_type"]: segment for segment in module.iter_segments()}
        assert "PT_GNU_RELRO" in segments
        assert segments["PT_GNU_STACK"]["p_flags"] & 1 == 0, "an executable stack"
        dynamic = module.get_section_by_name(".dynamic")
        assert any(tag["d_val"] & 8 for tag in dynamic.iter_tags("DT_FLAGS")), "bound lazily"  # DF_BIND_NOW
        used = {symbol.name for symbol in module.get_section_by_name(".dynsym").iter_symbols()}
        assert "__stack_chk_fail" in used
        exported = {
            s.name for s in module.get_section_by_name(".dynsym").iter_symbols() if s["st_shndx"] != "SHN_UNDEF"
        }
    assert exported == {f"PyInit_{name.partition('.')[0]}"}


def test_a_module_that_needs_a_newer_c_library_is_refused(tmp_path: Path, sets: PackageSets) -> None:
    source = "#include <stdlib.h>\nlong parse(const char *text) { return strtol(text, 0, 0); }\n"
    (tmp_path / "new.c").write_text(source)
    compiler = [extension.COMPILER[0], "-shared", "-fPIC", "new.c", "-o", "new.so"]
    sets.tools.run([*compiler, "-D_GNU_SOURCE"], build=tmp_path)
    with pytest.raises(SallyportError, match=r"new\.so needs GLIBC_2\.38"):
        extension.check_versions(tmp_path / "new.so")
    sets.tools.run([*compiler, "-std=c99"], build=tmp_path)
    extension.check_versions(tmp_path / "new.so")


def test_what_is_there_already_stays_and_what_differs_is_replaced(
    tmp_path: Path, sets: PackageSets, built: Path
) -> None:
    here = replace(FORWARDER, target=tmp_path)
    extension.install(sets, here)
    before = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert set(before) == set(FORWARDER.outputs)
    (tmp_path / "_core.abi3.so").write_bytes(b"old")
    extension.install(sets, here)
    after = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert (tmp_path / "_core.abi3.so").read_bytes() == (built / "_core.abi3.so").read_bytes()
    assert after["_kernel.abi3.so"].st_ino == before["_kernel.abi3.so"].st_ino
    assert after["_core.abi3.so"].st_ino != before["_core.abi3.so"].st_ino
    assert all(stat.S_IMODE(found.st_mode) & 0o022 == 0 for found in after.values())


def test_outputs_beside_the_sources_change_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = digest_path(tmp_path)
    (tmp_path / "_core.abi3.so").write_bytes(b"x")
    (tmp_path / "kernel.bpf.o").write_bytes(b"x")
    assert digest_path(tmp_path) == before
    (tmp_path / "b.c").write_text("1")
    assert digest_path(tmp_path) != before


def test_a_compiler_error_names_file_and_line(tmp_path: Path, sets: PackageSets) -> None:
    copy = tmp_path / "core"
    subprocess.run(["cp", "-r", str(FORWARDER.sources["forwarder/core"]), str(copy)], check=True)
    broken = copy / "loop.c"
    broken.write_text(broken.read_text() + "int broken(void) { int unused; return 0; }\n")
    with pytest.raises(SallyportError, match=r"forwarder/core/loop\.c:\d+"):
        extension.build(sets, replace(FORWARDER, sources={**FORWARDER.sources, "forwarder/core": copy}))
