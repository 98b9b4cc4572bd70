"""Changes in a flash image, as somebody makes them who knows how it is built and wants it to boot."""

from __future__ import annotations

import os
from collections.abc import Callable

from driver.errors import MachineError
from proof.image import flash_image
from proof.image.flash import initrd, table, uki
from proof.image.flash.table import Disk
from proof.image.flash.view import View
from proof.image.rebuild import ImageRebuilder
from rootfs.artifact.imagefile import ImageFile, partitions


class Forge:
    """A copy of an image that is changed in its own folder.

    Args:
        remaker: has the tools, and the stub.
        image: the copy.
    """

    def __init__(self, rebuilder: ImageRebuilder, image: ImageFile) -> None:
        self._rebuilder, self._image = rebuilder, image
        self._folder = image.path.parent
        self._tools = rebuilder.sets.tools
        self.boots = rebuilder.arch.uki
        """Where the firmware finds what it boots."""

    def begins(self, partition: str) -> int:
        """Its offset in the image."""
        return partitions(self._image.path)[partition]

    def write(self, at: int, data: bytes) -> None:
        """Write bytes at an offset, or behind the end where it is negative."""
        with self._image.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            os.pwrite(file.fileno(), data, end if at < 0 else at)

    def read(self, at: int, length: int) -> bytes:
        """Bytes at an offset."""
        with self._image.path.open("rb") as file:
            return os.pread(file.fileno(), length, at)

    def find(self, data: bytes) -> int:
        """The first offset in the system partition where these bytes stand.

        Raises:
            MachineError: they stand nowhere.
        """
        start = self.begins("esp")
        at = self.read(start, self.begins("slot-a") - start).find(data)
        if at < 0:
            raise MachineError(f"{self._image.path.name} has no {data!r}", "mend the mutant")
        return start + at

    def cut(self, size: int) -> None:
        """Make the image shorter."""
        os.truncate(self._image.path, size)

    def plant(self, change: Callable[[Disk], Disk]) -> None:
        """Write what a change of the disk's table plants."""
        with View.open(self._image.path) as view:
            planted = change(flash_image.disk_of(self._image, view)).view.planted
        for at, data in planted.items():
            self.write(at, data)

    def gap(self) -> int:
        """An offset in no partition."""
        with View.open(self._image.path) as view:
            return table.gap(flash_image.disk_of(self._image, view))

    def put(self, path: str, content: bytes) -> None:
        """Put a file into the system partition, in the place of another one if there is one."""
        (self._folder / "put").write_bytes(content)
        partition = f"{self._image.path.name}@@{self.begins('esp')}"
        folder = path.rpartition("/")[0]
        if folder not in ("", self.boots.rpartition("/")[0]):
            self._tools.run(["mmd", "-i", partition, f"::/{folder}"], build=self._folder)
        self._tools.run(["mcopy", "-o", "-i", partition, "put", f"::/{path}"], build=self._folder)

    def keep(self, name: str, content: bytes) -> None:
        """Put a file into the data partition."""
        (self._folder / "put").write_bytes(content)
        partition = f"{self._image.path.name}?offset={self.begins('data')}"
        self._tools.run(["debugfs", "-w", "-R", f"write put {name}", partition], build=self._folder)

    def section(self, name: str) -> bytes:
        """A section of the unified kernel image."""
        partition = f"{self._image.path.name}@@{self.begins('esp')}"
        self._tools.run(["mcopy", "-o", "-i", partition, f"::/{self.boots}", "uki.efi"], build=self._folder)
        return uki.content((self._folder / "uki.efi").read_bytes(), name)

    def boot(self, *, more: tuple[str, ...] = (), stub: bytes = b"", **other: bytes) -> None:
        """Put another unified kernel image in the place of the real one.

        Args:
            more: arguments of ukify(1).
            stub: in the place of the real one.
            other: content of sections, by their names without a dot.
        """
        for name in ("osrel", "cmdline", "linux", "initrd"):
            (self._folder / name).write_bytes(other.get(name) or self.section(f".{name}"))
        (self._folder / "stub").write_bytes(stub or self._rebuilder.stub)
        efi = self._rebuilder.arch.efi
        self._tools.run(
            [
                *("ukify", "build", "--linux=linux", "--initrd=initrd", "--cmdline=@cmdline", "--os-release=@osrel"),
                *(
                    "--uname=",
                    "--output=other.efi",
                    "--stub=stub",
                    f"--efi-arch={efi}",
                    *more,
                ),
            ],
            build=self._folder,
        )
        self.put(self.boots, (self._folder / "other.efi").read_bytes())

    def stub(self) -> bytes:
        """The real one."""
        return self._rebuilder.stub

    def initramfs(self, change: Callable[[bytes], bytes]) -> bytes:
        """The initial RAM file system with its archive changed, compressed as the real one is."""
        (self._folder / "old.zst").write_bytes(self.section(".initrd"))
        for name in ("old", "new.zst"):
            (self._folder / name).unlink(missing_ok=True)
        self._tools.run(["zstd", "-q", "-d", "old.zst", "-o", "old"], build=self._folder)
        (self._folder / "new").write_bytes(change((self._folder / "old").read_bytes()))
        self._tools.run(["zstd", "-q", "-3", "new", "-o", "new.zst"], build=self._folder)
        return (self._folder / "new.zst").read_bytes()


def replaced(name: str, content: bytes) -> Callable[[bytes], bytes]:
    """A change of an archive: a file has another content."""

    def change(archive: bytes) -> bytes:
        members, _ = initrd.everything(archive)
        parts = [
            initrd.member(member.name, member.mode, content if member.name == name else member.content)
            for member in members
        ]
        return b"".join([*parts, initrd.member("TRAILER!!!", 0)])

    return change
