"""Partition tables: what is written is read; what is damaged, foreign or twice there is refused."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from rootfs.artifact import gpt, layout
from rootfs.artifact.gpt import Partition, Table
from rootfs.artifact.imagefile import partitions
from rootfs.base.errors import SallyportError
from rootfs.spec import profile
from rootfs.spec.blocks import BLOCK, group_blocks
from rootfs.spec.profile import LEAST_DATA_MIB, Disk

MIB = 2**20
SIZES = {"esp_mib": 48, "slot_mib": 64, "data_mib": LEAST_DATA_MIB}


def make(path: Path, sector: int = 512) -> Table:
    table = layout.table(Disk(**SIZES, sector_bytes=sector), "x")  # type: ignore[arg-type]
    with path.open("wb") as file:
        file.truncate(table.size)
        gpt.write(file, table)
    return table


@pytest.mark.parametrize("sector", gpt.SECTORS)
def test_what_is_written_is_read(tmp_path: Path, sector: int) -> None:
    table = make(tmp_path / "disk", sector)
    assert gpt.read(tmp_path / "disk") == table
    content = (tmp_path / "disk").read_bytes()
    # UEFI 5.2.3, 5.3.2: the protective MBR; header and copy name each other; the entries are the same.
    assert content[446:462] == bytes.fromhex("00000200eeffffff01000000") + (table.size // sector - 1).to_bytes(
        4, "little"
    )
    assert content[510:512] == b"\x55\xaa"
    assert content[-sector:][:8] == content[sector:][:8] == b"EFI PART"
    assert content[2 * sector :][: 128 * 128] == content[-sector - 128 * 128 : -sector]


@pytest.mark.parametrize("name", profile.names())
def test_partitions_lie_on_whole_mebibytes_and_touch(name: str) -> None:
    table = layout.table(profile.load(name).disk, "x")
    at = MIB
    for part in table.partitions:
        assert part.start == at
        assert part.size % MIB == 0
        at += part.size
    assert table.size == at + MIB
    assert [part.name for part in table.partitions] == list(layout.TYPES)


def test_identifiers_belong_to_the_content_not_to_the_day() -> None:
    disk = Disk(**SIZES)  # type: ignore[arg-type]
    one, again, other = layout.table(disk, "x"), layout.table(disk, "x"), layout.table(disk, "y")
    assert one == again
    names = {table.disk for table in (one, other)} | {p.identifier for t in (one, other) for p in t.partitions}
    assert len(names) == 10


@pytest.mark.parametrize("data_mib", [LEAST_DATA_MIB, 64, 128, 65536])
def test_even_the_smallest_data_partition_has_a_second_superblock(data_mib: int) -> None:
    disk = Disk(**SIZES | {"data_mib": data_mib})  # type: ignore[arg-type]
    group = group_blocks(disk)
    assert 256 <= group <= 8 * BLOCK
    assert group % 8 == 0  # mke2fs(8)
    assert 2 * group * BLOCK <= data_mib * MIB


@pytest.mark.parametrize(
    ("start", "size"), [(MIB + 1, MIB), (MIB, MIB + 1), (0, MIB), (2 * MIB, 2 * MIB), (62 * MIB, 2 * MIB), (MIB, 0)]
)
def test_a_partition_out_of_place_is_not_written(tmp_path: Path, start: int, size: int) -> None:
    some = uuid.UUID(int=1)
    fine = Partition("fine", some, some, 2 * MIB, MIB)
    with (tmp_path / "disk").open("wb") as file, pytest.raises(ValueError):  # noqa: PT011
        gpt.write(file, Table(512, 64 * MIB, some, (fine, Partition("x", some, some, start, size))))
    with (tmp_path / "disk").open("wb") as file:
        gpt.write(file, Table(512, 64 * MIB, some, (fine,)))


@pytest.mark.parametrize("sector", gpt.SECTORS)
@pytest.mark.parametrize(
    ("at", "says"),
    [
        ((1, 0), "no GUID partition table"),
        ((1, 16), "header is damaged"),
        ((1, 40), "header is damaged"),
        ((2, 0), "table is damaged"),
        ((2, 128 * 100), "table is damaged"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, sector: int, at: tuple[int, int], says: str) -> None:
    make(tmp_path / "disk", sector)
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(at[0] * sector + at[1])
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x80]))
    with pytest.raises(SallyportError, match=says):
        gpt.read(tmp_path / "disk")


@pytest.mark.parametrize("change", [-512, 512])
def test_a_file_of_another_length_is_refused(tmp_path: Path, change: int) -> None:
    table = make(tmp_path / "disk")
    with (tmp_path / "disk").open("r+b") as file:
        file.truncate(table.size + change)
    with pytest.raises(SallyportError, match="truncated or padded"):
        gpt.read(tmp_path / "disk")


def test_two_tables_or_two_partitions_of_a_name_are_refused(tmp_path: Path) -> None:
    """Firmware would take the one, and we look at the other."""
    table = make(tmp_path / "disk")
    assert list(partitions(tmp_path / "disk")) == ["esp", "slot-a", "slot-b", "data"]
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(4096)
        file.write(b"EFI PART")
    with pytest.raises(SallyportError, match="two partition tables"):
        gpt.read(tmp_path / "disk")
    first, *rest = table.partitions
    again = Partition(first.name, first.type, table.disk, rest[-1].start, rest[-1].size)
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(table.size)
        gpt.write(file, Table(512, table.size, table.disk, (first, *rest[:-1], again)))
    with pytest.raises(SallyportError, match="more than one partition is named 'esp'"):
        partitions(tmp_path / "disk")


@pytest.mark.parametrize("content", [b"", b"x", bytes(512), bytes(100_000)])
def test_a_file_that_is_no_disk_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises(SallyportError, match="no GUID partition table"):
        gpt.read(tmp_path / "disk")
