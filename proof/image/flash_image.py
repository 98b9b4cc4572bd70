"""Runs the checks of `proof.image.flash` on an image: partition table, partitions, unified kernel image."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from proof.image.flash import initrd, regions, table, uki
from proof.image.flash.flash_check import not_tested, run_flash_check
from proof.image.flash.regions import Files, Verity
from proof.image.flash.table import Disk
from proof.image.flash.view import Region, View
from proof.image.rebuild import ImageRebuilder, RebuiltImage
from proof.image.tree.entries import Tree, TreeError
from proof.result import Result
from rootfs.artifact.imagefile import ImageFile
from rootfs.artifact.unpack import VM
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import toolset
from rootfs.base.tools_tree import Confined, left, own

_MIB = 1 << 20
MAX_INITRD = initrd.MAX_ARCHIVE
MAX_LINES = 1000
MAX_SECONDS = 60
"""Seconds of processor time that a tool may take to read a file system."""


def disk_of(image: ImageFile, view: View) -> Disk:
    """Return the image with the sizes that its profile declares."""
    sizes = image.profile.disk
    mib = {"esp": sizes.esp_mib, "slot-a": sizes.slot_mib, "slot-b": sizes.slot_mib, "data": sizes.data_mib}
    return Disk(view, {name: number * _MIB for name, number in mib.items()})


def partitions(image: ImageFile) -> Result:
    """Return the result for the partition table and the bytes outside of partitions; nothing is unpacked for it."""
    with View.open(image.path) as view:
        return run_flash_check(table.CHECK, disk_of(image, view))


class Flash:
    """An image that is compared with the one rebuilt from it.

    Args:
        rebuilder: rebuilds the image.
        image: the file.
        folder: for copies of partitions and what is unpacked from them.
        host: returns the unpacked root file system of the host; called only if it is needed.
    """

    def __init__(self, rebuilder: ImageRebuilder, image: ImageFile, folder: Path, host: Callable[[], Path]) -> None:
        self._rebuilder, self._image, self._folder, self._host = rebuilder, image, folder, host

    def results(self) -> list[Result]:
        """Return the results of all checks but that of the partition table; never raises for what is in the image."""
        with View.open(self._image.path) as view:
            try:
                disk = disk_of(self._image, view)
                parts = {name: (first, end) for name, first, end in disk.partitions()}
                # These sizes decide how much room and time the rest takes.
                if [(name, end - first) for name, (first, end) in parts.items()] != [*disk.sizes.items()]:
                    raise TreeError("the partitions are not the declared ones")
                slot_b = run_flash_check(regions.SLOT_B, Region("slot-b", view, None, *parts["slot-b"]))
            except TreeError as error:
                return [not_tested("whole", regions.WHOLE.tried, str(error))]
            try:
                found = self._kernel_image(view, *parts["esp"])
                made, command_line = self._made(view, *parts["slot-a"], found)
                with View.open(made.image) as other:
                    return [slot_b, *self._compared(view, other, made, command_line, found, parts)]
            except (TreeError, OSError) as error:
                return [slot_b, not_tested("whole", regions.WHOLE.tried, str(error))]

    def _made(self, view: View, start: int, end: int, found: bytes) -> tuple[RebuiltImage, str]:
        if self._image.manifest.boot.tools != toolset(self._rebuilder.sets.tools):
            raise TreeError("the image was built with other tools than this checkout's: use the checkout that built it")
        if self._image.manifest.boot.stub != hashlib.sha256(self._rebuilder.stub).hexdigest():
            raise TreeError("the manifest has the digest of another systemd stub than this checkout's packages")
        command_line = uki.content(found, ".cmdline").rstrip(b"\0").decode(errors="replace")
        blocks = _blocks(command_line)
        if not 0 < blocks * regions.BLOCK < end - start:
            raise TreeError(f"the command line says {blocks} blocks, which do not fit in slot-a")
        kernel = uki.content(found, ".linux")
        made = self._rebuilder.rebuild(self._image, view, start, blocks * regions.BLOCK, self._host, kernel)
        return made, command_line

    def _kernel_image(self, view: View, start: int, end: int) -> bytes:
        """Return the unified kernel image, read from the system partition's file system."""
        copy = self._copy(view, start, end)
        target = copy.parent / "uki.efi"
        try:
            # A hostile FAT may have a chain of clusters that is a circle, so the copy's size is limited.
            limit, boots = f"--fsize={uki.MAX_UKI}", f"::/{self._rebuilder.arch.uki}"
            self._ask(copy, "prlimit", limit, "mcopy", "-n", "-i", copy.name, boots, target.name)
        except SallyportError as error:
            raise TreeError(f"the system partition has no kernel that can be read: {error}") from error
        return left(target, uki.MAX_UKI)

    def _compared(
        self,
        view: View,
        other: View,
        made: RebuiltImage,
        command_line: str,
        found: bytes,
        parts: dict[str, tuple[int, int]],
    ) -> list[Result]:
        def region(name: str) -> Region:
            return Region(name, view, other, *parts[name])

        known = self._image.manifest.boot
        boots = self._rebuilder.arch.uki
        start, _ = parts["slot-a"]
        # squashfs: struct squashfs_super_block, bytes_used (kernel: fs/squashfs/squashfs_fs.h)
        (system,) = struct.unpack("<Q", view.read(start + 40, 8).ljust(8, b"\0"))
        slot_a = Verity(region("slot-a"), _blocks(command_line), made.tree, system, command_line, made.argument)
        esp = Files(region("esp"), self._esp(view, *parts["esp"]), frozenset({f"::/{boots}"}))
        data = Files(region("data"), self._data(view, *parts["data"]), frozenset({"lost+found"}))
        kernel = hashlib.sha256(uki.content(found, ".linux")).hexdigest()
        kernel_digest = f"the manifest's kernel has SHA-256 {known.kernel[:16]}…; "
        return [
            run_flash_check(regions.VERITY, slot_a),
            run_flash_check(
                regions.esp(lambda: self._esp(view, *parts["esp"], plant=f"{boots}.extra.d/x.addon.efi")), esp
            ),
            run_flash_check(uki.CHECK, uki.Uki(found, made.uki, known.kernel, kernel), kernel_digest),
            self._initramfs(found, made),
            run_flash_check(regions.data(lambda: self._data(view, *parts["data"], plant="planted")), data),
            run_flash_check(regions.WHOLE, regions.whole(view, other)),
        ]

    def _initramfs(self, found: bytes, made: RebuiltImage) -> Result:
        try:
            packed = uki.content(found, ".initrd")
        except TreeError as error:
            return not_tested(initrd.CHECK.name, initrd.CHECK.tried, str(error))
        archive, trouble = made.archive, ""
        if packed != made.initrd:
            archive, trouble = self._unpacked(packed)
        return run_flash_check(initrd.CHECK, initrd.Initrd(packed, archive, made.initrd, made.archive, trouble))

    def _unpacked(self, packed: bytes) -> tuple[bytes, str]:
        """Unpack an archive that differs from the rebuilt one; return it, and why that failed."""
        plain = b""
        try:
            _, rest = initrd.everything(packed)
            plain = packed[: len(packed) - len(rest)]
            if not rest:
                return plain, ""
            packed_file = self._box() / "initrd.zst"
            packed_file.write_bytes(rest)
            self._ask(packed_file, "prlimit", f"--fsize={MAX_INITRD}", "zstd", "-q", "-d", packed_file.name)
            return plain + left(packed_file.with_suffix(""), MAX_INITRD), ""
        except (SallyportError, TreeError, OSError) as error:
            return plain, str(error).strip().splitlines()[-1][:200]

    def _esp(self, view: View, start: int, end: int, *, plant: str = "") -> frozenset[str] | None:
        """Return the files of the system partition (mtools(1)), with ``plant`` added; None: not readable."""
        copy = self._copy(view, start, end)
        try:
            if plant:
                (copy.parent / "addon").write_bytes(b"MZ")
                folder = plant.rpartition("/")[0]
                self._ask(copy, "mmd", "-i", copy.name, f"::/{folder}")
                self._ask(copy, "mcopy", "-i", copy.name, "addon", f"::/{plant}")
            output = self._ask(copy, "mdir", "-/", "-a", "-b", "-i", copy.name, "::")
        except SallyportError:
            return None
        return frozenset(line for line in output.splitlines() if not _folder_of(line, self._rebuilder.arch.uki))

    def _data(self, view: View, start: int, end: int, *, plant: str = "") -> frozenset[str] | None:
        """Return the root directory of the data partition (debugfs(8)), with ``plant`` added; None: not readable."""
        copy = self._copy(view, start, end)
        try:
            if plant:
                (copy.parent / "addon").write_bytes(b"MZ")
                self._ask(copy, "debugfs", "-w", "-R", f"write addon {plant}", copy.name)
            output = self._ask(copy, "debugfs", "-R", "ls -p /", copy.name)
        except SallyportError:
            return None
        names = [line.split("/")[5] for line in output.splitlines() if line.startswith("/") and line.count("/") >= 6]
        return frozenset(names) - {".", ".."} if names else None

    def _ask(self, file: Path, *argv: str) -> str:
        """Run a confined tool on a file in a `_box` and return its output, at most `MAX_LINES` lines.

        A hostile file system may have directories in a circle, hence the limit. From then on only such tools write in
        the box, and only `left` reads what they wrote.
        """
        lines = 0

        def count(_: str) -> None:
            nonlocal lines
            lines += 1
            if lines > MAX_LINES:
                raise SallyportError(f"{argv[0]} lists more than {MAX_LINES} files")

        words = ["prlimit", f"--cpu={MAX_SECONDS}", *argv]
        return self._rebuilder.sets.tools.run(words, build=file.parent, confined=Confined(), on_line=count)

    def _box(self) -> Path:
        """Return a new directory for one file and the tools that read it."""
        return Path(tempfile.mkdtemp(prefix="box-", dir=self._folder))

    def _copy(self, view: View, start: int, end: int) -> Path:
        """Return a copy of a partition in a sparse file."""
        copy = self._box() / "partition"
        with copy.open("xb") as file:
            file.truncate(end - start)
            for first, last in view.data(start, end):
                os.pwrite(file.fileno(), view.read(first, last - first), first - start)
        own(copy)
        return copy


def vm_initramfs(rebuilder: ImageRebuilder, image: ImageFile, host: Path, vm: Path) -> Result:
    """Return the result for the VM's initial RAM file system, a file of the host's root file system."""
    flash_check = initrd.VM_CHECK
    try:
        packed = Tree(host).read(f"{VM}/initrd", initrd.MAX_ARCHIVE)
        made = rebuilder.vm_initramfs(image, vm, packed)
    except TreeError as error:
        return not_tested(flash_check.name, flash_check.tried, str(error))
    return run_flash_check(flash_check, initrd.Initrd(packed, packed, made, made))


def _folder_of(line: str, boots: str) -> bool:
    """Whether a line of mdir(1) names a directory on the path to the unified kernel image."""
    return line.endswith("/") and f"::/{boots}".startswith(line)


def _blocks(command_line: str) -> int:
    """Return how many blocks of the root file system are verified, from the kernel's command line.

    Raises:
        TreeError: the command line does not say it.
    """
    found = [word.partition("=")[2] for word in command_line.split() if word.startswith("sallyport.verity=")]
    number = found[0].partition(",")[0] if found else ""
    if not number.isascii() or not number.isdigit() or len(number) > 12:
        raise TreeError("the command line does not say how many blocks are verified")
    return int(number)
