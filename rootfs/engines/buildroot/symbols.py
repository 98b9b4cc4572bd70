"""Checks that Buildroot keeps every symbol of a defconfig, and explains why it drops one.

``make olddefconfig`` silently drops or changes symbols that it does not know or whose dependencies are not met, and the
image then lacks something that its defconfig asks for. Here every line of a defconfig is compared with the value that
Kconfig's rules give it (Buildroot's docs/manual/customize-store.adoc; the kernel's kconfig-language.rst).

Without a Buildroot tree, the defconfigs are compared with ``symbols.lock``, which records the lines that were checked
against a tree.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kconfiglib import AND, BOOL, OR, STRING, Choice, Kconfig, Symbol, expr_str, expr_value, split_expr

from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT
from rootfs.engines.buildroot.source import RELEASE
from rootfs.spec import defconfig

LOCK = Path(__file__).parent / "symbols.lock"
_REMEDY = "correct the line, or check it against a tree: `invoke image.symbols --buildroot DIR --record`"


@dataclass(frozen=True)
class Lost:
    """A line that Buildroot does not keep. ``got`` is the value it has instead; empty if there is no such symbol."""

    symbol: defconfig.Symbol
    got: str
    why: str

    def __str__(self) -> str:
        return f"{self.symbol.where}: {self.symbol.name}={self.symbol.value}: {self.why}"


def lost(kconfig: Kconfig, parts: Sequence[Path]) -> list[Lost]:
    """The lines of a defconfig in parts (`defconfig.merged`) that Buildroot does not keep, in their order.

    Raises:
        SallyportError: a file is not a defconfig.
    """
    wanted = defconfig.merged(parts)
    for part in parts:
        kconfig.load_config(str(part), replace=part == parts[0])
    found = []
    for line in wanted.values():
        symbol = kconfig.syms.get(line.name)
        if symbol is None or not symbol.nodes:
            names = [known.name for known in kconfig.unique_defined_syms]
            close = difflib.get_close_matches(line.name, names, n=1)
            found.append(Lost(line, "", "no such symbol" + (f"; did you mean {close[0]}?" if close else "")))
        elif any(node.filename.endswith("Config.in.legacy") for node in symbol.nodes):
            found.append(
                Lost(line, symbol.str_value, "was removed or renamed; Buildroot's Config.in.legacy explains how")
            )
        elif symbol.str_value != line.value:
            found.append(Lost(line, symbol.str_value, _why(symbol, line.value)))
    return found


def _why(symbol: Symbol, wanted: str) -> str:
    """Why a symbol does not have the wanted value."""
    got = f"is {symbol.str_value!r}" if symbol.orig_type == STRING else f"is {symbol.str_value}"
    if symbol.orig_type == BOOL and wanted not in ("y", "n"):
        return f"{got}: it can only be y or n"
    unmet = [expr_str(part) for part in split_expr(symbol.direct_dep, AND) if not expr_value(part)]
    if unmet:
        return f"{got}, because it depends on {' and '.join(unmet)}"
    # Of "A && condition", A is the symbol that selects this one.
    selecting = [expr_str(split_expr(part, AND)[0]) for part in split_expr(symbol.rev_dep, OR) if expr_value(part)]
    if wanted == "n" and selecting:
        return f"{got}, selected by {' and by '.join(selecting)}"
    if isinstance(symbol.choice, Choice) and symbol.choice.selection is not None:
        return f"{got}: in its choice, {symbol.choice.selection.name} was taken"
    if not any(node.prompt for node in symbol.nodes):
        return f"{got}: it has no prompt, so a defconfig cannot set it"
    hidden = [expr_str(node.prompt[1]) for node in symbol.nodes if node.prompt and not expr_value(node.prompt[1])]
    return f"{got}, because it can only be set if {' or '.join(hidden)}" if hidden else got


def record(configs: Iterable[Sequence[Path]], lock: Path = LOCK, release: str = RELEASE) -> None:
    """Record the lines of the defconfigs in the lock file; call it after a tree was found to keep all of them."""
    content = {"buildroot": release, "symbols": {_name(parts): _values(parts) for parts in configs}}
    new = lock.with_name(f".{lock.name}.new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, lock)


def check_recorded(configs: Iterable[Sequence[Path]], lock: Path = LOCK, release: str = RELEASE) -> None:
    """Compare the defconfigs with the recorded lines.

    Raises:
        SallyportError: a line was changed, added or removed since (names it), or the record is of another release.
    """
    try:
        content = json.loads(lock.read_text())
        recorded, of = content["symbols"], content["buildroot"]
    except (OSError, ValueError, KeyError) as error:
        raise SallyportError(f"{lock} cannot be read: {error!r}", _REMEDY) from error
    if of != release:
        raise SallyportError(f"{lock} was recorded with Buildroot {of}; the defconfigs are for {release}", _REMEDY)
    for parts in configs:
        known: Mapping[str, str] = recorded.get(_name(parts), {})
        unseen = set(known)
        for symbol in defconfig.merged(parts).values():
            if known.get(symbol.name) != symbol.value:
                before = f"was {known[symbol.name]!r}" if symbol.name in known else "was not there"
                raise SallyportError(
                    f"{symbol.where}: {symbol.name}={symbol.value} was not checked against Buildroot {release}: at "
                    f"the last check it {before}",
                    _REMEDY,
                )
            unseen.discard(symbol.name)
        if unseen:
            raise SallyportError(
                f"{_name(parts)} no longer has {', '.join(sorted(unseen))}, on which other symbols may depend",
                _REMEDY,
            )


def _values(parts: Sequence[Path]) -> dict[str, str]:
    return {symbol.name: symbol.value for symbol in defconfig.merged(parts).values()}


def _name(parts: Sequence[Path]) -> str:
    return " ".join(
        part.relative_to(PROJECT).as_posix() if part.is_relative_to(PROJECT) else part.name for part in parts
    )
