"""Style and hazards of the C sources: clang-format and clang-tidy of the tools tree, settings in the project's root."""

from __future__ import annotations

from pathlib import Path

from rootfs.base.tools_tree import Tools
from rootfs.tree.extension import STANDARD
from tests.lint import files

_MODULES = ("backend/", "tests/unit/")
"""Where the C of Python's extension modules is, which clang-tidy reads with `_FLAGS`."""
_FLAGS = (*STANDARD, "-I/usr/include/python3.13")


def _sources(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in files.own(root) if path.suffix in (".c", ".h")]


def check(root: Path, tools: Tools) -> None:
    """Read every C source of the checkout at ``root``.

    Raises:
        CommandError: one is not formatted, or clang-tidy found something; with what the program said.
    """
    sources = _sources(root)
    tools.run(["clang-format-19", "--dry-run", "--Werror", *sources], build=root)
    # Not BPF: it is another machine's C, and the kernel's verifier reads it.
    modules = [path for path in sources if path.startswith(_MODULES) and path.endswith(".c")]
    modules = [path for path in modules if not path.endswith(".bpf.c")]
    tools.run(["clang-tidy-19", "--quiet", *modules, "--", *_FLAGS], build=root)


def rewrite(root: Path, tools: Tools) -> None:
    """Format every C source of the checkout at ``root`` in place."""
    tools.run(["clang-format-19", "-i", *_sources(root)], build=root)
