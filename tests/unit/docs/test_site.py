"""The site is built strictly, shows what the code says, and fetches nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs.generate import environment, instructions, pages, pictures, profile, rest_api, site, tasks
from docs.generate.site import PROJECT
from frontend_vm import cli
from frontend_vm.words import WORDS
from rootfs.base.errors import SallyportError
from rootfs.spec.profile import DATAPATHS
from tests.unit.docs import names

_LOADS = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "use": "href"}


class _Page(HTMLParser):
    """Links, anchors and what a browser would fetch of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if (name := _LOADS.get(tag)) and name in found and found.get("rel") != "canonical":
            self.loads.append(found[name])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site.build(tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="module")
def parsed(built: Path) -> dict[Path, _Page]:
    return {file: _Page(file.read_text()) for file in sorted(built.rglob("*.html")) if file.name != "404.html"}


def test_every_link_and_anchor_of_the_site_leads_somewhere(parsed: dict[Path, _Page]) -> None:
    astray = []
    for file, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchors = parsed[target].anchors if target in parsed else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                astray.append(f"{file.name}: {link}")
    assert parsed
    assert astray == []


def test_a_page_fetches_nothing_from_elsewhere(parsed: dict[Path, _Page], built: Path) -> None:
    elsewhere = [(file.name, where) for file, page in parsed.items() for where in page.loads if urlsplit(where).netloc]
    styles = [
        (file.name, found)
        for file in built.rglob("*.css")
        for found in re.findall(r"url\(['\"]?(https?:|//)|@import", file.read_text())
    ]
    assert elsewhere == []
    assert styles == []


def test_the_reference_has_all_that_the_code_has(built: Path) -> None:
    def shown(page: str) -> str:
        return (built / page).read_text()

    assert [name for name in tasks.tasks() if f"invoke {name}<" not in shown("reference/tasks.html")] == []
    assert [name for name in instructions.kinds() if f">{name}<" not in shown("reference/instructions.html")] == []
    assert [path for path in rest_api.routes() if path not in shown("reference/rest-api.html")] == []
    assert [name for name in cli.COMMANDS if f"<code>{name}" not in shown("reference/ssh.html")] == []
    assert [name for name in environment.variables() if name not in shown("reference/environment.html")] == []
    assert [name for name in DATAPATHS if f"<code>{name}<" not in shown("reference/datapaths.html")] == []
    assert [name for name in WORDS.verdicts if f"<code>{name}<" not in shown("reference/datapaths.html")] == []
    fields = [name for model in profile.tables().values() for name in model.model_fields]
    assert [name for name in fields if name not in shown("integrate/profile.html")] == []


def test_every_field_of_a_profile_says_what_it_means() -> None:
    silent = [
        f"{path}.{row[0]}" for path, model in profile.tables().items() for row in profile.rows(model, {}) if not row[4]
    ]
    assert silent == []


def test_every_option_of_a_task_says_what_it_is() -> None:
    silent = [
        f"{name} {option.typed}"
        for name, task in tasks.tasks().items()
        for option in tasks.options(task)
        if not option.help
    ]
    assert silent == []


def test_options_are_told_again_with_every_build() -> None:
    task = tasks.tasks()["image"]
    assert tasks.options(task) == tasks.options(task)
    assert tasks.options(task)[0].help


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_the_links_of_a_file_beside_the_documents_lead_somewhere(name: str) -> None:
    file = PROJECT / name
    if not file.exists():
        pytest.skip("not there")
    assert _astray(file) == []


def _astray(file: Path) -> list[str]:
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        path, _, anchor = link.partition("#")
        if urlsplit(link).scheme:
            continue
        target = file.parent / path if path else file
        titles = (
            re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            if target.suffix == ".md" and target.is_file()
            else []
        )
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
        if not target.exists() or (anchor and anchor not in slugs):
            found.append(link)
    return found


def test_links_of_a_file_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# A title\n[a](other.md) [b](#a-title) [c](#nothing) [d](https://example.org/)\n")
    assert _astray(file) == ["other.md", "#nothing"]


def test_a_page_that_names_what_the_code_does_not_have_is_an_error() -> None:
    assert pages.render('{{ value("frontend_vm.cli:FAILED") }}', "page.md") == "1"
    for wrong in ('{{ value("frontend_vm.cli:NOTHING") }}', '{{ value("frontend_vm.nothing:A") }}', "{{ nothing() }}"):
        with pytest.raises(ValueError, match=r"docs/page\.md: "):
            pages.render(wrong, "page.md")


def test_a_picture_is_drawn_as_svg_and_wants_a_title() -> None:
    drawn = pictures.draw("┌───┐\n│ a ├──►\n└───┘", "A <box>")
    assert "<svg" in drawn
    assert "A &lt;box&gt;" in drawn
    with pytest.raises(ValueError, match="without a title"):
        pictures.draw("┌───┐\n│ a │\n└───┘", "")


def test_the_picture_of_the_readme_is_aligned() -> None:
    lines = (PROJECT / "README.md").read_text().splitlines()
    drawn = "\n".join(
        line for line in lines if line.startswith("    ") and re.search("[─│┌┐└┘]|management network", line)
    )
    assert "<svg" in pictures.draw(drawn, "The data path")
    with pytest.raises(ValueError, match="cannot be drawn"):
        pictures.draw(drawn.replace("│ forwarder (C)    ", "│ forwarder (C)   "), "The data path")


def test_every_picture_of_the_documents_is_drawn(built: Path) -> None:
    shown_as_text = re.compile(r"^````.*?^````$", re.DOTALL | re.MULTILINE)
    pages_ = [shown_as_text.sub("", file.read_text()) for file in names.documents()]
    wanted = sum(len(re.findall(r"^``` \{ \.picture ", page, re.MULTILINE)) for page in pages_)
    assert wanted == sum(file.read_text().count('<figure class="picture">') for file in built.rglob("*.html")) > 0


def test_a_broken_link_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A\n\n[b](nothing.md)\n")
    settings = tmp_path / "mkdocs.yml"
    settings.write_text("site_name: A\nvalidation: {links: {not_found: warn}}\n")
    monkeypatch.setattr(site, "SETTINGS", settings)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index.html").write_text("before")
    with pytest.raises(SallyportError, match=r"nothing\.md"):
        site.build(tmp_path / "out")
    assert (tmp_path / "out/index.html").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "mkdocs.yml", "out"]


def _unrendered(markdown: str) -> list[str]:
    """Lines that look like the begin of a list but would be part of the paragraph before: no empty line in between."""
    found, before, inside = [], "", False
    for line in markdown.splitlines():
        inside ^= line.lstrip().startswith("```")
        item = re.match(r"(?:\*|\d+\.) ", line)
        if item and not inside and before and (before.startswith("    ") or not re.match(r"\*|\d+\.| ", before)):
            found.append(line)
        before = line
    return found


@pytest.mark.parametrize("file", names.documents(), ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_list_begins_behind_an_empty_line(file: Path) -> None:
    assert _unrendered(file.read_text()) == []


def test_a_list_that_would_not_be_one_is_found() -> None:
    assert _unrendered("Text\n* one\n\n1. first\n\n    more\n2. second\n") == ["* one", "2. second"]
    assert _unrendered("Text\n\n* one\n  more\n* two\n\n1. first\n   more\n2. second\n") == []
