"""Building by Buildroot, with a small tree in its place: progress, the log, what failed, going on, offline."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

from rootfs.base import packages
from rootfs.base.errors import CommandError, DiskFullError, SallyportError
from rootfs.base.process import Stopped
from rootfs.engines.buildroot.build import build
from rootfs.engines.buildroot.builder import Builder
from rootfs.engines.buildroot.output import Output
from rootfs.engines.buildroot.source import Source
from rootfs.spec import defconfig
from tests.unit.rootfs.fake_buildroot import GOOD, INFO, PACKAGES, WORDS, LocalSandbox


def built(output: Output) -> list[str]:
    file = output.directory / "built"
    return file.read_text().split() if file.exists() else []


def test_packages_are_counted_as_they_are_done_and_the_log_is_kept(output: Output) -> None:
    said: list[tuple[str, int, int]] = []
    log = build(output, output.packages(), lambda *words: said.append(words))
    # make does not wait until a line was read: one more may be done by then.
    assert all(at <= done <= 3 and total == 3 for at, (_, done, total) in enumerate(said))
    assert len(said) == 3
    assert said[0][0].startswith("host-libzlib-1.3")
    assert built(output) == list(PACKAGES)
    assert [line for line in log.read_text().splitlines() if ">>>" in line] == [
        f">>> {name}  Building" for name in PACKAGES
    ]


def test_a_failed_package_is_named_with_its_last_words_and_how_to_go_on(output: Output) -> None:
    broken = output.source.directory / "fail"
    broken.write_text("host-libzlib-1.3\n")
    with pytest.raises(CommandError) as caught:
        build(output, output.packages(), lambda *_: None)
    message = str(caught.value)
    assert message.startswith("package host-libzlib-1.3 failed (step installed)")
    assert WORDS in message
    assert "Entering directory" not in message
    assert str(output.directory / "build.log") in message
    assert "--again host-libzlib`" in caught.value.hint
    assert built(output) == []
    # The same build again goes on where it stopped, and its log goes on, too.
    broken.unlink()
    log = build(output, output.packages(), lambda *_: None)
    assert built(output) == list(PACKAGES)
    assert "no room in the boat" in log.read_text()


def test_a_failed_packages_words_are_kept_while_others_go_on(output: Output) -> None:
    (output.source.directory / "parallel").touch()
    (output.source.directory / "fail").write_text("host-libzlib-1.3\n")
    with pytest.raises(CommandError, match=r"^package host-libzlib-1.3 failed") as caught:
        build(output, output.packages(), lambda *_: None, jobs=2)
    # It was asked again by itself: nobody else's words are among its own.
    assert f"its last lines:\n>>> host-libzlib-1.3  Building\n{WORDS}".strip() in str(caught.value)
    assert "\n100\n" in (output.directory / "build.log").read_text()


def test_a_package_that_only_fails_beside_others_is_told_as_such(output: Output) -> None:
    for name in ("parallel", "once"):
        (output.source.directory / name).touch()
    (output.source.directory / "fail").write_text("host-libzlib-1.3\n")
    with pytest.raises(CommandError, match=r"(?s)^package host-libzlib-1.3 failed .*built by itself it succeeded"):
        build(output, output.packages(), lambda *_: None, jobs=2)


def test_a_build_that_was_interrupted_goes_on(output: Output) -> None:
    def interrupt(_words: str, done: int, _total: int) -> None:
        if done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(output, output.packages(), interrupt)
    said: list[int] = []
    build(output, output.packages(), lambda _words, done, _total: said.append(done))
    assert said[0] >= 1
    assert set(built(output)) == set(PACKAGES)
    assert built(output).count("host-libzlib-1.3") == 1


def test_what_is_no_packages_fault_is_told_as_make_says_it(output: Output) -> None:
    packages = output.packages()
    (output.source.directory / "Makefile").write_text("all: no-such-thing\n")
    with pytest.raises(CommandError, match=r"No rule to make target(.|\n)*the whole log: .*build\.log"):
        build(output, packages, lambda *_: None)


def test_a_full_disk_is_told_as_such(output: Output) -> None:
    (output.source.directory / "words").write_text(f"cc: {os.strerror(errno.ENOSPC)}\n")
    (output.source.directory / "fail").write_text("tiny-1\n")
    with pytest.raises(DiskFullError, match=r"package tiny-1 failed(.|\n)*the disk is full(.|\n)*build\.log") as caught:
        build(output, output.packages(), lambda *_: None)
    assert "invoke clean" not in caught.value.hint  # it would remove what was built


def test_a_full_disk_is_told_by_the_package_that_finds_it_and_not_by_the_log(output: Output) -> None:
    (output.source.directory / "words").write_text(f"cc: {os.strerror(errno.ENOSPC)}\n")
    (output.source.directory / "fail").write_text("tiny-1\n")
    (output.directory / "build.log").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=r"package tiny-1 failed(.|\n)*cc: (.|\n)*the disk is full"):
        build(output, output.packages(), lambda *_: None)


def test_a_build_that_says_nothing_is_ended_when_it_is_told_to(output: Output) -> None:
    (output.source.directory / "linger").write_text(str(output.directory) + "\n")
    stop = threading.Event()
    with pytest.raises(Stopped):
        build(output, output.packages(), lambda *_: stop.set(), stop=stop)
    assert built(output) == []


def builder(tree: Source, tmp_path: Path, compiler: str = "gcc") -> Builder:
    return Builder(
        tree,
        tmp_path / "out",
        tmp_path / "dl",
        tmp_path / "ccache",
        3,
        Console(record=True, width=500),
        LocalSandbox(tmp_path / compiler),
    )


def complete(tree: Source, downloads: Path) -> None:
    """Every file, and a hash of each."""
    digest = hashlib.sha256(GOOD).hexdigest()
    names = ("tiny-1.tar.gz", "data-2.tar.gz")
    (tree.directory / "package/tiny/tiny.hash").write_text("".join(f"sha256  {digest}  {name}\n" for name in names))
    downloads.mkdir()
    for name in ("zlib-1.3.tar.xz", *names):
        (downloads / name).write_bytes(GOOD)


def test_each_of_our_defconfigs_is_built_in_a_directory_of_its_own(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    made = builder(buildroot, tmp_path)
    for name, config in defconfig.ALL.items():
        assert made.build([name]) == [tmp_path / "out" / name]
        written = (tmp_path / "out" / name / ".config").read_text()
        assert set(defconfig.read(config)) <= set(defconfig.read(tmp_path / "out" / name / ".config"))
        assert "# BR2_TARGET_ROOTFS_SQUASHFS is not set\n" in written
        assert f'BR2_DL_DIR="{tmp_path / "dl"}"\n' in written
        assert "BR2_PRIMARY_SITE_ONLY=y\n" in written
        assert "BR2_JLEVEL=3\n" in written


def test_another_toolchain_than_ours_can_be_named(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    part = tmp_path / "bootlin.config"
    part.write_text("BR2_TOOLCHAIN_EXTERNAL=y\nBR2_TOOLCHAIN_EXTERNAL_BOOTLIN=y\n")
    ours, theirs = builder(buildroot, tmp_path), dataclasses.replace(builder(buildroot, tmp_path), compiler=part)
    ours.output("host")
    config = tmp_path / "out/host/.config"
    assert 'BR2_TOOLCHAIN_EXTERNAL_PATH="/opt/toolchain"\n' in config.read_text()
    theirs.build(["host"])
    assert "BR2_TOOLCHAIN_EXTERNAL_BOOTLIN=y\n" in config.read_text()
    assert "/opt/toolchain" not in config.read_text()
    # Then the C library is not Debian's.
    rows = [packages.Package(name, "1", "amd64", "ab") for name in ("libc6", "nftables")]
    (tmp_path / "gcc").mkdir()
    (tmp_path / "gcc/packages.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    assert [row.name for row in theirs.prebuilt()] == ["nftables"]
    assert [row.name for row in ours.prebuilt()] == ["libc6", "nftables"]


def test_what_is_missing_is_listed_before_anything_is_built(buildroot: Source, tmp_path: Path) -> None:
    made = builder(buildroot, tmp_path)
    # Each defconfig has a file of its own that is missing, and one list has them all.
    made.output("host")
    late = INFO | {"late": {**INFO["tiny"], "dl_dir": "late", "downloads": [{"source": "late-1.tar.gz"}]}}
    (buildroot.directory / "answer.json").write_text(f"{json.dumps(late)}\n")
    with pytest.raises(SallyportError, match="4 source files are missing or damaged"):
        made.build(["host", "frontend"], again="tiny")
    text = made.console.export_text()
    assert all(name in text for name in ("zlib-1.3.tar.xz", "data-2.tar.gz", "tiny-1.tar.gz", "late-1"))
    assert not (tmp_path / "out/host/built").exists()


def test_a_package_can_be_built_again(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    made = builder(buildroot, tmp_path)
    made.build(["host"])
    made.build(["host"])
    assert (tmp_path / "out/host/built").read_text().split() == list(PACKAGES)
    made.build(["host"], again="tiny")
    assert (tmp_path / "out/host/built").read_text().split() == [*PACKAGES, "tiny-1"]
    # Who was built with a package is built anew with it.
    made.build(["host"], again="libzlib")
    assert (tmp_path / "out/host/built").read_text().split() == [*PACKAGES, "tiny-1", "libzlib-1.3", "tiny-1"]


def test_one_that_there_is_not_cannot_be_built_again(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    with pytest.raises(SallyportError, match="no package 'tinyy' in host and frontend") as caught:
        builder(buildroot, tmp_path).build(list(defconfig.ALL), again="tinyy")
    assert caught.value.hint == "did you mean tiny?"
    assert not (tmp_path / "out/host/built").exists()


def test_two_processes_do_not_build_in_the_same_directory(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    made, other = builder(buildroot, tmp_path), builder(buildroot, tmp_path)
    with made.locked(["host"]):
        made.build(["host"])
        second = threading.Thread(target=other.sources, args=(["host"],), daemon=True)
        second.start()
        second.join(1)
        assert second.is_alive()
        assert "waiting for another build" in other.console.export_text()
    second.join(60)
    assert not second.is_alive()


@pytest.fixture
def begun(buildroot: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A defconfig for the host of which a build was made."""
    config = tmp_path / "small.config"
    config.write_text(
        '# BR2_EXTERNAL=rootfs is a comment\nBR2_x86_64=y\nBR2_PACKAGE_NO_SUCH=y\nBR2_NAME="x"\nBR2_NUMBER=3\n'
    )
    monkeypatch.setitem(defconfig.ALL, "host", config)
    complete(buildroot, tmp_path / "dl")
    builder(buildroot, tmp_path).build(["host"])
    return config


def test_a_line_that_buildroot_drops_is_found_before_anything_is_built(
    buildroot: Source, tmp_path: Path, begun: Path
) -> None:
    makefile = buildroot.directory / "Makefile"
    makefile.write_text(makefile.read_text().replace("@cp $(BR2_DEFCONFIG)", "@grep -v NO_SUCH $(BR2_DEFCONFIG) >"))
    with pytest.raises(SallyportError, match=rf"does not keep BR2_PACKAGE_NO_SUCH=y \({begun}:3\)$"):
        builder(buildroot, tmp_path).build(["host"])


def test_several_are_built_at_the_same_time_and_each_tells_how_far_it_is(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    (buildroot.directory / "meet").write_text("")
    made = builder(buildroot, tmp_path)
    assert made.build(list(defconfig.ALL)) == [tmp_path / "out" / name for name in defconfig.ALL]
    text = made.console.export_text()
    for name in defconfig.ALL:
        # What a build says is read a little after it was said: by then the last package may be done, too.
        assert re.search(f"{name}: [23] of 3 packages", text)
        assert f"✓ {name} (Buildroot" in text
    (buildroot.directory / "fail").write_text("tiny-1\n")
    made.build(list(defconfig.ALL))  # it knows what it has built


def test_one_that_fails_ends_the_other(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    (buildroot.directory / "linger").write_text(str(tmp_path / "out/frontend") + "\n")
    (buildroot.directory / "fail").write_text("tiny-1\n")
    with pytest.raises(CommandError, match="package tiny-1 failed"):
        builder(buildroot, tmp_path).build(list(defconfig.ALL))
    assert not (tmp_path / "out/frontend/build/tiny-1/.stamp_installed").exists()


def test_what_must_go_along_is_collected_once_all_is_built(buildroot: Source, tmp_path: Path) -> None:
    complete(buildroot, tmp_path / "dl")
    made = builder(buildroot, tmp_path)
    notice = tmp_path / "gcc/tree/usr/share/doc/libc6/copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text("LGPL")
    rows = [packages.Package(name, "1", "amd64", "ab") for name in ("libc6", "make")]
    (tmp_path / "gcc/packages.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    with pytest.raises(SallyportError, match="0 of 3 packages are built"):
        made.legal("host", tmp_path / "legal")
    made.build(["host"])
    folder = made.legal("host", tmp_path / "legal")
    assert {path.name for path in folder.iterdir()} == {"manifest.csv", "prebuilt"}
    assert [path.name for path in (folder / "prebuilt").iterdir()] == ["libc6"]
    assert (folder / "prebuilt/libc6/copyright").read_text() == "LGPL"
    assert made.legal("host", tmp_path / "legal") == folder  # once more, in its place


def test_what_was_begun_with_another_configuration_is_not_gone_on_with(
    buildroot: Source, tmp_path: Path, begun: Path
) -> None:
    before = begun.read_text()
    dataclasses.replace(builder(buildroot, tmp_path), jobs=1).build(["host"])
    begun.write_text(f"{before}BR2_PACKAGE_LVM2=y\n")
    with pytest.raises(SallyportError, match="another configuration") as caught:
        builder(buildroot, tmp_path).build(["host"])
    assert f"rm -r {tmp_path}/out/host" in caught.value.hint
    begun.write_text(before)
    with pytest.raises(SallyportError, match="external tree or release"):
        builder(dataclasses.replace(buildroot, release="2020.02"), tmp_path).build(["host"])
    with pytest.raises(SallyportError, match="another configuration"):
        builder(buildroot, tmp_path, "a newer gcc").build(["host"])
    builder(buildroot, tmp_path).build(["host"])


def test_a_package_that_was_interrupted_while_it_was_patched_is_unpacked_again(output: Output) -> None:
    half, whole = output.directory / "build/tiny-1", output.directory / "build/libzlib-1.3"
    for folder in (half, whole):
        folder.mkdir(parents=True)
        (folder / ".applied_patches_list").write_text("one.patch\n")
        (folder / "source.c").write_text("")
    (whole / ".stamp_patched").touch()
    build(output, output.packages(), lambda *_: None)
    assert not (half / "source.c").exists()
    assert (whole / "source.c").exists()
