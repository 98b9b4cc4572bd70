"""What the documents name exists: tasks with their options, variables, files, modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import pages
from docs.generate.site import PROJECT
from tests.unit.docs import names


@pytest.mark.parametrize("file", names.documents(), ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_name_in_a_document_exists(file: Path) -> None:
    assert names.wrong(pages.render(file.read_text(), file.name)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("run `invoke imagee` first", "no task: invoke imagee"),
        ("`invoke image --profil qemu`", "no option: invoke image --profil"),
        ("```\n$ .venv/bin/invoke verify --quik\n```", "no option: invoke verify --quik"),
        ("    `--newst` takes the newest", "no option of any task: --newst"),
        ("`$SALLYPORT_NOTHING`", "no variable: SALLYPORT_NOTHING"),
        ("see `backend/nothing.py`", "no file or folder: backend/nothing.py"),
        ("see `rootfs/spec/profiles/*.tom`", "no file or folder: rootfs/spec/profiles/*.tom"),
        ("see `nothing.py`", "no file of that name: nothing.py"),
        ("`python3 -I -m backend.nothing check`", "no module or name in one: backend.nothing"),
        ("`backend.protocol.codec.NOTHING`", "no module or name in one: backend.protocol.codec.NOTHING"),
    ],
)
def test_a_name_that_does_not_exist_is_found(text: str, complaint: str) -> None:
    assert names.wrong(text) == [complaint]


@pytest.mark.parametrize(
    "text",
    [
        "`invoke image --profile path/to/mine.toml --newest`, `invoke --list`, `.ci/setup && .venv/bin/invoke run`",
        "`--way`, `--yes`, `$SALLYPORT_CCACHE`, `out/docs/index.html`, `/data/sallyport`, `sda/1`",
        "`rootfs/spec/profiles/*.toml`, `tasks.py`, `backend/`, `backend.protocol.codec.MAX_LINE`",
    ],
)
def test_names_that_exist_are_no_complaint(text: str) -> None:
    assert names.wrong(text) == []


_MESSAGES = re.compile(r"^\| it says \| do \|\n\|[- |]+\n((?:\|.*\n)+)", re.MULTILINE)
_JOINT = re.compile(r"""["']\s*\n\s*f?["']""")


def _messages(markdown: str) -> list[str]:
    """Each message of the tables "it says | do", in the pieces that are between what differs from time to time."""
    rows = "".join(_MESSAGES.findall(markdown))
    quoted = [span for row in rows.splitlines() for span in re.findall(r"^\| `([^`]+)`", row)]
    return [piece.strip() for message in quoted for piece in message.split("...") if piece.strip()]


def _silent(pieces: list[str]) -> list[str]:
    folders = ("backend", "driver", "frontend_vm", "overlays", "proof", "rootfs")
    files = [file for folder in folders for file in (PROJECT / folder).rglob("*") if file.suffix in (".py", ".j2")]
    said = "\n".join(_JOINT.sub("", file.read_text()) for file in files)
    known = re.sub(r"\{[^{}]*\}", "{}", said)
    return [piece for piece in pieces if piece not in known and piece not in said]


def test_every_error_message_that_the_documents_explain_is_printed_by_the_product() -> None:
    pieces = [piece for file in names.documents() for piece in _messages(file.read_text())]
    assert len(pieces) > 20
    assert _silent(pieces) == []


def test_a_message_that_nothing_prints_is_found() -> None:
    page = "| it says | do |\n| --- | --- |\n| `no image ...` | a |\n| `the moon is ... of cheese` | b |\n"
    assert _silent(_messages(page)) == ["the moon is", "of cheese"]
