"""The release that is built: any way it comes, its content is checked."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootfs.base.errors import OfflineError, SallyportError
from rootfs.engines.buildroot import release
from rootfs.engines.buildroot.source import BUILT, Source
from tests.unit.rootfs.conftest import Desk, serve


@pytest.fixture
def archive(buildroot: Source, tmp_path: Path) -> Path:
    """As releases are packed: one directory, with documentation that a checkout does not have."""
    (buildroot.directory / "docs").mkdir()
    (buildroot.directory / "docs/manual.html").write_text("manual")
    file = tmp_path / "buildroot.tar.gz"
    subprocess.run(["tar", "-C", buildroot.directory.parent, "-czf", file, buildroot.directory.name], check=True)
    (buildroot.directory / "docs/manual.html").unlink()
    return file


@pytest.fixture
def address(archive: Path) -> Iterator[str]:
    with serve(archive.parent) as place:
        yield place


def test_a_directory_is_taken_as_it_is(buildroot: Source, desk: Desk) -> None:
    tree = release.provide(str(buildroot.directory), desk.cache(), release.content(buildroot.directory))
    assert tree == buildroot


def test_a_directory_that_was_changed_is_refused(buildroot: Source, desk: Desk) -> None:
    wanted = release.content(buildroot.directory)
    (buildroot.directory / ".git").mkdir()
    (buildroot.directory / "docs").mkdir()
    release.provide(str(buildroot.directory), desk.cache(), wanted)
    (buildroot.directory / "package/tiny/tiny.hash").write_text("# from somebody\n")
    with pytest.raises(SallyportError, match=f"the files are not those of Buildroot {BUILT}"):
        release.provide(str(buildroot.directory), desk.cache(), wanted)


def test_compiled_python_is_noticed(buildroot: Source) -> None:
    """It would run in the place of the script beside it."""
    before = release.content(buildroot.directory)
    (buildroot.directory / "package/__pycache__").mkdir()
    (buildroot.directory / "package/__pycache__/x.cpython-313.pyc").write_text("")
    assert release.content(buildroot.directory) != before


def test_a_program_is_no_other_file_with_its_content(buildroot: Source) -> None:
    before = release.content(buildroot.directory)
    (buildroot.directory / "words").chmod(0o755)
    assert release.content(buildroot.directory) != before


def test_an_archive_is_unpacked_once_and_found_again(buildroot: Source, archive: Path, desk: Desk) -> None:
    wanted = release.content(buildroot.directory)
    tree = release.provide(str(archive), desk.cache(), wanted)
    assert tree.release == BUILT
    assert (tree.directory / "docs/manual.html").read_text() == "manual"
    assert "never built here" in desk.said
    assert release.provide(str(archive), desk.cache(), wanted) == tree
    assert "nothing changed" in desk.said


def test_what_make_reads_of_the_documentation_counts(buildroot: Source) -> None:
    before = release.content(buildroot.directory)
    (buildroot.directory / "docs/manual").mkdir(parents=True)
    (buildroot.directory / "docs/manual/manual.html").write_text("manual")
    assert release.content(buildroot.directory) == before
    (buildroot.directory / "docs/manual/manual.mk").write_text("$(shell true)")
    assert release.content(buildroot.directory) != before


def test_an_archive_is_fetched_from_its_address(buildroot: Source, address: str, desk: Desk) -> None:
    tree = release.provide(f"{address}buildroot.tar.gz", desk.cache(), release.content(buildroot.directory))
    assert (tree.directory / "Makefile").read_bytes() == (buildroot.directory / "Makefile").read_bytes()
    assert [path.name for path in tree.directory.parent.iterdir()] == ["tree"]


def test_without_a_name_it_is_the_archive_of_its_makers(
    buildroot: Source, address: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release.UPSTREAM.endswith(f"/buildroot-{BUILT}.tar.xz")
    monkeypatch.setattr(release, "UPSTREAM", f"{address}buildroot.tar.gz")
    wanted = release.content(buildroot.directory)
    with pytest.raises(OfflineError, match=r"buildroot\.tar\.gz: not here"):
        release.provide("", desk.cache(), wanted, offline=True)
    tree = release.provide("", desk.cache(), wanted)
    assert release.provide("", desk.cache(), wanted, offline=True) == tree


@pytest.mark.parametrize("owner", ["builder", "some body"])
def test_what_would_fill_the_disk_is_not_unpacked(tmp_path: Path, desk: Desk, owner: str) -> None:
    (tmp_path / "release").mkdir()
    with (tmp_path / "release/Makefile").open("w") as file:
        file.truncate(2**40)
    named = ["--sparse", "--owner", f"{owner}:7"]
    subprocess.run(["tar", *named, "-C", tmp_path, "-czf", tmp_path / "bomb.tar.gz", "release"], check=True)
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 2**20
    with pytest.raises(SallyportError, match="more than 512 MiB unpacked"):
        release.provide(str(tmp_path / "bomb.tar.gz"), desk.cache(), "00")
    assert not list(desk.directory.glob("buildroot-*"))


def test_nor_is_what_has_no_end_of_empty_files(tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_MAX_UNPACKED", 2**20)
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as archive:
        for number in range(2**12):
            archive.addfile(tarfile.TarInfo(f"release/{number}"))
    with pytest.raises(SallyportError, match="more than 1 MiB unpacked"):
        release.provide(str(tmp_path / "bomb.tar.gz"), desk.cache(), "00")


def test_an_archive_of_something_else_leaves_nothing(buildroot: Source, archive: Path, desk: Desk) -> None:
    with pytest.raises(SallyportError, match="the files are not those of"):
        release.provide(str(archive), desk.cache(), "00")
    assert archive.exists()
    assert not list(desk.directory.glob("buildroot-*"))


def test_what_is_no_archive_or_not_there_is_told(buildroot: Source, address: str, tmp_path: Path, desk: Desk) -> None:
    wanted = release.content(buildroot.directory)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SallyportError, match="text cannot be unpacked"):
        release.provide(str(tmp_path / "text"), desk.cache(), wanted)
    with pytest.raises(SallyportError, match="no such directory or file"):
        release.provide(str(tmp_path / "absent"), desk.cache(), wanted)
    with pytest.raises(SallyportError, match="404"):
        release.provide(f"{address}absent.tar.gz", desk.cache(), wanted)


def test_an_answer_without_end_is_cut(
    buildroot: Source, address: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "_MAX_ARCHIVE", 10)
    with pytest.raises(SallyportError, match="more than 0 MiB"):
        release.provide(f"{address}buildroot.tar.gz", desk.cache(), release.content(buildroot.directory))


@pytest.mark.buildroot
@pytest.mark.skipif("SALLYPORT_BUILDROOT" not in os.environ, reason="no Buildroot tree: name it by SALLYPORT_BUILDROOT")
def test_the_content_of_the_release_itself_is_known(desk: Desk) -> None:
    assert release.provide(os.environ["SALLYPORT_BUILDROOT"], desk.cache()).release == BUILT
