"""The verified root and the flash image, with scripts in the tools' place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rootfs import disk, profile
from rootfs.arch import X86_64
from rootfs.disk import Verity
from rootfs.errors import SallyportError
from tests.unit.rootfs.conftest import FakeTools

HASH, SALT = "ab" * 32, "cd" * 32
VERITY = Verity(blocks=7, root_hash=HASH, salt=SALT)


def seal(tmp_path: Path, size: int, printed: str = f"UUID:\nRoot hash:      \t{HASH}\n") -> tuple[Verity, FakeTools]:
    root = tmp_path / "root.squashfs"
    root.write_bytes(b"x" * size)
    tools = FakeTools(lambda _command, _build: printed)
    return disk.seal(tools, tmp_path, root), tools


@pytest.mark.parametrize(("size", "blocks"), [(1, 1), (4096, 1), (4097, 2)])
def test_the_hash_tree_follows_the_padded_data(tmp_path: Path, size: int, blocks: int) -> None:
    verity, tools = seal(tmp_path, size)
    assert (verity.blocks, verity.root_hash) == (blocks, HASH)
    words = " ".join(tools.commands[0])
    assert f"--hash-offset {blocks * 4096} --data-blocks {blocks} --salt {verity.salt}" in words
    assert (tmp_path / "root.verity").stat().st_size == blocks * 4096
    assert (tmp_path / "root.squashfs").stat().st_size == size


def test_the_salt_is_derived_from_the_content(tmp_path: Path) -> None:
    first, again, other = seal(tmp_path, 5)[0], seal(tmp_path, 5)[0], seal(tmp_path, 6)[0]
    assert re.fullmatch("[0-9a-f]{64}", first.salt)
    assert first.salt == again.salt != other.salt


@pytest.mark.parametrize("printed", ["", "Root hash: 12\n", f"no Root hash: {HASH}"])
def test_no_root_hash_is_an_error(tmp_path: Path, printed: str) -> None:
    with pytest.raises(SallyportError, match="no root hash"):
        seal(tmp_path, 1, printed)


@pytest.mark.parametrize("name", profile.names())
def test_the_command_line_ties_the_kernel_to_this_root_and_shuts_ipv6_off(name: str) -> None:
    device = profile.load(name)
    words = disk.command_line(device, VERITY).split(" ")
    assert f"sallyport.roothash={HASH}" in words
    assert f"sallyport.verity=7,{SALT}" in words
    assert f"console={device.console}" in words
    assert {"ipv6.disable=1", "panic=10", "systemd.gpt_auto=no"} <= set(words)


def assemble(tmp_path: Path, size: int) -> tuple[Path, FakeTools]:
    def work(command: list[str], build: Path) -> str:
        if command[0] == "genimage":
            (build / "disk.img").write_bytes(b"image")
        return ""

    tools = FakeTools(work)
    stub = tmp_path / "boot/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text("stub")
    for name in ("kernel.file", "initrd.file"):
        (tmp_path / name).write_text(name)
    with (tmp_path / "root.verity").open("wb") as file:
        file.truncate(size)
    made = disk.assemble(
        tools,
        tmp_path,
        profile=profile.load("qemu"),
        arch=X86_64,
        boot=tmp_path / "boot",
        kernel=tmp_path / "kernel.file",
        initrd=tmp_path / "initrd.file",
        verity=VERITY,
        release="1.2.3",
    )
    return made, tools


def test_a_root_too_large_for_its_slot_names_profile_and_field(tmp_path: Path) -> None:
    room = profile.load("qemu").disk.slot_mib
    with pytest.raises(SallyportError) as caught:
        assemble(tmp_path, room * 2**20 + 1)
    assert "profile 'qemu': disk.slot_mib: " in str(caught.value)
    assert str(room) in str(caught.value)
    assert "slots" in caught.value.hint
    assert assemble(tmp_path, room * 2**20)[0].exists()


def test_the_image_is_put_together_from_this_kernel_command_line_and_layout(tmp_path: Path) -> None:
    made, tools = assemble(tmp_path, 4096)
    assert made == tmp_path / "disk.img"
    assert [command[0] for command in tools.commands] == ["ukify", "genimage", "fallocate"]
    device = profile.load("qemu")
    assert (tmp_path / "cmdline").read_text() == disk.command_line(device, VERITY)
    assert "VERSION_ID=1.2.3\n" in (tmp_path / "os-release").read_text()
    layout = (tmp_path / "genimage.cfg").read_text()
    assert layout.count(f"size = {device.disk.slot_mib}M") == 2 + (device.disk.slot_mib == device.disk.data_mib)
    identifiers = re.findall(r'-uuid = "([0-9a-f-]{36})"', layout)
    assert len(identifiers) == len(set(identifiers)) + 1 == 9  # slot-a and slot-b share their type


def test_identifiers_belong_to_the_content_not_to_the_day(tmp_path: Path) -> None:
    layouts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assemble(tmp_path / name, 4096)
        layouts.append((tmp_path / name / "genimage.cfg").read_text())
    assert layouts[0] == layouts[1]
