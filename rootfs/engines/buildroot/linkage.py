"""Checks that prebuilt programs and libraries find all symbols that they need in the libraries of a build.

Without this check, a missing symbol would only be noticed on the device, when the program that needs it starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVersionSection
from elftools.elf.sections import SymbolTableSection

_HAS, _WANTS = ".gnu.version_d", ".gnu.version_r"


def missing(files: Iterable[Path], libraries: Iterable[Path]) -> list[str]:
    """Symbols that no library has (System V ABI, symbol table; LSB, symbol versioning), each as ``FILE wants SYMBOL``.

    Args:
        files: programs and libraries; files that are not ELF are skipped.
        libraries: the libraries of the build.
    """
    provided = {name for library in libraries for name in (*_symbols(library, defined=True), *_versions(library, _HAS))}
    return [
        f"{file.name} wants {name}"
        for file in files
        for name in sorted((_symbols(file, defined=False) | _versions(file, _WANTS)) - provided)
    ]


def _versions(file: Path, section: str) -> set[str]:
    """Versions of interfaces, such as GLIBC_2.38, that a library defines or that a file needs of its libraries."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return set()
        table = ELFFile(stream).get_section_by_name(section)
        if not isinstance(table, GNUVersionSection):
            return set()
        return {entry.name for _, entries in table.iter_versions() for entry in entries}


def _symbols(file: Path, *, defined: bool) -> set[str]:
    """Names of the symbols that a file defines, or that it needs; weak symbols need not be defined."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return set()
        table = ELFFile(stream).get_section_by_name(".dynsym")
        if not isinstance(table, SymbolTableSection):
            return set()
        return {
            symbol.name
            for symbol in table.iter_symbols()
            if symbol.name
            and (symbol["st_shndx"] != "SHN_UNDEF") == defined
            and (defined or symbol["st_info"]["bind"] != "STB_WEAK")
        }
