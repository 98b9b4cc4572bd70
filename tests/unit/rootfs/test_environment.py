"""However the process was started, what it makes and reads is the same."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootfs.base.process import environment, run
from rootfs.base.version import PROJECT
from rootfs.engines import select_files
from rootfs.tree import overlay, squashfs
from tests.unit.rootfs.conftest import Desk, FakeTools

PROGRAM = """
import os, stat, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rootfs.base.cli_errors import report_errors

@report_errors
def task():
    Path("made").write_text("ü")
    same, text = os.getpid() == int(os.environ["STARTED"]), Path("text").read_text()
    print(same, ascii(text), oct(Path("made").stat().st_mode))

os.environ.setdefault("STARTED", str(os.getpid()))
task()
"""


@pytest.fixture(params=[0o077, 0o002, 0o022], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(tree: Path) -> dict[str, int]:
    return {path.relative_to(tree).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in tree.rglob("*")}


@pytest.mark.parametrize(
    "locale",
    [
        {},
        {"LC_ALL": "C.UTF-8"},
        # Neither is a C locale taken for UTF-8 then (PEP 538, PEP 540), nor one that is not there.
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "tr_TR.ISO-8859-9", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda locale: locale.get("LC_ALL", "none"),
)
@pytest.mark.parametrize("mask", [0o077, 0o022], ids=oct)
def test_a_task_reads_utf8_and_makes_files_for_all(tmp_path: Path, locale: dict[str, str], mask: int) -> None:
    (tmp_path / "text").write_bytes("ü".encode())
    (tmp_path / "program.py").write_text(PROGRAM)
    env = {"PATH": os.environ["PATH"], **locale}
    words = [sys.executable, str(tmp_path / "program.py"), str(PROJECT)]
    said = subprocess.run(words, cwd=tmp_path, env=env, umask=mask, capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["True", ascii("ü"), "0o100644"], said.stderr
    assert (tmp_path / "made").read_bytes() == "ü".encode()


def test_a_step_makes_what_all_may_read(desk: Desk, umask: int) -> None:
    def build(output: Path) -> None:
        (output / "a/b").mkdir(parents=True)
        (output / "a/file").write_text("")
        run(["sh", "-c", "mkdir c; echo >c/file"], cwd=output)

    made = desk.cache().step("root", "Root", {}, build)
    assert modes(made) == {"a": 0o755, "a/b": 0o755, "a/file": 0o644, "c": 0o755, "c/file": 0o644}
    assert stat.S_IMODE(made.stat().st_mode) == 0o755


def test_a_child_has_the_same_umask(tmp_path: Path, umask: int) -> None:
    assert run(["sh", "-c", "umask"]).strip() == "0022"


@pytest.mark.parametrize(
    ("private", "wide"), [(0o600, 0o700), (0o666, 0o777), (0o444, 0o555)], ids=["700", "777", "555"]
)
def test_modes_in_a_checkout_are_those_that_git_keeps(tmp_path: Path, private: int, wide: int, umask: int) -> None:
    """A file that its owner may execute, or not: whatever else the file system of the checkout says."""
    source, tree = tmp_path / "overlay", tmp_path / "build/tree"
    (source / "etc").mkdir(parents=True)
    tree.mkdir(parents=True)
    for name, mode in (("plain", private), ("template.j2", private), ("program", wide)):
        (source / "etc" / name).write_text("")
        (source / "etc" / name).chmod(mode)
    (source / "etc").chmod(0o700)
    os.symlink("plain", source / "etc/link")
    overlay.apply(source, tree, {})
    overlay.skeleton(tree)
    select_files.copy(source, ["etc/plain"], tree / "copied")
    (tree / "etc").chmod(0o700)
    (tree / "by-hand").write_text("")
    squashfs.make(FakeTools(), tree.parent, "tree", "root", level=None)
    found = {name: mode for name, mode in modes(tree).items() if not (tree / name).is_symlink()}
    programs = {name for name, mode in found.items() if mode == 0o755 and (tree / name).is_file()}
    assert programs == {"etc/program"}
    assert {mode for name, mode in found.items() if (tree / name).is_dir()} == {0o755}
    assert {mode for name, mode in found.items() if name not in programs and (tree / name).is_file()} == {0o644}


def test_of_the_environment_a_child_sees_nothing_that_says_who_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ("USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHASHSEED", "SOURCE_DATE_EPOCH", "CFLAGS")
    for name in told:
        monkeypatch.setenv(name, "x")
    assert environment().keys().isdisjoint(told)
    assert environment()["LC_ALL"] == "C.UTF-8"
