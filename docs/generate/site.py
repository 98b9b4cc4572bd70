"""Builds the site: the pages of docs/ and the generated ones, by MkDocs, where every warning is an error."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from rootfs.base.errors import SallyportError

PROJECT = Path(__file__).parents[2]
SETTINGS = PROJECT / "mkdocs.yml"


def build(target: Path) -> Path:
    """Build the site anew and return its first page; where that fails, the site that was there stays.

    Raises:
        SallyportError: a link or an anchor leads nowhere, a page is not in the navigation, a picture cannot be drawn.
    """
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # the theme's advertisement for another tool
    from mkdocs.commands import build as command
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort, MkDocsException
    from pymdownx.superfences import SuperFencesException  # type: ignore[import-untyped]

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    problems = _Problems(logging.WARNING)
    logger = logging.getLogger("mkdocs")
    logger.addHandler(problems)
    try:
        config = load_config(str(SETTINGS), site_dir=str(work), strict=True)
        command.build(config)
        shutil.rmtree(target, ignore_errors=True)
        work.chmod(0o755)
        work.rename(target)
    except (Abort, MkDocsException, ValueError, SuperFencesException) as error:
        said = "; ".join(problems.said) or str(error)
        raise SallyportError(f"the documents cannot be built: {said}", "mend the page that is named") from error
    finally:
        logger.removeHandler(problems)
        shutil.rmtree(work, ignore_errors=True)
    return target / "index.html"


def serve(address: str) -> None:
    """Serve the site on an address such as ``127.0.0.1:8000`` and build it anew when a page changes, until Ctrl-C."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    from mkdocs.commands.serve import serve as command

    command(config_file=str(SETTINGS), dev_addr=address, strict=True)


class _Problems(logging.Handler):
    """What MkDocs warned of."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.said.append(record.getMessage())
