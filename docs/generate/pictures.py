"""Pictures: a fence ``picture`` in a page holds box-drawing characters, which the site shows as an SVG.

So a picture is readable where only the text is shown (an editor, a change under review), and no program but Python
draws it. The fence names its title: ``{ .picture title="..." }``.
"""

from __future__ import annotations

import html
from typing import Any

import ascii2svg
from pymdownx.superfences import SuperFencesException  # type: ignore[import-untyped]


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **others: Any) -> str:
    """The fence of PyMdown's superfences: the text of a picture as an SVG with a caption.

    Raises:
        SuperFencesException: it cannot be drawn; any other exception would leave the text as it is, without a word.
    """
    del language, css_class, options, md
    try:
        return draw(source, str(others.get("attrs", {}).get("title", "")))
    except ValueError as error:
        raise SuperFencesException(str(error)) from error


def draw(source: str, title: str) -> str:
    """A figure of a picture's text; colours follow the reader's light or dark setting.

    Raises:
        ValueError: it has no title, or the drawing would differ from the text.
    """
    if not title:
        raise ValueError('a picture without a title: write ``` { .picture title="what it shows" }')
    svg, report = ascii2svg.render(source, style="flat", theme="auto", title=title)
    if report["status"] != "ok":
        raise ValueError(f"the picture {title!r} cannot be drawn as it is written: {report['summary']}")
    return f'<figure class="picture">{svg}<figcaption>{html.escape(title)}</figcaption></figure>'
