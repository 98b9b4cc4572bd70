"""Child processes, and the tools tree's command line."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.process import Stopped, environment, run
from rootfs.base.tools_tree import BUILD, EPOCH, Tools
from tests.unit.rootfs.conftest import Program


def test_both_outputs_come_back_and_each_line_as_it_comes(tmp_path: Path) -> None:
    lines: list[str] = []
    printed = run(["sh", "-c", "echo one; echo two >&2; pwd"], cwd=tmp_path, on_line=lines.append)
    assert printed == f"one\ntwo\n{tmp_path}\n"
    assert lines == ["one", "two", str(tmp_path)]


def test_words_never_go_through_a_shell() -> None:
    assert run(["printf", "%s\n", "$(id); `id`", Path("/a b")]) == "$(id); `id`\n/a b\n"


def test_a_failure_carries_the_command_line_and_the_last_lines() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "seq 1 40; exit 3"])
    message = str(caught.value)
    assert "ended with status 3" in message
    assert "  sh -c 'seq 1 40; exit 3'\n" in message
    assert message.endswith("\n".join(str(number) for number in range(26, 41)))
    assert "\n25\n" not in message


def test_a_program_that_is_killed_is_a_failure() -> None:
    with pytest.raises(CommandError, match="status -9"):
        run(["sh", "-c", "kill -9 $$"])


def test_a_missing_program_is_named_with_what_to_do() -> None:
    with pytest.raises(SallyportError, match="no-such-program is not installed") as caught:
        run(["no-such-program", "x"])
    assert "no-such-program" in caught.value.hint


@pytest.mark.parametrize("words", ["No space left on device", "write failed: no space left on device"])
def test_a_full_disk_is_said_in_one_sentence(words: str) -> None:
    # Long before the last lines: what a program prints while it gives up must not hide the reason.
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", f"echo 'x: {words}'; seq 1 40; exit 1"])
    assert str(caught.value) == "the disk is full: sh could not write"
    assert "invoke clean" in caught.value.hint


def test_words_about_space_that_were_long_ago_are_not_the_reason() -> None:
    with pytest.raises(CommandError, match="ended with status 1"):
        run(["sh", "-c", "echo 'x: No space left on device'; seq 1 400; exit 1"])


def test_words_about_space_without_a_failure_are_none() -> None:
    assert "No space" in run(["echo", "No space left on device"])


def gone(pid: int) -> bool:
    """No such process, or one that only waits to be reaped by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_ctrl_c_ends_the_child_and_its_children() -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "echo $$; sleep 60 & echo $!; wait"], on_line=on_line)
    deadline = time.monotonic() + 5
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "a child outlived Ctrl-C"
        time.sleep(0.01)


def test_a_child_has_no_input_and_little_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    ours, (reader, writer) = os.dup(0), os.pipe()
    os.write(writer, b"typed by somebody\n")
    os.close(writer)
    os.dup2(reader, 0)
    try:
        printed = run(["sh", "-c", "cat; env"], env={"TZ": "UTC"})
    finally:
        os.dup2(ours, 0)
        os.close(ours)
        os.close(reader)
    assert "typed" not in printed
    assert "SECRET_TOKEN" not in printed
    assert {"https_proxy=http://proxy:3128", "LC_ALL=C.UTF-8", "TZ=UTC"} <= set(printed.splitlines())


def test_programs_in_sbin_are_found_and_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin")
    assert environment()["PATH"] == "/usr/local/bin:/usr/bin:/usr/sbin:/sbin"


def test_the_tools_trees_command_line() -> None:
    words = Tools(Path("/t")).argv(["mke2fs", "x y"], binds=[(Path("/out"), BUILD)], cwd=BUILD)
    # The tree's own loader starts the tree's own bubblewrap: nothing of the machine's is used.
    assert words[:4] == [
        "/t/usr/lib64/ld-linux-x86-64.so.2",
        "--library-path",
        "/t/usr/lib/x86_64-linux-gnu",
        "/t/usr/bin/bwrap",
    ]
    split = words.index("--")
    assert words[split + 1 :] == ["mke2fs", "x y"]
    options = words[4:split]
    assert "--die-with-parent" in options
    text = " ".join(options)
    assert "--ro-bind /t/usr /usr" in text
    assert options.count("--bind") == 1
    assert "--bind /out /build" in text
    assert text.endswith("--chdir /build")
    # What is bound after a mount hides it: the step's directory comes last.
    assert options.index("--bind") > options.index("--tmpfs")


def test_tools_run_at_a_fixed_time_and_place(tmp_path: Path, program: Program) -> None:
    tools = Tools(tmp_path / "tree")
    loader = tmp_path / "tree/usr/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    os.symlink(program("fake-loader", 'echo "$TZ $SOURCE_DATE_EPOCH"; echo "$@"'), loader)
    epoch, words = tools.run(["x"], build=tmp_path).splitlines()
    assert epoch == f"UTC {EPOCH}"
    assert f"--bind {tmp_path} /build --chdir /build -- x" in words
    assert tools.run(["x"], build=tmp_path, epoch=False).splitlines()[0].strip() == "UTC"


def test_tools_see_no_place_that_is_not_there_inside(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("TMPDIR", "/home/me/tmp")
    loader = tmp_path / "tree/usr/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    os.symlink(program("fake-loader", 'echo "$HOME $TMPDIR $(umask)"'), loader)
    tools = Tools(tmp_path / "tree")
    before = os.umask(0o077)
    try:
        assert tools.run(["x"], build=tmp_path).split() == ["/tmp", "/tmp", "0022"]
        child = tools.start(["x"], binds=(), cwd=Path("/"), stdout=subprocess.PIPE)
        assert child.communicate()[0].split() == [b"/tmp", b"/tmp", b"0022"]
    finally:
        os.umask(before)


@pytest.mark.parametrize("path", ["/a:b", "/a;b"])
def test_a_path_that_the_loader_would_split_is_named(path: str) -> None:
    with pytest.raises(SallyportError, match=f"{path}: the path of the tools tree has a colon") as caught:
        Tools(Path(path)).argv(["x"], cwd=Path("/"))
    assert "move the checkout" in caught.value.hint


def test_a_password_in_what_a_command_says_is_not_told() -> None:
    lines: list[str] = []
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "echo Get:1 http://me:secret@host/x; exit 1"], on_line=lines.append)
    assert lines == ["Get:1 http://***@host/x"]
    assert "secret" not in str(caught.value)


def test_a_command_that_says_nothing_can_be_ended() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        run(["sh", "-c", "sleep 60 & wait"], stop=stop)
    assert time.monotonic() - began < 30
    assert run(["echo", "again"], stop=threading.Event()) == "again\n"
