"""Which files of a tree go into an image."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from rootfs.base.errors import SallyportError
from rootfs.engines import select_files

LIBRARIES = "usr/lib/x86_64-linux-gnu"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("usr/bin/one", "usr/bin/two", "usr/lib/py/a.py", "usr/lib/py/test/b.py", "usr/share/doc/one"):
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "tree"


def choose(tree: Path, *keep: str) -> list[str]:
    return select_files.choose(tree, keep, "map.toml")


def test_globs_take_what_they_match_slashes_included(tree: Path) -> None:
    assert choose(tree, "usr/bin/one") == ["usr/bin/one"]
    assert choose(tree, "usr/lib/*") == ["usr/lib/py/a.py", "usr/lib/py/test/b.py"]


def test_a_negation_takes_out_and_the_last_match_wins(tree: Path) -> None:
    assert choose(tree, "usr/lib/*", "!usr/lib/py/test/*") == ["usr/lib/py/a.py"]
    assert choose(tree, "usr/lib/*", "!usr/lib/py/*", "*/b.py") == ["usr/lib/py/test/b.py"]
    assert choose(tree, "!usr/lib/py/test/*", "usr/lib/*") == ["usr/lib/py/a.py", "usr/lib/py/test/b.py"]


@pytest.mark.parametrize("idle", ["usr/bin/three", "!usr/bin/three", "one"])
def test_a_glob_that_matches_nothing_is_an_error(tree: Path, idle: str) -> None:
    with pytest.raises(SallyportError, match=r"map\.toml: nothing matches") as caught:
        choose(tree, "usr/bin/*", idle)
    assert str(caught.value).endswith(f" {idle}")


@pytest.mark.parametrize("target", ["../lib/py/a.py", "/usr/lib/py/a.py", "./../bin/../lib/py/a.py"])
def test_the_target_of_a_link_comes_along(tree: Path, target: str) -> None:
    (tree / "usr/bin/link").symlink_to(target)
    (tree / "usr/bin/chain").symlink_to("link")
    assert choose(tree, "usr/bin/chain") == ["usr/bin/chain", "usr/bin/link", "usr/lib/py/a.py"]


@pytest.mark.parametrize("target", ["absent", "/etc/passwd", "../../../../../../etc/passwd"])
def test_a_link_out_of_the_tree_is_an_error_that_names_link_and_target(tree: Path, target: str) -> None:
    (tree / "usr/bin/link").symlink_to(target)
    with pytest.raises(SallyportError) as caught:
        choose(tree, "usr/bin/link")
    assert f"usr/bin/link needs {target}, which no package of the set has" in str(caught.value)


@pytest.fixture
def with_shell(tree: Path) -> Path:
    """The tree with this machine's shell and what ldd(1) says that it loads."""
    shutil.copy(Path("/bin/sh").resolve(), tree / "usr/bin/dash")
    (tree / "usr/bin/sh").symlink_to("dash")
    (tree / LIBRARIES).mkdir(parents=True)
    printed = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():
        for word in line.split():
            if word.startswith("/"):
                shutil.copy(word, tree / LIBRARIES / Path(word).name)
    return tree


def test_the_libraries_that_a_program_needs_come_along_and_theirs(with_shell: Path) -> None:
    loaded = {f"{LIBRARIES}/{path.name}" for path in (with_shell / LIBRARIES).iterdir()}
    assert f"{LIBRARIES}/libc.so.6" in loaded
    (with_shell / LIBRARIES / "libstranger.so").write_text("nobody asked for it")
    chosen = set(choose(with_shell, "usr/bin/sh"))
    assert {"usr/bin/sh", "usr/bin/dash", f"{LIBRARIES}/libc.so.6"} <= chosen <= loaded | {"usr/bin/sh", "usr/bin/dash"}
    # libc.so.6 itself asks for the loader: the closure goes on from library to library.
    assert any("/ld-linux" in name for name in chosen)


def test_a_library_is_found_in_all_places_and_through_its_link(with_shell: Path) -> None:
    other = with_shell / "usr/lib64"
    other.mkdir()
    (with_shell / LIBRARIES / "libc.so.6").rename(other / "libc-2.so")
    (other / "libc.so.6").symlink_to("libc-2.so")
    assert {"usr/lib64/libc.so.6", "usr/lib64/libc-2.so"} <= set(choose(with_shell, "usr/bin/sh"))


def test_a_missing_library_is_an_error_that_names_it_and_who_needs_it(with_shell: Path) -> None:
    (with_shell / LIBRARIES / "libc.so.6").unlink()
    with pytest.raises(SallyportError, match=r"map\.toml: usr/bin/dash needs libc\.so\.6"):
        choose(with_shell, "usr/bin/sh")


@pytest.mark.parametrize("content", [b"\x7fELF", b"\x7fELF" + b"\xff" * 80])
def test_a_broken_program_is_an_error_that_names_it(tree: Path, content: bytes) -> None:
    (tree / "usr/bin/broken").write_bytes(content)
    with pytest.raises(SallyportError, match="usr/bin/broken: broken ELF file"):
        choose(tree, "usr/bin/broken")


def test_copies_have_normal_modes(tree: Path, tmp_path: Path) -> None:
    (tree / "usr/bin/one").chmod(0o4711)
    (tree / "usr/bin/two").chmod(0o400)
    (tree / "usr/bin/link").symlink_to("one")
    select_files.copy(tree, ["usr/bin/link", "usr/bin/one", "usr/bin/two"], tmp_path / "out")
    modes = [stat.S_IMODE((tmp_path / "out/usr/bin" / name).lstat().st_mode) for name in ("one", "two")]
    assert modes == [0o755, 0o644]
    assert (tmp_path / "out/usr/bin/link").readlink() == Path("one")
    assert (tmp_path / "out/usr/bin/two").read_text() == "usr/bin/two"
