"""Which lines of a defconfig Buildroot would drop, and why; with a small tree in the place of Buildroot's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kconfiglib import Kconfig

from rootfs.base.errors import SallyportError
from rootfs.engines.buildroot import symbols
from rootfs.engines.buildroot.source import BUILT, EXTERNAL, RELEASE, Source
from rootfs.spec import defconfig

CONFIG_IN = """\
mainmenu "Small"
source "$BR2_BASE_DIR/.br2-external.in.paths"

config BR2_USE_WCHAR
\tbool

choice
\tprompt "C library"
\tdefault BR2_GLIBC
config BR2_GLIBC
\tbool "glibc"
\tselect BR2_USE_WCHAR
config BR2_UCLIBC
\tbool "uClibc"
endchoice

config BR2_PACKAGE_PYTHON3
\tbool "python3"
\tdepends on BR2_USE_WCHAR
\tselect BR2_PACKAGE_ZLIB
config BR2_PACKAGE_ZLIB
\tbool "zlib"
config BR2_HOSTNAME
\tstring "name"
\tdefault "buildroot"
config BR2_JOBS
\tint "jobs"
\trange 0 8
\tdefault 0
config BR2_PACKAGE_LEAN
\tbool "lean" if !BR2_PACKAGE_ZLIB
source "Config.in.legacy"
source "$BR2_EXTERNAL_SALLYPORT_PATH/Config.in"
"""
SCRIPT = """#!/bin/sh
[ "$1" = -d ] && [ -f "$3/external.desc" ] || { echo "no external tree" >&2; exit 1; }
: >"$2/.br2-external.in.paths"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "tree"
    (directory / "support/scripts").mkdir(parents=True)
    (directory / "Makefile").write_text(f"# make\nexport BR2_VERSION := {RELEASE}\n")
    (directory / "Config.in").write_text(CONFIG_IN)
    (directory / "Config.in.legacy").write_text('config BR2_OLD\n\tbool "old"\n')
    script = directory / "support/scripts/br2-external"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return directory


@pytest.fixture
def external(tmp_path: Path) -> Path:
    directory = tmp_path / "external"
    directory.mkdir()
    (directory / "external.desc").write_text("name: SALLYPORT\n")
    (directory / "Config.in").write_text('config BR2_PACKAGE_OURS\n\tbool "ours"\n\tdepends on BR2_PACKAGE_PYTHON3\n')
    return directory


@pytest.fixture
def kconfig(tree: Path, external: Path) -> Kconfig:
    return Source.open(tree).kconfig(external)


def lost(kconfig: Kconfig, tmp_path: Path, text: str) -> list[str]:
    config = tmp_path / "defconfig"
    config.write_text(text)
    return [str(line).removeprefix(f"{tmp_path}/") for line in symbols.lost(kconfig, [config])]


def test_what_is_kept_is_not_told(kconfig: Kconfig, tmp_path: Path) -> None:
    text = "BR2_GLIBC=y\n# BR2_UCLIBC is not set\nBR2_PACKAGE_PYTHON3=y\nBR2_PACKAGE_OURS=y\n"
    text += 'BR2_HOSTNAME="gate"\nBR2_JOBS=2\n'
    assert lost(kconfig, tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("BR2_PACKAGE_PYTON3=y\n", "BR2_PACKAGE_PYTON3=y: no such symbol; did you mean BR2_PACKAGE_PYTHON3?"),
        ("BR2_ZZZ_QQQ_0=y\n", "BR2_ZZZ_QQQ_0=y: no such symbol"),
        ("BR2_OLD=y\n", "BR2_OLD=y: was removed or renamed; Buildroot's Config.in.legacy explains how"),
        ("BR2_PACKAGE_OURS=y\n", "BR2_PACKAGE_OURS=y: is n, because it depends on BR2_PACKAGE_PYTHON3"),
        ("BR2_UCLIBC=y\nBR2_GLIBC=y\n", "BR2_UCLIBC=y: is n: in its choice, BR2_GLIBC was taken"),
        ("BR2_PACKAGE_PYTHON3=7\n", "BR2_PACKAGE_PYTHON3=7: is n: it can only be y or n"),
        ("BR2_JOBS=9\n", "BR2_JOBS=9: is 0"),
    ],
)
def test_what_is_dropped_is_named_with_the_reason(kconfig: Kconfig, tmp_path: Path, text: str, said: str) -> None:
    assert lost(kconfig, tmp_path, text) == [f"defconfig:1: {said}"]


def test_what_was_selected_cannot_be_taken_away(kconfig: Kconfig, tmp_path: Path) -> None:
    said = lost(kconfig, tmp_path, "BR2_PACKAGE_PYTHON3=y\n# BR2_PACKAGE_ZLIB is not set\nBR2_PACKAGE_LEAN=y\n")
    assert said == [
        "defconfig:2: BR2_PACKAGE_ZLIB=n: is y, selected by BR2_PACKAGE_PYTHON3",
        "defconfig:3: BR2_PACKAGE_LEAN=y: is n, because it can only be set if !BR2_PACKAGE_ZLIB",
    ]


def test_what_has_no_prompt_cannot_be_set(kconfig: Kconfig, tmp_path: Path) -> None:
    said = lost(kconfig, tmp_path, "BR2_UCLIBC=y\nBR2_USE_WCHAR=y\n")
    assert said == ["defconfig:2: BR2_USE_WCHAR=y: is n: it has no prompt, so a defconfig cannot set it"]


def test_one_defconfig_leaves_nothing_to_the_next(kconfig: Kconfig, tmp_path: Path) -> None:
    assert lost(kconfig, tmp_path, "BR2_UCLIBC=y\n") == []
    assert lost(kconfig, tmp_path, "BR2_PACKAGE_PYTHON3=y\n") == []


def test_the_environment_is_afterwards_as_it_was(tree: Path, external: Path) -> None:
    before = dict(os.environ)
    Source.open(tree).kconfig(external)
    assert dict(os.environ) == before


def test_what_is_no_buildroot_tree_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match=r"nowhere/Makefile: No such file"):
        Source.open(tmp_path / "nowhere")
    (tree / "Makefile").write_text("all:\n")
    with pytest.raises(SallyportError, match="is not a Buildroot source tree"):
        Source.open(tree)


def test_a_path_that_make_cannot_take_is_refused(tree: Path, tmp_path: Path) -> None:
    spaced = tree.rename(tmp_path / "a tree")
    with pytest.raises(SallyportError, match="has a space or a colon"):
        Source.open(spaced).kconfig()


def test_another_release_is_told(tree: Path) -> None:
    (tree / "Makefile").write_text("export BR2_VERSION := 2020.02-git\n")
    with pytest.raises(SallyportError, match=rf"is Buildroot 2020.02-git, but {RELEASE} or 7 is needed"):
        Source.open(tree).require(RELEASE, "7")


def test_a_broken_tree_is_told_with_file_and_line(tree: Path, external: Path) -> None:
    (external / "Config.in").write_text("config\n")
    with pytest.raises(SallyportError, match=r"external/Config.in:1: "):
        Source.open(tree).kconfig(external)
    (external / "external.desc").unlink()
    with pytest.raises(SallyportError, match="no external tree"):
        Source.open(tree).kconfig(external)


def test_a_defconfig_is_compared_with_the_record(tmp_path: Path) -> None:
    config, lock = tmp_path / "buildroot.config", tmp_path / "symbols.lock"
    config.write_text("BR2_A=y\n# BR2_B is not set\n")
    symbols.record([[config]], lock)
    symbols.check_recorded([[config]], lock)
    config.write_text("BR2_A=y\nBR2_B=y\n")
    with pytest.raises(SallyportError, match=r"buildroot.config:2: BR2_B=y was not checked .* was 'n'"):
        symbols.check_recorded([[config]], lock)
    config.write_text("BR2_A=y\n# BR2_B is not set\nBR2_C=3\n")
    with pytest.raises(SallyportError, match=r"buildroot.config:3: BR2_C=3 was not checked .* was not there"):
        symbols.check_recorded([[config]], lock)
    # Others may depend on a line that is gone, and would be dropped without a word.
    config.write_text("# BR2_B is not set\n")
    with pytest.raises(SallyportError, match=r"buildroot.config no longer has BR2_A"):
        symbols.check_recorded([[config]], lock)
    lock.write_text(json.dumps({"buildroot": "2020.02", "symbols": {}}))
    with pytest.raises(SallyportError, match=r"was recorded with Buildroot 2020\.02"):
        symbols.check_recorded([[config]], lock)
    lock.write_text("{")
    with pytest.raises(SallyportError, match="cannot be read"):
        symbols.check_recorded([[config]], lock)


def test_the_defconfigs_are_as_they_were_checked() -> None:
    symbols.check_recorded(defconfig.every())


@pytest.mark.buildroot
@pytest.mark.skipif("SALLYPORT_BUILDROOT" not in os.environ, reason="no Buildroot tree: name it by SALLYPORT_BUILDROOT")
def test_buildroot_itself_keeps_every_symbol() -> None:
    tree = Source.open(Path(os.environ["SALLYPORT_BUILDROOT"]))
    tree.require(RELEASE, BUILT)
    kconfig = tree.kconfig(EXTERNAL)
    assert [line for parts in defconfig.every() for line in symbols.lost(kconfig, parts)] == []
