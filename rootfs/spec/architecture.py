"""The processor architectures that images are made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent.parent / "external"


@dataclass(frozen=True)
class Arch:
    """One architecture, by its names. The build machine's is always x86-64."""

    name: str
    """Its name as uname(1) prints it."""
    debian: str
    triplet: str
    """GNU triplet, which is also the directory of libraries below usr/lib (https://wiki.debian.org/Multiarch/Tuples)."""
    loader: str
    """Path of the dynamic loader (the architecture's ELF ABI)."""
    efi: str
    """Its name in UEFI file names (specification 2.10, section 3.5.1.1), in lower case."""
    kernel: str
    """File name of the bootable kernel, as the kernel's makefile has it (arch/*/Makefile)."""

    @property
    def directory(self) -> Path:
        """Directory of its own files: parts of defconfigs and kernel configurations, list of QEMU's devices."""
        return _HERE / self.name

    @property
    def libraries(self) -> Path:
        """Directory of shared libraries in every tree."""
        return Path("usr/lib") / self.triplet

    @property
    def suffix(self) -> str:
        """Ending of the names of what is made for it; empty for the build machine's architecture."""
        return "" if self is X86_64 else f"-{self.debian}"

    @property
    def uki(self) -> str:
        """Path of the unified kernel image in the system partition, where firmware looks by default."""
        return f"EFI/BOOT/BOOT{self.efi.upper()}.EFI"

    def configs(self, name: str, config: Path) -> list[Path]:
        """The files of a defconfig for this architecture; the last one wins. ``config`` itself is for x86-64."""
        return [config] if self is X86_64 else [config, self.directory / f"{name}.config"]

    def spell(self, text: str) -> str:
        """Replace ``{triplet}``, ``{loader}``, ``{debian}`` and ``{arch}`` in a text."""
        return text.format(triplet=self.triplet, loader=self.loader, debian=self.debian, arch=self.name)


X86_64 = Arch("x86_64", "amd64", "x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2", "x64", "bzImage")
AARCH64 = Arch("aarch64", "arm64", "aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1", "aa64", "Image")
ALL = {arch.name: arch for arch in (X86_64, AARCH64)}
