"""An image that was flashed onto used media is the image, to the last byte; and it is what its tools say."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rootfs.artifact import disk, gpt
from rootfs.base.errors import CommandError
from rootfs.base.package_sets import PackageSets
from rootfs.base.tools_tree import Tools
from rootfs.build import Built
from rootfs.spec import architecture, profile
from rootfs.spec.blocks import BLOCK
from rootfs.tree import verity
from rootfs.tree.verity import Verity
from tests import medium

pytestmark = pytest.mark.image

OLD = b"the former owner's credential"


@pytest.fixture(scope="module")
def seed() -> int:
    return random.SystemRandom().randrange(2**32)


@pytest.fixture
def folder(release: Built) -> Iterator[Path]:
    """Beside the image, so that hard links do, and on the disk that has room."""
    path = release.image.parent / "test-flash"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    yield path
    shutil.rmtree(path)


def appliance(tools: Tools, release: Built, target: Path) -> None:
    """A used one: files of the former owner's, also in the journal, and remains in every free corner."""
    parts = {part.name: part for part in gpt.read(release.image).partitions}
    place = target.with_suffix(".parts")
    place.mkdir()
    extract(release.image, parts["data"], place / "data")
    (place / "credential.json").write_bytes(OLD * 100)
    fresh = (place / "data").read_bytes()
    tools.run(["debugfs", "-w", "-R", "write credential.json credential.json", "data"], build=place)
    # What the file changed in the file system, as a journal that was not played yet (debugfs(8): jo, jw).
    before, after = blocks(fresh), blocks((place / "data").read_bytes())
    changed = [n for n in range(1, len(after)) if after[n] != before[n]]
    (place / "blocks").write_bytes(b"".join(after[n] for n in changed))
    (place / "commands").write_text(f"jo\njw -b {','.join(map(str, changed))} blocks\njc\n")
    (place / "data").write_bytes(fresh)
    tools.run(["debugfs", "-w", "-f", "commands", "data"], build=place)
    # The control: replayed, it brings the file back.
    shutil.copyfile(place / "data", place / "replayed")
    with pytest.raises(CommandError):  # status 1: it mended something
        tools.run(["e2fsck", "-fy", "replayed"], build=place)
    assert OLD.decode() in tools.run(["debugfs", "-R", "cat credential.json", "replayed"], build=place)
    shutil.copyfile(release.image, target)
    with target.open("r+b") as file:
        for part in parts.values():
            file.seek(part.start)
            file.writelines(medium.noise(part.size, 1))
        file.seek(parts["data"].start)
        file.write((place / "data").read_bytes())
    shutil.rmtree(place)


def blocks(content: bytes) -> list[bytes]:
    return [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]


def extract(image: Path, part: gpt.Partition, target: Path) -> None:
    with image.open("rb") as source, target.open("wb") as file:
        source.seek(part.start)
        file.write(source.read(part.size))


def differing(image: Path, flashed: Path) -> int:
    """How many blocks of the image are not what the medium has."""
    with image.open("rb") as one, flashed.open("rb") as other:
        pairs = iter(lambda: (one.read(BLOCK), other.read(BLOCK)), (b"", b""))
        return sum(a != b for a, b in itertools.takewhile(lambda pair: pair[0], pairs))


@pytest.mark.parametrize("before", ["pattern", "noise", "appliance"])
def test_the_medium_is_the_image(tools: Tools, release: Built, folder: Path, before: str, seed: int) -> None:
    print(f"seed {seed}")
    table = gpt.read(release.image)
    target = folder / "disk"
    if before == "appliance":
        appliance(tools, release, target)
    else:
        chunks = medium.pattern(table.size) if before == "pattern" else medium.noise(table.size, seed)
        medium.fill(target, chunks)
    assert differing(release.image, target) > 1000
    assert (OLD in target.read_bytes()) == (before == "appliance")
    medium.flash(tools, release.image, target)
    assert differing(release.image, target) == 0
    assert OLD not in target.read_bytes()


def test_a_map_of_what_is_no_hole_leaves_remains(tools: Tools, release: Built, folder: Path) -> None:
    """The control: this is what the comparison finds, had bmaptool made the map."""
    source = folder / "sparse.img"
    source.hardlink_to(release.image)
    tools.run(["bmaptool", "create", "-o", "holes.bmap", source.name], build=folder)
    medium.fill(folder / "disk", medium.pattern(gpt.read(source).size))
    medium.flash(tools, source, folder / "disk", folder / "holes.bmap")
    assert differing(source, folder / "disk") > 1000


def test_a_damaged_image_is_not_flashed_without_a_word(tools: Tools, release: Built, folder: Path) -> None:
    damaged = folder / "damaged.img"
    tools.run(["cp", "--sparse=always", "source", damaged.name], build=link(folder, release.image))
    with damaged.open("r+b") as file:
        file.seek(gpt.read(release.image).partitions[2].start + 12345)  # in the empty slot
        file.write(b"x")
    medium.fill(folder / "disk", medium.pattern(gpt.read(release.image).size))
    with pytest.raises(CommandError, match="checksum"):
        medium.flash(tools, damaged, folder / "disk", release.image.with_name(f"{release.image.name}.bmap"))


def link(folder: Path, image: Path) -> Path:
    (folder / "source").hardlink_to(image)
    return folder


def whole(tools: Tools, folder: Path, image: Path, verity: Verity) -> gpt.Table:
    """Every part of the image as its own tools see it: table, FAT, ext4, hash tree."""
    table = gpt.read(image)
    for part in table.partitions:
        extract(image, part, folder / part.name)
    # A reader of partition tables that is not ours.
    columns = "START,SECTORS,NAME,TYPE,UUID"
    shown = tools.run(
        [
            "partx",
            "--raw",
            "--noheadings",
            "--sector-size",
            str(table.sector),
            "--output",
            columns,
            image.name,
        ],
        build=folder,
    )
    # partx counts in units of 512 bytes, whatever a sector has (partx(8)).
    assert [line.split() for line in shown.splitlines()] == [
        [str(part.start // 512), str(part.size // 512), part.name, str(part.type), str(part.identifier)]
        for part in table.partitions
    ]
    tools.run(["fsck.fat", "-n", "esp"], build=folder)
    assert "data: 12/" in tools.run(["e2fsck", "-fn", "data"], build=folder)
    tools.run(
        [
            *("veritysetup", "verify", "slot-a", "slot-a", verity.root_hash, "--no-superblock", "--hash", "sha256"),
            *("--hash-offset", str(verity.blocks * 4096), "--data-blocks", str(verity.blocks), "--salt", verity.salt),
        ],
        build=folder,
    )
    assert not any((folder / "slot-b").read_bytes())
    return table


def verity_of(release: Built) -> Verity:
    return verity.load(release.host_tree.parent)


def test_each_part_of_the_image_is_whole(tools: Tools, release: Built, folder: Path) -> None:
    link(folder, release.image)
    table = whole(tools, folder, folder / "source", verity_of(release))
    assert table.sector == 512
    for part in ("esp", "data"):  # the control: a byte in the wrong place is found
        with (folder / part).open("r+b") as file:
            file.seek(2048 + 100 if part == "esp" else 1024 + 100)
            file.write(b"\xa5" * 64)
    for check in (["fsck.fat", "-n", "esp"], ["e2fsck", "-fn", "data"]):
        with pytest.raises(CommandError):
            tools.run(check, build=folder)


@pytest.fixture
def large(package_sets: PackageSets, tools: Tools, release: Built, folder: Path) -> Callable[[], Path]:
    def make() -> Path:
        root = release.host_tree.parent
        shutil.copyfile(root / "root.verity", folder / "root.verity")
        device = profile.load("qemu")
        large = device.disk.model_copy(update={"sector_bytes": 4096})
        return disk.assemble(
            tools,
            folder,
            profile=device.model_copy(update={"disk": large}),
            arch=architecture.X86_64,
            boot=package_sets.boot / "tree",
            kernel=release.frontend / "vmlinuz",
            initrd=root / "initrd",
            verity=verity_of(release),
            release="0",
        )

    return make


def test_an_image_for_sectors_of_4096_bytes_is_whole(
    tools: Tools, release: Built, folder: Path, large: Callable[[], Path]
) -> None:
    image = large()
    table = whole(tools, folder, image, verity_of(release))
    assert table.sector == 4096
    assert (folder / "esp").read_bytes()[11:13] == (4096).to_bytes(2, "little")  # BPB_BytsPerSec
    tools.run(["mcopy", "-n", "-i", "esp", f"::/{architecture.X86_64.uki}", "copied"], build=folder)
    assert (folder / "copied").read_bytes() == (folder / "uki.efi").read_bytes()
