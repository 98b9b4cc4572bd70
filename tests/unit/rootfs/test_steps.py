"""The cache of build steps."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rootfs import steps
from tests.unit.rootfs.conftest import Desk


class Work:
    """A step's work that counts its runs and leaves a file."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.runs = 0
        self.error = error

    def __call__(self, output: Path) -> None:
        assert list(output.iterdir()) == []
        self.runs += 1
        (output / "made").write_text(f"run {self.runs}")
        if self.error is not None:
            raise self.error


def test_a_step_runs_once_and_says_why(desk: Desk) -> None:
    work = Work()
    first = desk.cache().step("root", "Root", {"a": "1"}, work)
    assert "Root (never built here" in desk.said
    assert (first / "made").read_text() == "run 1"
    assert desk.cache().step("root", "Root", {"a": "1"}, work) == first
    assert work.runs == 1
    assert "Root (nothing changed)" in desk.said


def test_the_same_step_twice_in_one_run_is_told_once(desk: Desk) -> None:
    cache, work = desk.cache(), Work()
    assert cache.step("root", "Root", {"a": "1"}, work) == cache.step("root", "Root", {"a": "1"}, work)
    assert work.runs == 1
    assert "nothing changed" not in desk.said


def test_a_changed_input_runs_it_again_and_is_named(desk: Desk) -> None:
    work = Work()
    first = desk.cache().step("root", "Root", {"a": "1", "b": "1"}, work)
    _ = desk.said
    second = desk.cache().step("root", "Root", {"a": "1", "b": "2"}, work)
    assert second != first
    assert work.runs == 2
    assert "Root (changed: b; " in desk.said
    desk.cache().step("root", "Root", {"x": "1", "y": "1", "z": "1"}, work)
    assert "Root (changed: a, b and 3 more; " in desk.said


def test_going_back_finds_the_earlier_output(desk: Desk) -> None:
    work = Work()
    first = desk.cache().step("root", "Root", {"a": "1"}, work)
    desk.cache().step("root", "Root", {"a": "2"}, work)
    assert desk.cache().step("root", "Root", {"a": "1"}, work) == first
    assert work.runs == 2
    assert (first / "made").read_text() == "run 1"


def test_an_output_that_was_removed_is_made_again(desk: Desk) -> None:
    work = Work()
    steps.remove(desk.cache().step("root", "Root", {"a": "1"}, work))
    _ = desk.said
    desk.cache().step("root", "Root", {"a": "1"}, work)
    assert work.runs == 2
    assert "its output is gone" in desk.said


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt()], ids=["failure", "Ctrl-C"])
def test_a_step_that_does_not_end_leaves_nothing_and_runs_again(desk: Desk, error: BaseException) -> None:
    cache, work = desk.cache(), Work(error)
    with pytest.raises(type(error)):
        cache.step("root", "Root", {"a": "1"}, work)
    assert [path.name for path in desk.directory.iterdir()] == [".root.lock"]
    work.error = None
    output = cache.step("root", "Root", {"a": "1"}, work)
    assert (output / "made").read_text() == "run 2"


def test_of_two_builds_at_the_same_time_one_does_the_work_and_both_have_it(desk: Desk) -> None:
    began, other, outputs = threading.Event(), Work(), []

    def slow(output: Path) -> None:
        began.set()
        waiting.wait(10)
        (output / "made").write_text("first")

    waiting = threading.Event()
    first = threading.Thread(target=lambda: outputs.append(desk.cache().step("root", "Root", {"a": "1"}, slow)))
    first.start()
    assert began.wait(10)
    threading.Timer(0.2, waiting.set).start()
    outputs.append(desk.cache().step("root", "Root", {"a": "1"}, other))
    first.join()
    assert other.runs == 0
    assert "another build is at it" in desk.said
    assert [(output / "made").read_text() for output in outputs] == ["first"] * 2


def test_what_cannot_be_written_in_is_removed_too(tmp_path: Path) -> None:
    locked = tmp_path / "tree/locked"
    locked.mkdir(parents=True)
    (locked / "file").write_text("")
    locked.chmod(0o500)
    steps.remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    steps.remove(tmp_path / "tree")


def test_four_outputs_of_each_step_are_kept_the_least_used_goes(desk: Desk) -> None:
    outputs = []
    for number in range(4):
        output = desk.cache().step("root", "Root", {"a": str(number)}, Work())
        os.utime(output, (number, number))
        outputs.append(output)
    other = desk.cache().step("root-two", "Another step", {"a": "1"}, Work())
    os.utime(other, (0, 0))
    desk.cache().step("root", "Root", {"a": "0"}, Work())  # used: now the youngest
    newest = desk.cache().step("root", "Root", {"a": "new"}, Work())
    there = {path for path in desk.directory.iterdir() if path.is_dir()}
    assert there == {outputs[0], outputs[2], outputs[3], newest, other}


def test_a_damaged_record_is_no_reason_to_stop(desk: Desk) -> None:
    desk.cache().step("root", "Root", {"a": "1"}, Work())
    (desk.directory / "root.json").write_text('{"a": ')
    desk.cache().step("root", "Root", {"a": "2"}, Work())
    assert json.loads((desk.directory / "root.json").read_text()) == {"a": "2"}


def test_a_digest_is_of_names_contents_links_and_the_executable_bit(tmp_path: Path) -> None:
    file, link = tmp_path / "tree/file", tmp_path / "tree/link"
    file.parent.mkdir()
    file.write_text("a")
    link.symlink_to("file")
    seen = [steps.digest_path(tmp_path / "tree")]

    def changed() -> bool:
        seen.append(steps.digest_path(tmp_path / "tree"))
        return seen[-1] not in seen[:-1]

    os.utime(file, (1, 1))
    (file.parent / "__pycache__").mkdir()
    (file.parent / "__pycache__/x.pyc").write_text("x")
    assert not changed()
    file.write_text("b")
    assert changed()
    file.chmod(0o755)
    assert changed()
    link.unlink()
    link.symlink_to("elsewhere")
    assert changed()
    file.rename(file.with_name("renamed"))
    assert changed()
