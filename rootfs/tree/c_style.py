"""Style and hazards of the C sources: clang-format and clang-tidy of the tools tree, settings in the project's root."""

from __future__ import annotations

from pathlib import Path

from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from rootfs.tree.extension import PACKAGE

_MORE = ("tests/fuzz", "tests/bench/c")
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030B0000", "-I/usr/include/python3.13")


def _sources() -> list[Path]:
    own = sorted((PACKAGE / "forwarder").rglob("*.[ch]"))
    return [*own, *(path for folder in _MORE for path in sorted((PROJECT / folder).rglob("*.[ch]")))]


def check(toolbox: Tools) -> None:
    """Read every C source.

    Raises:
        CommandError: one is not formatted, or clang-tidy has something to say; with what it said.
    """
    toolbox.run(["clang-format-19", "--dry-run", "--Werror", *_inside(_sources())], build=PROJECT)
    # BPF is another machine's C: the kernel's verifier reads it, and better.
    modules = [path for path in _sources() if path.suffix == ".c" and path.is_relative_to(PACKAGE)]
    modules = [path for path in modules if not path.name.endswith(".bpf.c")]
    toolbox.run(["clang-tidy-19", "--quiet", *_inside(modules), "--", *_FLAGS], build=PROJECT)


def rewrite(toolbox: Tools) -> None:
    """Format every C source in place."""
    toolbox.run(["clang-format-19", "-i", *_inside(_sources())], build=PROJECT)


def _inside(paths: list[Path]) -> list[str]:
    return [path.relative_to(PROJECT).as_posix() for path in paths]
