"""Checks that a kernel has the options that its configuration names.

The kernel's makefile silently drops options that it does not know or whose dependencies are not met, and Buildroot sets
options that its packages need (the kernel's Documentation/kbuild/kconfig-language.rst).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rootfs.base.errors import SallyportError
from rootfs.engines.buildroot.source import EXTERNAL
from rootfs.spec.defconfig import Symbol

_FILES = ("BR2_LINUX_KERNEL_CUSTOM_CONFIG_FILE", "BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES")
_LINE = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>.+)")


def files(symbols: dict[str, Symbol], external: Path = EXTERNAL) -> list[Path]:
    """The files of the kernel configuration that a defconfig names; the last one wins."""
    words = [word for name in _FILES if name in symbols for word in symbols[name].value.split()]
    return [Path(word.replace("$(BR2_EXTERNAL_SALLYPORT_PATH)", str(external))).resolve() for word in words]


def require(parts: Sequence[Path], made: Path) -> None:
    """Check that a kernel has every line of a configuration.

    Args:
        parts: the files of the configuration.
        made: the ``.config`` that the kernel was built with.

    Raises:
        SallyportError: the kernel has another value for an option; names file and line.
    """
    got = {name: value for name, value, _ in _lines(made)}
    wanted = {name: (value, f"{part}:{number}") for part in parts for name, value, number in _lines(part)}
    lost = [
        f"{where}: CONFIG_{name}={value}, but the kernel has {got.get(name, 'n')}"
        for name, (value, where) in wanted.items()
        if got.get(name, "n") != value
    ]
    if lost:
        raise SallyportError(
            f"{len(lost)} options of the kernel differ from its configuration:\n" + "\n".join(lost),
            "correct these lines: an option they depend on is off, another option selects them, or Buildroot sets them",
        )


def _lines(file: Path) -> list[tuple[str, str, int]]:
    """Name, value and line number of each option that a file sets, ``n`` included."""
    matches = [(_LINE.fullmatch(line), number) for number, line in enumerate(file.read_text().splitlines(), start=1)]
    return [(match["name"], match["value"], number) for match, number in matches if match]
