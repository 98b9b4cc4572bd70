"""The verified root and the flash image, with scripts in the tools' place."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rootfs.artifact import disk, gpt, layout
from rootfs.base.errors import SallyportError
from rootfs.spec import profile
from rootfs.spec.architecture import X86_64
from rootfs.spec.profile import Disk, Profile
from rootfs.tree import verity as dm_verity
from rootfs.tree.verity import Verity
from tests.unit.rootfs.conftest import FakeTools

HASH, SALT = "ab" * 32, "cd" * 32
VERITY = Verity(blocks=7, root_hash=HASH, salt=SALT)


def seal(tmp_path: Path, size: int, printed: str = f"UUID:\nRoot hash:      \t{HASH}\n") -> tuple[Verity, FakeTools]:
    root = tmp_path / "root.squashfs"
    root.write_bytes(b"x" * size)
    tools = FakeTools(lambda _command, _build: printed)
    return dm_verity.seal(tools, tmp_path, root), tools


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


def device(sector_bytes: int = 512) -> Profile:
    """A small one: its image is hashed."""
    disk = Disk(esp_mib=48, slot_mib=64, data_mib=46, sector_bytes=sector_bytes)  # type: ignore[arg-type]
    return profile.load("qemu").model_copy(update={"disk": disk})


said: list[str] = []
"""What was put into the kernel image."""


def assemble(tmp_path: Path, size: int, sector_bytes: int = 512) -> tuple[Path, FakeTools]:
    said.clear()

    def work(command: list[str], build: Path) -> str:
        if command[0] == "ukify":
            said.extend((build / name).read_text() for name in ("cmdline", "os-release", "initrd", "vmlinuz", "stub"))
            (build / "uki.efi").write_bytes(b"kernel")
        if command[0] == "mke2fs":
            (build / "data.ext4").write_bytes(b"data")
        return ""

    tools = FakeTools(work)
    stub = tmp_path / "boot/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text("stub")
    for name in ("kernel.file", "initrd.file"):
        (tmp_path / name).write_text(name)
    with (tmp_path / "root.verity").open("wb") as file:
        file.write(b"root")
        file.truncate(size)
    made = disk.assemble(
        tools,
        tmp_path,
        profile=device(sector_bytes),
        arch=X86_64,
        boot=tmp_path / "boot",
        kernel=tmp_path / "kernel.file",
        initrd=tmp_path / "initrd.file",
        verity=VERITY,
        release="1.2.3",
    )
    return made, tools


def test_a_root_too_large_for_its_slot_names_profile_and_field(tmp_path: Path) -> None:
    room = device().disk.slot_mib
    with pytest.raises(SallyportError) as caught:
        assemble(tmp_path, room * 2**20 + 1)
    assert "profile 'qemu': disk.slot_mib: " in str(caught.value)
    assert str(room) in str(caught.value)
    assert "slots" in caught.value.hint
    assert assemble(tmp_path, room * 2**20)[0].exists()


def test_the_image_is_put_together_from_this_kernel_command_line_and_layout(tmp_path: Path) -> None:
    made, tools = assemble(tmp_path, 4096)
    assert made == tmp_path / "disk.img"
    names = [command[0] for command in tools.commands]
    assert names == ["ukify", "mkfs.fat", "mmd", "mcopy", "mke2fs", "fallocate"]
    assert said[0] == disk.command_line(device(), VERITY)
    assert "VERSION_ID=1.2.3\n" in said[1]
    assert said[2:] == ["initrd.file", "kernel.file", "stub"]
    table = gpt.read(made)
    assert table == layout.table(device().disk, f"qemu {HASH}")
    content = made.read_bytes()
    starts = {part.name: part.start for part in table.partitions}
    assert content[starts["slot-a"] :].startswith(b"root")
    assert content[starts["data"] :].startswith(b"data")


def test_large_sectors_reach_the_table_and_the_fat(tmp_path: Path) -> None:
    made, tools = assemble(tmp_path, 4096, sector_bytes=4096)
    assert gpt.read(made).sector == 4096
    (fat,) = [command for command in tools.commands if command[0] == "mkfs.fat"]
    assert " -S 4096 " in " ".join(fat)


def test_the_block_map_names_every_block_whatever_the_holes_are(tmp_path: Path) -> None:
    """Format: bmap-tools, version 2.0."""
    made, _ = assemble(tmp_path, 4096)
    text = made.with_name("disk.img.bmap").read_text()
    root = ElementTree.fromstring(text)
    blocks = made.stat().st_size // 4096
    assert [int(root.findtext(name, "")) for name in ("BlocksCount", "MappedBlocksCount", "BlockSize")] == [
        blocks,
        blocks,
        4096,
    ]
    content, at = made.read_bytes(), 0
    for found in root.iter("Range"):
        first, last = (int(word) for word in (found.text or "").split("-"))
        assert first == at
        at = last + 1
        assert found.get("chksum") == hashlib.sha256(content[first * 4096 : at * 4096]).hexdigest()
    assert at == blocks
    checksum = re.findall(r"[0-9a-f]{64}", text)[0]
    assert checksum == hashlib.sha256(text.replace(checksum, "0" * 64).encode()).hexdigest()
