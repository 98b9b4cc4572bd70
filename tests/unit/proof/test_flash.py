"""The looks at a whole flash image: silent on what was made, loud on each change, and never led astray by a file."""

from __future__ import annotations

import os
import random
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proof import verify
from proof.image.flash import initrd, regions, table, uki
from proof.image.flash.flash_check import FlashCheck, run_flash_check
from proof.image.flash.initrd import Initrd
from proof.image.flash.regions import Files, Verity
from proof.image.flash.table import Disk
from proof.image.flash.uki import Uki
from proof.image.flash.view import Region, View
from proof.image.rebuild import ArchivedModules, _only_plain
from proof.image.tree.entries import Tree, TreeError
from proof.result import Verdict
from rootfs.artifact.imagefile import partitions
from rootfs.base.errors import SallyportError

KINDS = {"esp": table.ESP, "slot-a": table.ROOT, "slot-b": table.ROOT, "data": table.DATA}
SIZE = 1 << 18


def disk_image(path: Path, sector: int = 512, names: tuple[str, ...] = ("esp", "slot-a", "slot-b", "data")) -> Path:
    """A disk with a partition table: each partition of `SIZE`, a sector free behind each."""
    length, each = 128 * 128 // sector, SIZE // sector
    first = 2 + length
    last = first + len(names) * (each + 1) + length
    entries = b""
    for number, name in enumerate(names):
        begin = first + number * (each + 1)
        own = uuid.uuid5(uuid.NAMESPACE_DNS, str(number)).bytes_le
        place = (begin, begin + each - 1, 0)
        entries += struct.pack("<16s16sQQQ72s", KINDS[name].bytes_le, own, *place, name.encode("utf-16-le"))
    entries = entries.ljust(128 * 128, b"\0")

    def header(mine: int, other: int, at: int) -> bytes:
        where = (mine, other, first, last - length - 1, uuid.NAMESPACE_URL.bytes_le, at, 128, 128)
        raw = struct.pack("<8s4I4Q16sQ3I", b"EFI PART", 0x10000, 92, 0, 0, *where, zlib.crc32(entries))
        return raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]

    with path.open("wb") as file:
        file.truncate((last + 1) * sector)
        os.pwrite(file.fileno(), struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, last), 446)
        os.pwrite(file.fileno(), b"\x55\xaa", 510)
        for at, table_at, other in ((1, 2, last), (last, last - length, 1)):
            os.pwrite(file.fileno(), header(at, other, table_at), at * sector)
            os.pwrite(file.fileno(), entries, table_at * sector)
        os.pwrite(file.fileno(), b"partition", first * sector)
    return path


@pytest.fixture(params=[512, 4096])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with View.open(disk_image(tmp_path / "x.img", request.param)) as view:
        yield Disk(view, dict.fromkeys(KINDS, SIZE))


def findings(disk: Disk) -> list[str]:
    try:
        return list(table.find(disk))
    except TreeError as error:
        return [f"not tested: {error}"]


def test_a_disk_as_declared_is_sealed_and_each_plant_is_found(disk: Disk) -> None:
    result = run_flash_check(table.CHECK, disk)
    assert result.verdict is Verdict.SEALED, result
    assert result.control.startswith(f"{len(table.CHECK.plants)} of {len(table.CHECK.plants)} ")


def test_no_byte_outside_of_partitions_can_change(disk: Disk) -> None:
    """Whatever the reader of a table looks at: with one byte changed it is objected to, and nothing is raised."""
    used = [(first, end) for _, first, end in disk.partitions()]
    rng = random.Random(1)
    places = [rng.randrange(disk.view.size) for _ in range(300)]
    places += [*range(0, 512, 7), *range(disk.sector, disk.sector + 92), *(end for _, end in used)]
    places += [disk.view.size - disk.sector + at for at in range(0, 92, 3)]
    for at in places:
        # The boot record's geometry is read by nobody: sectors of a disk that has none.
        if not any(first <= at < end for first, end in used) and at not in (*range(447, 450), *range(451, 454)):
            assert findings(replace(disk, view=disk.view.flip(at))), hex(at)


def test_a_forged_table_of_any_content_is_objected_to(disk: Disk) -> None:
    """With right sums: what a forger would write. Sectors of 64 bits lead nowhere and take no time."""
    rng = random.Random(2)
    for _ in range(60):
        number, at, length = rng.randrange(5), rng.randrange(128), rng.randrange(1, 40)

        def change(entries: list[bytes], number: int = number, at: int = at, length: int = length) -> list[bytes]:
            entries = [*entries, bytes(128)]
            entry = entries[number]
            entries[number] = (entry[:at] + rng.choice([rng.randbytes(length), b"\xff" * length]) + entry[at:])[:128]
            return entries

        forged = disk.with_table(change)
        assert run_flash_check(table.CHECK, forged).verdict is not Verdict.SEALED
        for _, first, end in forged.partitions():
            list(forged.view.data(first, end))
            list(regions.SLOT_B.find(Region("x", forged.view, None, first, end)))


def test_a_second_partition_of_the_same_name_is_refused_before_anything_looks_for_it(tmp_path: Path) -> None:
    assert [*partitions(disk_image(tmp_path / "x.img"))] == [*KINDS]
    with pytest.raises(SallyportError, match="more than one partition is named 'esp'"):
        partitions(disk_image(tmp_path / "y.img", names=("esp", "slot-a", "slot-b", "data", "esp")))


@pytest.mark.parametrize("data", [b"", b"x", bytes(1 << 16), b"EFI PART" * 4096])
def test_what_is_no_disk_is_not_sealed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with View.open(tmp_path / "x") as view:
        assert run_flash_check(table.CHECK, Disk(view, {})).verdict is Verdict.NOT_TESTED


def test_differences_are_seen_over_holes_and_behind_the_shorter_one(tmp_path: Path) -> None:
    for name, size in (("a", 5 << 20), ("b", 6 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
            os.pwrite(file.fileno(), b"same", 3 << 20)
    with View.open(tmp_path / "a") as a, View.open(tmp_path / "b") as b:
        assert a.differences(b, 0, 6 << 20) == []
        assert b.plant((5 << 20) + 700, b"x").differences(a, 0, 6 << 20) == [((5 << 20) + 512, (5 << 20) + 1024)]
        assert a.flip(1 << 20).differences(b, 0, 6 << 20) == [(1 << 20, (1 << 20) + 512)]
        assert a.differences(None, 0, 6 << 20) == [(3 << 20, (3 << 20) + 512)]
        assert a.plant(3 << 20, bytes(4)).differences(None, 0, 6 << 20) == []
        assert list(a.data(6 << 20, 7 << 20)) == []
        assert list(a.data(0, 7 << 20)) == [(3 << 20, 4 << 20)]
        assert a.plant(5 << 20, b"x").read((5 << 20) - 1, 9) == b"\0x"


def test_a_look_that_sees_nothing_is_not_believed() -> None:
    blind: FlashCheck[int] = FlashCheck("blind", "nothing", lambda _: iter(()), {"x": lambda _: 1})
    none: FlashCheck[int] = FlashCheck("none", "nothing", lambda _: iter(()), {})
    assert {run_flash_check(flash_check, 0).verdict for flash_check in (blind, none)} == {Verdict.NOT_TESTED}


def kernel_image(**more: bytes) -> bytes:
    """The least that is a PE image with the sections of a unified kernel image."""
    content = {
        "text": b"stub" * 9,
        "osrel": b"ID=x\n",
        "cmdline": b"quiet\0",
        "linux": b"kernel" * 99,
        "initrd": b"i" * 9,
    }
    content |= more
    head = b"MZ" + bytes(0x3A) + struct.pack("<I4sHH12xHH", 0x40, b"PE\0\0", 0x8664, len(content), 16, 0) + bytes(16)
    at, sections, body = 1024, b"", b""
    for name, data in content.items():
        raw = -(-len(data) // 512) * 512
        sections += struct.pack("<8sI4xII16x", f".{name}".encode(), len(data), raw, at + len(body))
        body += data.ljust(raw, b"\0")
    return (head + sections).ljust(at, b"\0") + body


def test_the_kernel_image() -> None:
    real = kernel_image()
    same = Uki(real, real, "a", "a")
    assert run_flash_check(uki.CHECK, same).verdict is Verdict.SEALED
    said = {
        name: "; ".join(uki.find(replace(same, actual=other)))
        for name, other in {
            "kernel": kernel_image(linux=b"other"),
            "stub": kernel_image(text=b"other"),
            "more": kernel_image(dtbauto=b"x"),
            "behind": real + b"x",
            "header": real[:0x50] + b"x" + real[0x51:],
            "padding": real[:-1] + b"x",
            "twice": real.replace(b".osrel\0\0", b".cmdline"),
            "none": b"MZ",
            "cut": real[:-600],
        }.items()
    }
    assert all(said.values()), said
    assert "'.linux' is not what" in said["kernel"]
    assert "the stub's" in said["stub"]
    assert "'.dtbauto' is not declared" in said["more"]
    assert "'.cmdline' is there 2 times" in said["twice"]
    assert list(uki.find(replace(same, kernel="b"))) == ["the kernel is not the one that the manifest declares"]


@pytest.fixture
def archive() -> bytes:
    programs = {name: f"#!/bin/{name}\n".encode() for name in ("init", "usr/bin/busybox")}
    members = [
        initrd.member("init", 0o100755, programs["init"]),
        initrd.member("modules", 0o100644, b"/modules.d/x.ko\n"),
        *(initrd.member(name, 0o40755) for name in ("usr", "usr/bin")),
        initrd.member("usr/bin/busybox", 0o100755, programs["usr/bin/busybox"]),
        initrd.member("usr/bin/sh", 0o120777, b"busybox"),
    ]
    return b"".join([*members, initrd.member("TRAILER!!!", 0)])


def test_the_initial_ram_file_system(archive: bytes) -> None:
    same = Initrd(b"packed", archive, b"packed", archive)
    assert run_flash_check(initrd.CHECK, same).verdict is Verdict.SEALED, run_flash_check(initrd.CHECK, same)

    def said(other: bytes, packed: bytes = b"other") -> str:
        return "; ".join(initrd.find(replace(same, packed=packed, archive=other)))

    assert "'init'" in said(archive.replace(b"#!/bin/init", b"#!/bin/evil"))
    assert "not in the rebuilt archive: 'etc/x'" in said(archive + bytes(9) + initrd.archive("etc/x", 0o100644))
    assert "twice: 'init'" in said(archive + initrd.archive("init", 0o100755))
    early = initrd.archive("kernel/x86/microcode/AuthenticAMD.bin", 0o100644)
    assert "not in the rebuilt archive: 'kernel/x86" in said(early + archive)
    assert "5 bytes follow" in said(archive + b"other")
    assert "missing: 'modules'" in said(archive[: archive.index(b"modules") - 110] + initrd.member("TRAILER!!!", 0))
    assert "differently" in said(archive)
    assert "no header of a cpio" in said(archive[:200] + b"x" * 200)
    assert "missing: 'init'" in said(b"")
    assert "more than" in said(initrd.member("x", 0o100644) * 10_002)


def test_an_archive_without_modules_is_looked_at_as_well(archive: bytes) -> None:
    listed = initrd.member("modules", 0o100644)
    parts = [initrd.member(m.name, m.mode, m.content) for m in initrd.everything(archive)[0] if m.name != "modules"]
    bare = b"".join([*parts, listed, initrd.member("TRAILER!!!", 0)])
    assert run_flash_check(initrd.CHECK, Initrd(b"", bare, b"", bare)).verdict is Verdict.NOT_TESTED, (
        "packed as nothing"
    )
    assert run_flash_check(initrd.CHECK, Initrd(b"x", bare, b"x", bare)).verdict is Verdict.SEALED


def test_what_nobody_declared_is_not_hidden_by_a_recipe_that_makes_it(archive: bytes) -> None:
    """An archive that is the same as the rebuilt one is still checked."""
    for more in (
        initrd.archive("usr/bin/dropbear", 0o100755),
        initrd.archive("usr/bin/nc", 0o120777, b"busybox"),
        initrd.archive("etc/passwd", 0o100644),
        initrd.archive("dev/mem", 0o020600),
        initrd.archive("usr/bin/busybox", 0o104755),
    ):
        result = run_flash_check(initrd.CHECK, Initrd(b"", archive + more, b"", archive + more))
        assert result.verdict is Verdict.HOLE, result


def test_modules_that_an_archive_brings_are_those_that_it_lists() -> None:
    def brought(listed: str, *there: str) -> list[str]:
        parts = [initrd.member("modules", 0o100644, listed.encode())]
        parts += [initrd.member(f"modules.d/{name}", 0o100644, name.encode()) for name in there]
        return ArchivedModules(b"".join([*parts, initrd.member("TRAILER!!!", 0)])).closure(("b",), "here")

    assert brought("/modules.d/b.ko\n/modules.d/a.ko\n", "a.ko", "b.ko") == ["modules.d/b.ko", "modules.d/a.ko"]
    for listed, there in (
        ("/modules.d/a.ko", ("a.ko", "b.ko")),
        ("/modules.d/a.ko /modules.d/a.ko", ("a.ko",)),
        ("/x", ()),
    ):
        with pytest.raises(TreeError, match="here: the list of modules"):
            brought(listed, *there)


def test_partitions_beside_those_made_anew(tmp_path: Path) -> None:
    size = 1 << 16
    fat = bytearray(random.Random(1).randbytes(size // 2).ljust(size, b"\0"))
    struct.pack_into("<HBH", fat, 11, 512, 4, 4)
    (tmp_path / "image").write_bytes(fat)
    with View.open(tmp_path / "image") as actual:
        region = Region("esp", actual, actual, 0, size)
        esp = Files(region, frozenset({"::/a"}), frozenset({"::/a"}))
        more = regions.esp(lambda: frozenset({"::/a", "::/b"}))
        assert run_flash_check(more, esp).verdict is Verdict.SEALED
        assert run_flash_check(regions.esp(lambda: esp.listed), esp).verdict is Verdict.NOT_TESTED, (
            "an addon must be listed"
        )
        assert run_flash_check(more, replace(esp, listed=None)).verdict is Verdict.HOLE
        changed = replace(esp, region=replace(region, actual=actual.flip(size - 1)))
        assert run_flash_check(more, changed).verdict is Verdict.HOLE
        whole = regions.whole(actual, actual)
        assert run_flash_check(regions.WHOLE, whole).verdict is Verdict.SEALED
        assert (
            run_flash_check(regions.WHOLE, replace(whole, actual=actual.plant(size, bytes(4)))).verdict is Verdict.HOLE
        )
        empty = Region("slot-b", actual, None, size // 2, size)
        assert run_flash_check(regions.SLOT_B, empty).verdict is Verdict.SEALED
        assert run_flash_check(regions.SLOT_B, replace(empty, start=0)).verdict is Verdict.HOLE
        slot = Verity(region, 4, 6 * 4096, 4 * 4096 - 1, "roothash=1 verity=4,2", "roothash=1 verity=4,2")
        assert run_flash_check(regions.VERITY, slot).verdict is Verdict.SEALED
        assert list(regions.VERITY.find(replace(slot, command_line="roothash=1 verity=4,3")))
        assert list(regions.VERITY.find(replace(slot, system=4 * 4096 + 1)))


def test_a_root_that_leads_astray_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/a.so.1").write_text("x")
    (root / "usr/lib/a.so").symlink_to("a.so.1")
    _only_plain(Tree(root))
    path = root / "usr/lib/x"
    for target in ("", "/etc/shadow", "../../../secret", "x"):
        path.symlink_to(target) if target else os.mkfifo(path)
        with pytest.raises(TreeError, match=r"something else|outside"):
            _only_plain(Tree(root))
        path.unlink()


def test_an_image_that_changes_during_the_run_is_not_sealed() -> None:
    before = {"x.img": "a" * 64, "x.manifest.json": "b" * 64}
    assert verify.unchanged(before, dict(before)).verdict is Verdict.SEALED
    for after in ({**before, "x.img": "c" * 64}, {**before, "x.manifest.json": ""}, {}):
        result = verify.unchanged(before, after)
        assert result.verdict is Verdict.NOT_TESTED
        assert "changed during the run" in result.evidence
    assert verify.unchanged({"x.img": ""}, {"x.img": ""}).verdict is Verdict.NOT_TESTED
