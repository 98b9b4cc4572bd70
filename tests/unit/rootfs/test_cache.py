"""The cache of build steps."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rootfs.base import cache as steps
from rootfs.base import debugging
from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT
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


def test_who_looks_for_a_fault_finds_the_directory_of_a_failed_step_until_it_runs_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(debugging.DEBUG, "1")
    other = desk.directory / f".root-more-{'0' * 20}.1"  # a step of another name may be at work
    other.mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            desk.cache().step("root", "Root", {}, Work(OSError("no")))
        (kept,) = desk.directory.glob(f".root-{'[0-9a-f]' * 20}.*")
        assert (kept / "made").read_text() == "run 1"
        assert f"Root: kept as it was when it failed: {kept}" in desk.said
    with pytest.raises(KeyboardInterrupt):
        desk.cache().step("root", "Root", {}, Work(KeyboardInterrupt()))
    assert list(desk.directory.glob(f".root-{'[0-9a-f]' * 20}.*")) == []
    assert other.is_dir()


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
    assert "waiting for another build" in desk.said
    assert [(output / "made").read_text() for output in outputs] == ["first"] * 2


def as_owner(path: Path, call: str) -> None:
    """Call ``steps.<call>(path)`` as a user whom modes bind, root or not."""
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    code = f"import sys; from pathlib import Path; from rootfs.base import cache; cache.{call}(Path(sys.argv[1]))"
    subprocess.run([*bound, sys.executable, "-c", code, path], cwd=PROJECT, check=True)


@pytest.mark.parametrize("mode", [0o500, 0o300, 0o000], ids=oct)
@pytest.mark.parametrize("place", ["tree", "tree/deep/locked"])
def test_what_cannot_be_written_in_is_removed_too_and_nothing_above_is_changed(
    tmp_path: Path, mode: int, place: str
) -> None:
    above = tmp_path / "above"
    (above / place / "deeper").mkdir(parents=True)
    (above / place / "deeper/file").write_text("")
    (above / place).chmod(mode)
    above.chmod(0o751)
    as_owner(above / "tree", "remove")
    assert list(above.iterdir()) == []
    assert stat.S_IMODE(above.stat().st_mode) == 0o751
    as_owner(above / "tree", "remove")


def test_what_cannot_be_removed_is_an_error_and_nothing_above_is_changed(tmp_path: Path) -> None:
    (tmp_path / "above/tree").mkdir(parents=True)
    (tmp_path / "above").chmod(0o550)
    with pytest.raises(subprocess.CalledProcessError):
        as_owner(tmp_path / "above/tree", "remove")
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == 0o550


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "tree with a link"])
def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("")
    precious.chmod(0o500)
    path = tmp_path / "path"
    if kind == "file":
        path.write_text("")
    elif kind == "tree with a link":
        path.mkdir()
        (path / "link").symlink_to(precious)
    else:
        path.symlink_to(precious if kind == "link" else "nowhere")
    steps.remove(path)
    assert not os.path.lexists(path)
    assert (precious / "file").exists()
    assert stat.S_IMODE(precious.stat().st_mode) == 0o500


def test_a_directory_is_emptied_by_whatever_link_it_is_named(tmp_path: Path) -> None:
    disk, other = tmp_path / "disk/deep", tmp_path / "other"
    (disk / "tree").mkdir(parents=True)
    other.mkdir()
    (other / "precious").write_text("")
    (disk / "cache").symlink_to(other)
    (disk / "SHA256SUMS").write_text("")
    (disk / "tree").rename(disk / "verify")
    (disk / "file").write_text("")
    (tmp_path / "half").symlink_to("disk")
    (tmp_path / "out").symlink_to("half/deep")
    assert steps.empty(tmp_path / "out") == ([other], [disk / "file"])
    assert list(disk.iterdir()) == [disk / "file"]
    assert (tmp_path / "out").is_symlink()
    assert (other / "precious").exists()


@pytest.mark.parametrize("there", ["disk", "disk/checkout"])
def test_what_has_the_checkout_in_it_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    (tmp_path / "disk/checkout/rootfs").mkdir(parents=True)
    monkeypatch.setattr(steps, "PROJECT", tmp_path / "disk/checkout")
    (tmp_path / "out").symlink_to(tmp_path / there)
    with pytest.raises(SallyportError, match=r"out leads to "):
        steps.empty(tmp_path / "out")
    assert (tmp_path / "disk/checkout/rootfs").exists()


@pytest.mark.parametrize("way", ["cache", "."])
@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_something_in_the_place_of_a_directory_is_named(desk: Desk, way: str, kind: str) -> None:
    path = (desk.directory / ".." / way).resolve() / ("x" if way == "." else "")
    desk.directory = path / "cache" if way == "." else desk.directory
    path.write_text("") if kind == "file" else path.symlink_to("nowhere")
    with pytest.raises(SallyportError, match=f"{path} is ") as caught:
        desk.cache().step("root", "Root", {"a": "1"}, Work())
    assert "disk" in caught.value.hint


def test_a_file_in_the_place_of_an_output_gives_way(desk: Desk) -> None:
    output = desk.cache().step("root", "Root", {"a": "1"}, Work())
    steps.remove(output)
    output.write_text("")
    assert (desk.cache().step("root", "Root", {"a": "1"}, Work()) / "made").exists()


def test_a_cache_may_be_a_link_to_another_disk(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    desk.directory.symlink_to(tmp_path / "disk")
    output = desk.cache().step("root", "Root", {"a": "1"}, Work())
    assert (tmp_path / "disk" / output.name / "made").exists()


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
    by_link = tmp_path / "by link"
    by_link.symlink_to(tmp_path / "tree")
    assert steps.digest_path(by_link) == seen[-1]
