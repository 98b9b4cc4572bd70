"""MkDocs' hooks: what the code says, in every page; the pages of a folder, in the navigation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

from docs.generate import pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder in the place of ``folder/*``."""
    named: set[str] = set()
    config.nav = _expanded(config.nav or [], Path(config.docs_dir), named)
    return config


def _expanded(items: list[Any], root: Path, named: set[str]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            found += [{title: _expanded(inner, root, named) for title, inner in item.items()}]
        elif item.endswith("/*"):
            pages_ = [str(file.relative_to(root)) for file in sorted((root / item[:-2]).glob("*.md"))]
            found += [page for page in pages_ if page not in named]
        else:
            named.add(item)
            found.append(item)
    return [item for item in found if not isinstance(item, dict) or any(item.values())]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page's Markdown before it is rendered."""
    return pages.render(markdown, page.file.src_uri)
