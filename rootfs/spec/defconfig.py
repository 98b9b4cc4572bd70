"""Reads a Buildroot defconfig: lines of the form that Kconfig's `savedefconfig` writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT
from rootfs.spec import architecture

HOST = PROJECT / "buildroot.config"
FRONTEND = PROJECT / "frontend_vm" / "buildroot.config"
ALL = {"host": HOST, "frontend": FRONTEND}
"""Our defconfigs, by the names of the root file systems that they describe."""


def every() -> list[list[Path]]:
    """The files of each defconfig of `ALL`, for every architecture."""
    return [target.configs(name, config) for target in architecture.ALL.values() for name, config in ALL.items()]


def chosen(name: str) -> list[str]:
    """Names of defconfigs: the given one, or all if it is empty.

    Raises:
        SallyportError: there is no defconfig of that name.
    """
    if name and name not in ALL:
        raise SallyportError(f"no defconfig {name!r}", f"name one of {', '.join(ALL)}")
    return [name] if name else list(ALL)


_LINE = re.compile(r"(?P<name>BR2_[A-Za-z0-9_]+)=(?:(?P<bare>y|-?\d+|0x[0-9a-fA-F]+)|\"(?P<text>[^\"\\]*)\")")
_UNSET = re.compile(r"# (?P<name>BR2_[A-Za-z0-9_]+) is not set")


@dataclass(frozen=True)
class Symbol:
    """One symbol, and the line that sets it. ``value`` is ``y``, ``n``, a number as text, or a string."""

    name: str
    value: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        """``file:line`` for messages."""
        return f"{self.file}:{self.line}"


def merged(files: Iterable[Path]) -> dict[str, Symbol]:
    """All symbols of a defconfig in several files. A later file wins; a symbol that it unsets is removed.

    Raises:
        SallyportError: as `read`.
    """
    symbols: dict[str, Symbol] = {}
    for file in files:
        for name, symbol in read(file).items():
            if symbol.value == "n" and name in symbols:
                del symbols[name]
            else:
                symbols[name] = symbol
    return symbols


def read(file: Path) -> dict[str, Symbol]:
    """All symbols of a defconfig file, in their order.

    Raises:
        SallyportError: the file cannot be read, or a line is malformed or sets a symbol a second time; names file and
            line.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SallyportError(f"{file}: {error}", "name a Buildroot defconfig") from error
    symbols: dict[str, Symbol] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line.rstrip()) or _UNSET.fullmatch(line.rstrip())
        if match is None:
            if line.strip() and not line.startswith("#"):
                raise SallyportError(
                    f"{file}:{number}: not a line of a defconfig: {line!r}", 'write BR2_NAME=y or BR2_NAME="text"'
                )
            continue
        found = match.groupdict()
        value = found.get("bare") or found.get("text") or ("" if "bare" in found else "n")
        name = found["name"]
        if name in symbols:
            raise SallyportError(
                f"{file}:{number}: {name} was set before, in line {symbols[name].line}", "remove one of the two lines"
            )
        symbols[name] = Symbol(name, value, file, number)
    return symbols
