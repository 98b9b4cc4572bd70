"""Checks that prebuilt programs and libraries find what they call in libraries that were built otherwise.

A library that lacks a symbol is only found out when a program that wants it starts, in the image, on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVersionSection
from elftools.elf.sections import SymbolTableSection

_HAS, _WANTS = ".gnu.version_d", ".gnu.version_r"


def missing(files: Iterable[Path], libraries: Iterable[Path]) -> list[str]:
    """What is called and nobody has (System V ABI, symbol table; LSB, symbol versioning): ``FILE wants SYMBOL``.

    Args:
        files: those that call; what is no ELF file calls nothing.
        libraries: those that are there.
    """
    provided = {name for library in libraries for name in (*_symbols(library, defined=True), *_versions(library, _HAS))}
    return [
        f"{file.name} wants {name}"
        for file in files
        for name in sorted((_symbols(file, defined=False) | _versions(file, _WANTS)) - provided)
    ]


def _versions(file: Path, section: str) -> set[str]:
    """Such as GLIBC_2.38: the interfaces that a library has, or that a file wants of its libraries."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return set()
        table = ELFFile(stream).get_section_by_name(section)
        if not isinstance(table, GNUVersionSection):
            return set()
        return {entry.name for _, entries in table.iter_versions() for entry in entries}


def _symbols(file: Path, *, defined: bool) -> set[str]:
    """Names that a file exports, or that it must import: a weak one may stay without."""
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
