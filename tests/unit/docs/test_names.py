"""What the documents name exists: tasks with their options, variables, files, modules."""

from __future__ import annotations

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
