"""Reads a Buildroot defconfig through ``map.toml``, which declares what each symbol means: packages, files, settings.

Both engines keep the same files of what they have fetched or built, so both read the map.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT, shown
from rootfs.spec import defconfig
from rootfs.spec.architecture import X86_64, Arch
from rootfs.spec.defconfig import Symbol
from rootfs.spec.root_spec import RootSpec

MAP = Path(__file__).parent / "map.toml"


class Entry(BaseModel):
    """What one symbol means; the fields are explained at the head of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    packages: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    value: str = "y"
    means: str = ""


class SymbolMap(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kernel: dict[str, Entry]
    """By flavour: Debian's kernel packages."""
    always: Entry
    symbols: dict[str, Entry]


def read() -> SymbolMap:
    """The declared map.

    Raises:
        SallyportError: a field is unknown or of the wrong type.
    """
    try:
        return SymbolMap.model_validate(tomllib.loads(MAP.read_text()))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise SallyportError(f"{MAP}: {error}", "correct the named field of that file") from error


def root_spec(name: str, arch: Arch) -> RootSpec:
    """What a defconfig of the project asks for.

    Args:
        name: one of `defconfig.ALL`.
        arch: the architecture whose parts of the defconfig are added.

    Raises:
        SallyportError: as `translate`, or the file cannot be read (`defconfig.read`).
    """
    return translate(defconfig.merged(arch.configs(name, defconfig.ALL[name])), arch)


def translate(symbols: Mapping[str, Symbol], arch: Arch = X86_64) -> RootSpec:
    """Turn the symbols of a defconfig into packages, files and settings for an architecture.

    Raises:
        SallyportError: the map does not know a symbol, or cannot serve its value; names file, line and symbol.
    """
    table = read()
    wanted, keep = list(table.always.packages), list(table.always.keep)
    hostname, overlays = "", []
    for symbol in symbols.values():
        entry = table.symbols.get(symbol.name)
        if entry is None:
            close = difflib.get_close_matches(symbol.name, table.symbols, n=1)
            guess = f"did you mean {close[0]}? otherwise " if close else ""
            raise SallyportError(
                f"{symbol.where}: {MAP.name} does not know the symbol {symbol.name}",
                f"{guess}add it to {shown(MAP)}",
            )
        if entry.value not in ("*", symbol.value):
            raise SallyportError(
                f"{symbol.where}: {symbol.name} is {symbol.value!r}, but {MAP.name} supports only {entry.value!r}",
                f"change the value back, or extend the symbol's entry in {shown(MAP)}",
            )
        wanted += entry.packages
        keep += entry.keep
        if symbol.name == "BR2_TARGET_GENERIC_HOSTNAME":
            hostname = symbol.value
        if symbol.name == "BR2_ROOTFS_OVERLAY":
            overlays = [_overlay(symbol, word) for word in symbol.value.split()]
    keep = [arch.spell(glob) for glob in keep]
    return RootSpec(tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(keep)), hostname, tuple(overlays))


def _overlay(symbol: Symbol, word: str) -> Path:
    directory = Path(word.replace("$(BR2_EXTERNAL_SALLYPORT_PATH)", str(PROJECT / "rootfs/external"))).resolve()
    if not directory.is_dir():
        raise SallyportError(f"{symbol.where}: {symbol.name}: no directory {directory}", "correct the path")
    return directory
