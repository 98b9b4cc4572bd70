"""Errors as people read them."""

from __future__ import annotations

import errno
import inspect
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from invoke import Exit
from rich.table import Table

from rootfs.base import debugging, packages, process
from rootfs.base.cli_errors import PlainConsole, build_task, report_errors
from rootfs.base.errors import CommandError, SallyportError

NO_ROOM = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SallyportError("it is [red]", "mend it"), ["error: it is [red]", "what to do: mend it"]),
        (PermissionError(errno.EACCES, "Permission denied", "/a file"), ["error: /a file: Permission denied"]),
        (OSError(errno.ENOSPC, NO_ROOM), [f"error: {NO_ROOM}", "what to do: make room"]),
        (
            shutil.Error([("a", "/out/a", f"[Errno 28] {NO_ROOM}"), ("b", "/out/b", NO_ROOM)]),
            [f"error: /out/a: [Errno 28] {NO_ROOM}, and 1 more like it", "what to do: make room"],
        ),
    ],
)
def test_what_can_be_expected_is_a_sentence(
    error: Exception, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(Exit) as caught:
        report_errors(fail)()
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for part in words:
        assert part in said


def test_what_somebody_said_does_not_steer_the_terminal() -> None:
    """By each way that text takes to it: printed, in a table, in progress that is drawn over again."""
    steering = "a\x1b[2Jb\x1b]0;title\x07c\x9bd\u202ee"
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True, width=200)
    table = Table(steering)
    table.add_row(steering)
    console.print(steering, markup=False, highlight=False)
    console.print(table)
    with console.status(steering):
        pass
    said = file.getvalue()
    assert said.count("a?[2Jb?]0;title") == 4
    assert not {"\x07", "\x9b", "\u202e"} & set(said)
    assert "\x1b[2J" not in said
    assert "\x1b]" not in said
    assert "\x1b[?25l" in said  # its own are there: the progress hid the cursor


@pytest.mark.parametrize("options", [{}, {"newest": False}, {"newest": True}])
def test_the_newest_is_asked_for_by_an_option_of_every_task_that_builds(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(packages.NEWEST, "")
    seen: list[tuple[str, bool]] = []

    @build_task
    def work(profile: str = "qemu") -> None:
        seen.append((profile, packages.newest()))

    work("mine", **options)
    assert seen == [("mine", options.get("newest", False))]
    assert list(inspect.signature(work).parameters) == ["profile", "newest"]


def test_no_password_of_an_address_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SallyportError("https://me:se@cret@host/x and http://host/@y", "ask http://token@host/")

    with pytest.raises(Exit):
        report_errors(fail)()
    said = capsys.readouterr().err
    assert "https://***@host/x and http://host/@y" in said
    assert "http://***@host/" in said


@pytest.mark.parametrize("text", ["usr/[/foo]", "x\\[/]", "\\[link=\x1bc]y", "[bold]z[/bold]"])
def test_nothing_that_somebody_said_is_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SallyportError(text, text)

    with pytest.raises(Exit):
        report_errors(fail)()
    said = capsys.readouterr().err
    assert said.count(text.replace("\x1b", "?")) == 2
    assert "\x1b" not in said


def test_who_looks_for_a_fault_sees_where_it_is_and_the_command_to_paste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        try:
            process.run(["sh", "-c", 'test "$WORD" = "a b" && cat && exit 3'], cwd=tmp_path, env={"WORD": "a b"})
        except CommandError as error:
            raise SallyportError("the step failed", "mend it") from error

    for value, expected in (("", False), ("1", True)):
        monkeypatch.setenv(debugging.DEBUG, value)
        with pytest.raises(Exit):
            report_errors(fail)()
        said = capsys.readouterr().err
        assert ("Traceback (most recent call last)" in said) == expected
        assert ("this command failed: (cd " in said) == expected
        assert "error: the step failed" in said
    pasted = said.split("this command failed: ")[1].splitlines()[0]
    assert subprocess.run(["sh", "-c", pasted], check=False).returncode == 3
