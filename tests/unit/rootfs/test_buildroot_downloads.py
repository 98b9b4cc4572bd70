"""Which source files a build by Buildroot would miss; with a small tree in the place of Buildroot's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from rich.console import Console

from rootfs.base.errors import CommandError, SallyportError
from rootfs.engines.buildroot import downloads
from rootfs.engines.buildroot.downloads import Needed, State
from rootfs.engines.buildroot.output import Output, Package
from rootfs.engines.buildroot.source import EXTERNAL, Source
from tests.unit.rootfs.fake_buildroot import GOOD, INFO, LocalMakeEnvironment


def put(folder: Path, name: str, content: bytes = GOOD) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def look(output: Output, tmp_path: Path) -> dict[str, Needed]:
    found = downloads.look(output.packages(), output.source.directory, tmp_path / "dl")
    return {needed.file: needed for needed in found}


def test_each_file_is_listed_once_with_all_who_need_it(output: Output, tmp_path: Path) -> None:
    found = look(output, tmp_path)
    assert list(found) == ["zlib-1.3.tar.xz", "data-2.tar.gz", "tiny-1.tar.gz"]
    assert found["zlib-1.3.tar.xz"].packages == ("host-libzlib", "libzlib")
    assert {needed.state for needed in found.values()} == {State.MISSING}
    assert found["tiny-1.tar.gz"].where == tmp_path / "dl/tiny/tiny-1.tar.gz"


def test_a_file_is_looked_for_where_buildroot_looks_for_it(output: Output, tmp_path: Path) -> None:
    for place in ("zlib-1.3.tar.xz", "libzlib/zlib-1.3.tar.xz"):
        put(tmp_path / "dl", place)
        found = look(output, tmp_path)["zlib-1.3.tar.xz"]
        assert found.where == tmp_path / "dl" / place
        assert found.good
        assert found.sha256() == hashlib.sha256(GOOD).hexdigest()
    # What differs is thrown away by Buildroot, which then looks on.
    put(tmp_path / "dl", "libzlib/zlib-1.3.tar.xz", b"half of it")
    assert look(output, tmp_path)["zlib-1.3.tar.xz"].where == tmp_path / "dl/zlib-1.3.tar.xz"


def test_what_is_built_from_a_directory_of_ours_needs_no_file(output: Output, tmp_path: Path) -> None:
    table = {**INFO, "tiny": {**INFO["tiny"], "stamp_dir": "build/tiny-custom"}}
    (output.source.directory / "answer.json").write_text(json.dumps(table))
    assert list(look(output, tmp_path)) == ["zlib-1.3.tar.xz"]


def test_a_file_that_is_not_what_its_hash_says_is_no_good(output: Output, tmp_path: Path) -> None:
    put(tmp_path / "dl", "libzlib/zlib-1.3.tar.xz", GOOD + b"\n")
    found = look(output, tmp_path)["zlib-1.3.tar.xz"]
    assert found.state is State.DIFFERS
    assert not found.good


@pytest.mark.parametrize("line", ["", f"md5  {hashlib.md5(GOOD).hexdigest()}  tiny-1.tar.gz"])
def test_a_file_that_nothing_vouches_for_is_no_good(output: Output, tmp_path: Path, line: str) -> None:
    (output.source.directory / "package/tiny/tiny.hash").write_text(line + "\n")
    put(tmp_path / "dl", "tiny/tiny-1.tar.gz")
    assert look(output, tmp_path)["tiny-1.tar.gz"].state is State.UNHASHED


def test_a_broken_hash_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.hash"
    file.write_text("# fine\nsha256  abc\n")
    with pytest.raises(SallyportError, match=r"a\.hash:2: not a line of a hash file"):
        downloads.read_hashes(file)
    file.write_text("crc32  abc  a.tar\n")
    with pytest.raises(SallyportError, match=r"a\.hash:1"):
        downloads.read_hashes(file)
    with pytest.raises(SallyportError, match=r"b\.hash"):
        downloads.read_hashes(tmp_path / "b.hash")


def test_the_output_is_configured_from_the_defconfig_with_our_tree(output: Output, tmp_path: Path) -> None:
    assert (tmp_path / "out/.config").read_text() == "BR2_x86_64=y\n"
    output.configure({"BR2_JLEVEL": "2"})
    assert (tmp_path / "out/.config").read_text() == "BR2_x86_64=y\nBR2_JLEVEL=2\n"
    output.configure({"BR2_x86_64": "n"})
    assert (tmp_path / "out/.config").read_text() == "# BR2_x86_64 is not set\n"
    assert output.config[0].read_text() == "BR2_x86_64=y\n"
    assert (tmp_path / "out/external").read_text().strip() == str(EXTERNAL)


def test_what_goes_wrong_in_make_is_told_with_its_words(buildroot: Source, tmp_path: Path) -> None:
    config = tmp_path / "small.config"
    directory = tmp_path / "out"
    directory.mkdir()
    output = Output(
        buildroot,
        [config],
        directory,
        LocalMakeEnvironment(buildroot.directory, directory, tmp_path / "dl", tmp_path / "ccache"),
    )
    with pytest.raises(SallyportError, match=r"small\.config: .*No such file"):
        output.configure()
    config.write_text("# nothing\n")
    with pytest.raises(CommandError, match="defconfig"):
        output.configure()
    with pytest.raises(CommandError, match="configure first"):
        output.packages()


def test_a_setting_that_buildroot_drops_is_told(output: Output) -> None:
    makefile = output.source.directory / "Makefile"
    makefile.write_text(makefile.read_text().replace("@cp $(BR2_DEFCONFIG)", "@sed s/CXX=y/CXX=n/ $(BR2_DEFCONFIG) >"))
    output.configure({"BR2_TOOLCHAIN_EXTERNAL_GCC_14": "y"})
    with pytest.raises(SallyportError, match="does not keep BR2_TOOLCHAIN_EXTERNAL_CXX=y"):
        output.configure({"BR2_TOOLCHAIN_EXTERNAL_GCC_14": "y", "BR2_TOOLCHAIN_EXTERNAL_CXX": "y"})


@pytest.mark.parametrize("answer", ["", "[]", "{", '{"zlib": 1}', '{"zlib": {"type": 7}}', "{}{}"])
def test_an_answer_that_is_not_understood_is_told(output: Output, answer: str) -> None:
    (output.source.directory / "answer.json").write_text(answer)
    with pytest.raises(SallyportError, match="make show-info"):
        output.packages()


def test_only_what_is_no_good_is_shown(output: Output, tmp_path: Path) -> None:
    put(tmp_path / "dl", "libzlib/zlib-1.3.tar.xz")
    put(tmp_path / "dl", "tiny/data-2.tar.gz")
    found = list(look(output, tmp_path).values())
    console = Console(record=True, width=120)
    downloads.show(found, console)
    text = console.export_text()
    assert "tiny-1.tar.gz" in text
    assert "zlib-1.3" not in text
    assert "1 there, 1 missing, 1 no hash" in text
    rows = json.loads(downloads.to_json(found))
    assert [row["state"] for row in rows] == ["there", "no hash", "missing"]
    assert Package.model_validate({"name": "a", "type": "host"}).downloads == ()


def test_the_kernel_is_checked_although_the_release_does_not_find_its_own_hash() -> None:
    for name in ("linux", "linux-headers"):
        hashes = downloads.read_hashes(EXTERNAL / "patches" / name / f"{name}.hash")
        assert any(file.startswith("linux-") and file.endswith(".tar.xz") for file in hashes)


@pytest.mark.parametrize("folder", sorted((EXTERNAL / "package").iterdir()), ids=lambda folder: folder.name)
def test_our_own_packages_say_what_their_download_must_be(folder: Path) -> None:
    hashes = downloads.read_hashes(folder / f"{folder.name}.hash")
    archives = [name for name in hashes if ".tar." in name]
    assert archives
    assert all(len(hashes[name]["sha256"]) == 64 for name in archives)
