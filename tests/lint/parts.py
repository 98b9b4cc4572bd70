"""The parts of `invoke lint`: each runs its programs over a whole checkout and shows what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.tools_tree import Tools
from tests.lint import c_style, shell

PARTS = {
    "python": "ruff check, ruff format",
    "types": "mypy --strict",
    "shell": "shellcheck, of templates what they render to",
    "javascript": "oxlint",
    "c": "clang-format and clang-tidy of the tools tree",
}
"""Each part's name and programs. All but `c` take seconds and nothing that was built."""


def check(part: str, root: Path, tools: Callable[[], Tools]) -> bool:
    """Run one part over the checkout at ``root``; what its programs find goes to standard output.

    Args:
        part: a key of `PARTS`.
        root: a checkout, or a directory laid out like one.
        tools: makes the tools tree; called by part `c` only.

    Returns:
        whether nothing was found.

    Raises:
        SallyportError: the part is unknown, a program is not installed, or a template does not render.
    """
    match part:
        case "python":
            # Both, so that one run shows everything.
            return all([_run(root, "ruff", "check", "."), _run(root, "ruff", "format", "--check", ".")])
        case "types":
            return _run(root, "mypy")
        case "shell":
            with shell.collected(root) as (folder, scripts):
                return _run(folder, "shellcheck", f"--rcfile={root / '.shellcheckrc'}", "--", *scripts)
        case "javascript":
            return _run(root, "oxlint", "--deny-warnings", ".")
        case "c":
            return _c(root, tools())
    raise SallyportError(f"lint has no part {part!r}", f"choose one of {', '.join(PARTS)}, or all")


def fix(part: str, root: Path, tools: Callable[[], Tools]) -> None:
    """Mend in place what the part's programs can: `python` (imports, formatting) and `c` (formatting); else nothing.

    Args:
        part: a key of `PARTS`.
        root: a checkout, or a directory laid out like one.
        tools: makes the tools tree; called by part `c` only.
    """
    if part == "python":
        _run(root, "ruff", "check", "--fix-only", "--quiet", ".")
        _run(root, "ruff", "format", "--quiet", ".")
    elif part == "c":
        c_style.rewrite(root, tools())


def _c(root: Path, tools: Tools) -> bool:
    try:
        c_style.check(root, tools)
    except CommandError as error:
        print(error)
        return False
    return True


def _run(cwd: Path, program: str, *words: str) -> bool:
    """Run a program of the virtual environment with its output as it comes."""
    path = Path(sys.executable).with_name(program)
    if not path.exists():
        raise SallyportError(f"{program} is not installed beside {sys.executable}", "run .ci/setup")
    return subprocess.run([path, *words], cwd=cwd, check=False).returncode == 0
