"""The defconfig reader and its translation into packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT
from rootfs.engines import symbol_map
from rootfs.spec import architecture, defconfig
from rootfs.spec.architecture import Arch
from rootfs.spec.root_spec import RootSpec

CONFIGS = tuple(defconfig.ALL.values())


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "defconfig"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("BR2_A=y", "y"),
        ("BR2_A=y  ", "y"),
        ("BR2_A=12", "12"),
        ("BR2_A=-1", "-1"),
        ("BR2_A=0x1F", "0x1F"),
        ('BR2_A="two words # and a hash"', "two words # and a hash"),
        ('BR2_A=""', ""),
        ("# BR2_A is not set", "n"),
    ],
)
def test_every_kind_of_line_gives_its_value_and_its_place(tmp_path: Path, line: str, value: str) -> None:
    file = write(tmp_path, f"# a comment\n\n{line}\n")
    symbol = defconfig.read(file)["BR2_A"]
    assert (symbol.value, symbol.where) == (value, f"{file}:3")


def test_comments_and_empty_lines_set_nothing_and_order_is_kept(tmp_path: Path) -> None:
    file = write(tmp_path, "# BR2_X is not what you think\n#BR2_Y=y\n\nBR2_B=y\nBR2_A=y\n")
    assert list(defconfig.read(file)) == ["BR2_B", "BR2_A"]


@pytest.mark.parametrize(
    "line",
    [
        "BR2_A",
        "BR2_A=yes",
        "BR2_A = y",
        "BR2_A=",
        'BR2_A="open',
        'BR2_A="a"b"',
        "CONFIG_A=y",
        "BR2_A=y # why",
        "BR2_A=n",
    ],
)
def test_anything_else_is_an_error_that_names_file_and_line(tmp_path: Path, line: str) -> None:
    file = write(tmp_path, f"BR2_FIRST=y\n{line}\n")
    with pytest.raises(SallyportError) as caught:
        defconfig.read(file)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("second", ["BR2_A=y", "# BR2_A is not set"])
def test_a_symbol_set_twice_is_an_error_that_names_both_lines(tmp_path: Path, second: str) -> None:
    file = write(tmp_path, f"BR2_A=y\nBR2_B=y\n{second}\n")
    with pytest.raises(SallyportError, match="BR2_A was set before, in line 1") as caught:
        defconfig.read(file)
    assert str(caught.value).startswith(f"{file}:3: ")


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match="absent"):
        defconfig.read(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SallyportError, match="binary"):
        defconfig.read(tmp_path / "binary")


def translate(tmp_path: Path, text: str) -> RootSpec:
    return symbol_map.translate(defconfig.read(write(tmp_path, text)))


def test_packages_and_files_of_all_symbols_are_united_without_repetition(tmp_path: Path) -> None:
    spec = translate(tmp_path, "BR2_PACKAGE_NFTABLES=y\nBR2_INIT_SYSTEMD=y\nBR2_PACKAGE_LIBSECCOMP=y\n")
    assert {"libc6", "nftables", "systemd"} <= set(spec.packages)
    assert spec.packages.count("libseccomp2") == 1
    assert "usr/sbin/nft" in spec.keep
    assert spec.hostname == ""


def test_host_name_and_overlays_are_read_from_their_symbols(tmp_path: Path) -> None:
    spec = translate(
        tmp_path,
        'BR2_TARGET_GENERIC_HOSTNAME="box"\n'
        'BR2_ROOTFS_OVERLAY="$(BR2_EXTERNAL_SALLYPORT_PATH)/../../overlays/host $(BR2_EXTERNAL_SALLYPORT_PATH)"\n',
    )
    assert spec.hostname == "box"
    assert spec.overlays == (PROJECT / "overlays/host", PROJECT / "rootfs/external")


def test_an_unknown_symbol_names_file_line_symbol_and_a_close_guess(tmp_path: Path) -> None:
    with pytest.raises(SallyportError) as caught:
        translate(tmp_path, "BR2_x86_64=y\nBR2_PACKAGE_NFTABLE=y\n")
    assert str(caught.value).startswith(f"{tmp_path}/defconfig:2: ")
    assert "BR2_PACKAGE_NFTABLE" in str(caught.value)
    assert "did you mean BR2_PACKAGE_NFTABLES?" in caught.value.hint
    assert "rootfs/engines/map.toml" in caught.value.hint


def test_an_unknown_symbol_like_no_other_gets_no_guess(tmp_path: Path) -> None:
    with pytest.raises(SallyportError) as caught:
        translate(tmp_path, "BR2_ZZZZZZ=y\n")
    assert "did you mean" not in caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        "BR2_TARGET_ENABLE_ROOT_LOGIN=y",
        "BR2_TARGET_GENERIC_GETTY=y",
        "# BR2_PACKAGE_NFTABLES is not set",
        'BR2_TARGET_GENERIC_ISSUE="hello"',
    ],
)
def test_a_value_that_the_engine_cannot_serve_is_an_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(SallyportError, match=r"map\.toml supports only") as caught:
        translate(tmp_path, f"BR2_x86_64=y\n{line}\n")
    assert str(caught.value).startswith(f"{tmp_path}/defconfig:2: BR2_")


def test_an_overlay_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match="no directory") as caught:
        translate(tmp_path, 'BR2_ROOTFS_OVERLAY="$(BR2_EXTERNAL_SALLYPORT_PATH)/../../overlays/toast"\n')
    assert f"{tmp_path}/defconfig:1: BR2_ROOTFS_OVERLAY" in str(caught.value)


@pytest.mark.parametrize("text", ["[symbols.BR2_A]\nkeeps = []\n", "[symbols\n"])
def test_a_broken_map_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    broken = tmp_path / "map.toml"
    broken.write_text(symbol_map.MAP.read_text() + text)
    monkeypatch.setattr(symbol_map, "MAP", broken)
    with pytest.raises(SallyportError, match=str(broken)):
        symbol_map.read()


@pytest.mark.parametrize("target", architecture.ALL.values(), ids=tuple(architecture.ALL))
@pytest.mark.parametrize("name", defconfig.ALL)
def test_the_shipped_defconfigs_translate(name: str, target: Arch) -> None:
    symbols = defconfig.merged(target.configs(name, defconfig.ALL[name]))
    spec = symbol_map.translate(symbols, target)
    assert target.loader in spec.keep
    assert ("qemu-system-arm" in spec.packages) == (name == "host" and target is architecture.AARCH64)
    assert "{" not in " ".join(spec.keep)
    assert spec.hostname == symbols["BR2_TARGET_GENERIC_HOSTNAME"].value != ""
    assert [path.parent.name for path in spec.overlays] == ["overlays"]
    assert {"libc6", "busybox", "python3-minimal"} <= set(spec.packages)
    assert "usr/bin/python3" in spec.keep


def test_map_and_defconfigs_have_the_same_symbols() -> None:
    parts = [
        part
        for a in architecture.ALL.values()
        for name, config in defconfig.ALL.items()
        for part in a.configs(name, config)
    ]
    used = {name for part in parts for name in defconfig.read(part)}
    assert used == set(symbol_map.read().symbols)


def test_the_shipped_defconfigs_let_nobody_log_in() -> None:
    for config in CONFIGS:
        symbols = defconfig.read(config)
        assert symbols["BR2_TARGET_ENABLE_ROOT_LOGIN"].value == "n"
        assert symbols["BR2_TARGET_GENERIC_GETTY"].value == "n"


def test_a_part_wins_over_the_one_before_and_takes_out_what_it_unsets(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("BR2_A=y\nBR2_B=1\n# BR2_C is not set\n")
    second.write_text("# BR2_A is not set\nBR2_B=2\n# BR2_D is not set\n")
    symbols = defconfig.merged([first, second])
    assert {name: symbol.value for name, symbol in symbols.items()} == {"BR2_B": "2", "BR2_C": "n", "BR2_D": "n"}
    assert symbols["BR2_B"].where == f"{second}:2"


def test_a_defconfig_is_chosen_by_its_name() -> None:
    assert defconfig.chosen("") == list(defconfig.ALL)
    assert defconfig.chosen("host") == ["host"]
    with pytest.raises(SallyportError, match="no defconfig 'hots'"):
        defconfig.chosen("hots")
