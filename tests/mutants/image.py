"""Holes outside of the verified root file system, which are found without booting the image."""

from __future__ import annotations

from driver.errors import MachineError
from proof.image.flash import initrd, table
from tests.mutants.forge import Forge, replaced
from tests.mutants.mutant import Mutant
from tests.mutants.plants import InImage

_INIT = b"#!/bin/sh\nmount -t devtmpfs dev /dev\nmount -t proc proc /proc\nexec sh </dev/ttyS0 >/dev/ttyS0 2>&1\n"
_PROGRAM = b"MZ" + b"planted " * 64
_CREDENTIAL = b'{"version": 1, "hash": "scrypt$planted"}\n'


def _other_init(forge: Forge) -> None:
    forge.boot(initrd=forge.initramfs(replaced("init", _INIT)))


def _second_archive(forge: Forge) -> None:
    """What the kernel unpacks later wins (kernel: early-userspace/buffer-format.rst)."""
    forge.boot(initrd=forge.section(".initrd") + initrd.archive("init", 0o100755, _INIT))


def _early_archive(forge: Forge) -> None:
    """Read before anything else runs (kernel: arch/x86/microcode.rst, admin-guide/acpi/initrd_table_override.rst)."""
    early = initrd.archive("kernel/firmware/acpi/dsdt.aml", 0o100644, b"DSDT")
    forge.boot(initrd=early + forge.section(".initrd"))


def _other_kernel(forge: Forge) -> None:
    kernel = bytearray(forge.section(".linux"))
    kernel[len(kernel) // 2] ^= 0xFF
    forge.boot(linux=bytes(kernel))


def _other_stub(forge: Forge) -> None:
    """A stub that works, but looks elsewhere for addons."""
    old, new = (text.encode("utf-16-le") for text in (r"\loader\addons", r"\loader\hidden"))
    if old not in forge.stub():
        raise MachineError("the stub does not look for addons", "mend the mutant")
    forge.boot(stub=forge.stub().replace(old, new))


def _second_root(forge: Forge) -> None:
    line = forge.section(".cmdline").rstrip(b"\0")
    forge.boot(cmdline=line + b" sallyport.roothash=" + b"0" * 64)


def _slot_b(forge: Forge) -> None:
    forge.write(forge.begins("slot-b") + 5 * 2**20, b"hsqs" + bytes(64))


def _tree(forge: Forge) -> None:
    """A hash somewhere in the tree, behind the blocks that the command line tells of."""
    words = forge.section(".cmdline").decode().split()
    blocks = next(word.partition("=")[2] for word in words if word.startswith("sallyport.verity=")).partition(",")[0]
    forge.write(forge.begins("slot-a") + int(blocks) * 4096 + 5000, b"planted")


def _mutant(name: str, hole: str, change: InImage, *found: str) -> Mutant:
    return Mutant(name, "image", hole, change, "tree", found)


IMAGE: tuple[Mutant, ...] = (
    _mutant("other-init", "The initramfs starts a shell.", InImage(_other_init), "flash/initramfs"),
    _mutant(
        "second-archive",
        "A second archive behind the initramfs brings another /init.",
        InImage(_second_archive),
        "flash/initramfs",
    ),
    _mutant(
        "early-archive", "An early archive overrides the firmware's tables.", InImage(_early_archive), "flash/initramfs"
    ),
    _mutant("other-kernel", "The kernel is another one.", InImage(_other_kernel), "flash/kernel-image"),
    _mutant("other-stub", "The stub before the kernel is another one.", InImage(_other_stub), "flash/kernel-image"),
    _mutant(
        "device-tree",
        "The unified kernel image brings a device tree of its own.",
        InImage(lambda forge: forge.boot(more=("--devicetree=osrel",))),
        "flash/kernel-image",
    ),
    _mutant("second-root", "The command line names a second root hash.", InImage(_second_root), "flash/kernel-image"),
    _mutant(
        "addon",
        "An addon of systemd-stub adds to the command line.",
        InImage(lambda forge: forge.put(f"{forge.boots}.extra.d/x.addon.efi", _PROGRAM)),
        "flash/esp",
    ),
    _mutant(
        "second-uki",
        "The system partition has a second program that firmware boots.",
        InImage(lambda forge: forge.put("EFI/BOOT/BOOTIA32.EFI", _PROGRAM)),
        "flash/esp",
    ),
    _mutant(
        "second-esp",
        "Firmware boots another partition that is called esp, too.",
        InImage(lambda forge: forge.plant(lambda disk: disk.with_table(table.second_esp))),
        "flash/partitions",
    ),
    _mutant(
        "known-password",
        "The data partition has a password that somebody knows.",
        InImage(lambda forge: forge.keep("credential.json", _CREDENTIAL)),
        "flash/data",
    ),
    _mutant("slot-b", "Slot B is not empty.", InImage(_slot_b), "flash/slot-b"),
    _mutant("other-tree", "The hash tree of slot A is not its data's.", InImage(_tree), "flash/verity"),
    _mutant(
        "behind-the-end",
        "Something lies behind the second partition table.",
        InImage(lambda forge: forge.write(-1, b"planted".ljust(512, b"\0"))),
        "flash/partitions",
    ),
    _mutant(
        "in-no-partition",
        "Something lies between the partitions.",
        InImage(lambda forge: forge.write(forge.gap(), b"planted")),
        "flash/partitions",
    ),
    _mutant(
        "boot-record",
        "The boot record has code that a BIOS runs.",
        InImage(lambda forge: forge.write(0, b"\xfa\xeb\xfe")),
        "flash/partitions",
    ),
)
