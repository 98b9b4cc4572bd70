"""Puts what the code says into a page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import jinja2

from docs.generate import datapaths, environment, instructions, profile, reports, rest_api, ssh, tasks
from docs.generate.markdown import sentence, text

DOCS = Path(__file__).parents[1]
FILES = {"CONTRIBUTING.md": "contribute/contributing.md", "SECURITY.md": "security/report-a-flaw.md"}
"""Files beside docs/ and the pages that show them."""
_MODULES = (datapaths, environment, instructions, profile, reports, rest_api, ssh, tasks)


def value(where: str) -> Any:
    """A name of the code: ``value("frontend_vm.api:MAX_SESSIONS")``.

    Raises:
        AttributeError: the module has no such name.
        ImportError: there is no such module.
    """
    module, _, name = where.partition(":")
    found: Any = importlib.import_module(module)
    for step in name.split("."):
        found = getattr(found, step)
    return found


def listed(folder: str) -> str:
    """A list of links to the pages of a folder below docs/, by their titles, for a page in that folder."""
    files = sorted((DOCS / folder).glob("*.md"))
    titles = {file.name: file.read_text().partition("\n")[0].lstrip("# ") for file in files if file.name != "index.md"}
    return "\n".join(f"* [{title}]({name})" for name, title in sorted(titles.items(), key=lambda item: item[1].lower()))


def project_file(name: str) -> str:
    """A file beside docs/, for a page in one of the folders of docs/: links to pages stay links, others become text."""

    def link(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if target in FILES:
            return f"[{words}](../{FILES[target]})"
        if target.startswith("docs/") and target.partition("#")[0].endswith(".md"):
            return f"[{words}](../{target.removeprefix('docs/')})"
        return words if re.match(r"https?:", target) is None else found[0]

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, (DOCS.parent / name).read_text())


def render(markdown: str, path: str) -> str:
    """A page with every ``{{ ... }}`` replaced; one without any as it is.

    Raises:
        ValueError: the page names what the code does not have.
    """
    if "{{" not in markdown:
        return markdown
    settings = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - Markdown
    settings.globals |= {module.__name__.rpartition(".")[2]: module for module in _MODULES}
    settings.globals |= {
        "value": value,
        "pages": listed,
        "project_file": project_file,
        "sentence": sentence,
        "text": text,
    }
    try:
        return settings.from_string(markdown).render()
    except (jinja2.TemplateError, AttributeError, ImportError) as error:
        raise ValueError(f"docs/{path}: {error}") from error
