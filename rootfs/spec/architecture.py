"""The processor architectures that images are made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent.parent / "external"


@dataclass(frozen=True)
class Arch:
    """One architecture, by its names. The build machine's own is always x86-64."""

    name: str
    """As uname(1) says it."""
    debian: str
    triplet: str
    """Of GNU tools, and the directory of libraries below usr/lib (https://wiki.debian.org/Multiarch/Tuples)."""
    loader: str
    """Where programs look for the dynamic loader (the architecture's ELF ABI)."""
    efi: str
    """As UEFI's names of files have it (specification 2.10, section 3.5.1.1), lower case."""
    kernel: str
    """The kernel's file that is started, as its makefile names it (Linux' arch/*/Makefile)."""

    @property
    def directory(self) -> Path:
        """What holds for it alone: parts of defconfigs, of kernel configurations, QEMU's devices."""
        return _HERE / self.name

    @property
    def libraries(self) -> Path:
        """Where they are in every tree."""
        return Path("usr/lib") / self.triplet

    @property
    def suffix(self) -> str:
        """Of names of what is made for it."""
        return "" if self is X86_64 else f"-{self.debian}"

    @property
    def uki(self) -> str:
        """Where the firmware finds what boots the host, in the system partition."""
        return f"EFI/BOOT/BOOT{self.efi.upper()}.EFI"

    def configs(self, name: str, config: Path) -> list[Path]:
        """The parts of a defconfig, of which the last one wins. It is written for x86-64."""
        return [config] if self is X86_64 else [config, self.directory / f"{name}.config"]

    def spell(self, text: str) -> str:
        """Put its names into a text that has them in braces."""
        return text.format(triplet=self.triplet, loader=self.loader, debian=self.debian, arch=self.name)


X86_64 = Arch("x86_64", "amd64", "x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2", "x64", "bzImage")
AARCH64 = Arch("aarch64", "arm64", "aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1", "aa64", "Image")
ALL = {arch.name: arch for arch in (X86_64, AARCH64)}
