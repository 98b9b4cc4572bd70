"""Lays overlays over a tree: files as they are, ``*.j2`` rendered by Jinja2 (an undefined name is an error)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError

from rootfs.base.errors import SallyportError
from rootfs.base.file_tree import MERGED, files
from rootfs.tree import busybox

SKELETON = ("data", "dev", "proc", "root", "run", "sys", "tmp", "var/tmp", "usr/bin", "usr/lib64", "usr/sbin")
"""Directories that every root file system has; git cannot hold empty ones."""


def skeleton(tree: Path) -> None:
    """Make the empty directories and the links of the merged /usr."""
    for name in SKELETON:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, target in MERGED.items():
        (tree / name).symlink_to(target)


def render(template: Path, values: Mapping[str, object]) -> str:
    """Render one template.

    Raises:
        SallyportError: the template has a syntax error or uses an undefined name; names file and line.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    try:
        return environment.from_string(template.read_text()).render(values)
    except TemplateSyntaxError as error:
        raise SallyportError(f"{template}:{error.lineno}: {error.message}", "correct the template") from error
    except (UndefinedError, TemplateError) as error:
        line = _line(error)
        raise SallyportError(
            f"{template}:{line}: {error}", f"templates may use: {', '.join(sorted(values))}"
        ) from error


def _line(error: BaseException) -> int:
    """The line of the template at which an error was raised: that of the innermost frame of compiled template code."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def lay(overlays: Iterable[Path], tree: Path, values: Mapping[str, object]) -> None:
    """Lay overlays over a tree, the last one on top; each with its links to BusyBox (`busybox.link`).

    Raises:
        SallyportError: a template cannot be rendered (`render`).
    """
    for directory in overlays:
        busybox.link(directory.name, tree)
        apply(directory, tree, values)


def apply(overlay: Path, tree: Path, values: Mapping[str, object]) -> None:
    """Lay one overlay over a tree. Its files replace those of the tree; their mode is 0755 if executable, else 0644.

    A replaced file is unlinked first, because the tree shares it with the cache by a hard link.
    """
    for name in files(overlay):
        source = overlay / name
        target = tree / name.removesuffix(".j2")
        if name.endswith(".keep"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
            continue
        if name.endswith(".j2"):
            target.write_text(render(source, values))
        else:
            shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
