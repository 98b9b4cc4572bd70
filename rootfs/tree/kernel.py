"""The kernel of an image: its boot image, and of its modules only those that are named and what they depend on."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootfs.base.cache import Cache, digest_path
from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import Tools

_CONSOLES = {
    "tty": "VT_CONSOLE",
    "ttyS": "SERIAL_8250_CONSOLE",
    "ttyAMA": "SERIAL_AMBA_PL011_CONSOLE",
    "ttyMSM": "SERIAL_MSM_CONSOLE",
    "ttyPS": "SERIAL_XILINX_PS_UART_CONSOLE",
    "ttySAC": "SERIAL_SAMSUNG_CONSOLE",
    "ttySTM": "SERIAL_STM32_CONSOLE",
    "ttyTHS": "SERIAL_TEGRA",
    "ttyUSB": "USB_SERIAL_CONSOLE",
    "ttymxc": "SERIAL_IMX_CONSOLE",
    "hvc": "HVC_DRIVER",
}
"""Devices that can be the console, and what the kernel must be built with (drivers/tty, drivers/usb/serial)."""


@dataclass(frozen=True)
class Kernel:
    """A kernel with all its modules as the packages have it (``tree`` with boot/ and usr/lib/modules/)."""

    cache: Cache
    tools: Tools
    fetched: Path

    @property
    def release(self) -> str:
        """As `uname -r` says it."""
        return next((self.fetched / "tree/usr/lib/modules").iterdir()).name

    @property
    def image(self) -> Path:
        """What a boot loader, or QEMU, starts."""
        return self.fetched / "tree/boot" / f"vmlinuz-{self.release}"

    def _index(self) -> dict[str, list[str]]:
        """Module path to the paths it depends on, nearest first (modules.dep(5)), and nothing for built-in ones."""

        def build(output: Path) -> None:
            work = output / "tree"
            shutil.copytree(self.fetched / "tree/usr/lib/modules", work / "lib/modules", symlinks=True)
            self.tools.run(["depmod", "-b", "tree", self.release], build=output)
            directory = work / "lib/modules" / self.release
            index = {}
            for line in (directory / "modules.dep").read_text().splitlines():
                path, _, needs = line.partition(":")
                index[path] = needs.split()
            builtin = (directory / "modules.builtin").read_text().split()
            (output / "index.json").write_text(json.dumps({"modules": index, "builtin": builtin}))
            shutil.rmtree(work)

        inputs = {"kernel": self.fetched.name, "code": digest_path(Path(__file__))}
        output = self.cache.step(f"modules-{self.release}", f"Module index of Linux {self.release}", inputs, build)
        found: dict[str, Any] = json.loads((output / "index.json").read_text())
        modules: dict[str, list[str]] = found["modules"]
        return {path: [] for path in found["builtin"]} | modules

    def closure(self, names: Iterable[str], where: str) -> list[str]:
        """Paths (below ``usr/lib/modules/<release>``) of modules and all they need, in the order to load them.

        Args:
            names: module names; ``-`` and ``_`` are the same.
            where: who names them, for the message.

        Raises:
            SallyportError: this kernel has no such module.
        """
        index = self._index()
        by_name = {_name(path): path for path in index}
        order: list[str] = []
        for name in names:
            path = by_name.get(name.replace("-", "_"))
            if path is None:
                raise SallyportError(
                    f"{where}: Linux {self.release} has no module {name!r}", "mend the name, or choose another kernel"
                )
            # modules.dep lists the nearest first; what must be loaded first stands last.
            for needed in [*reversed(index[path]), path]:
                if needed not in order and "." in needed:
                    order.append(needed)
        # Built-in ones have no file to load.
        base = self.fetched / "tree/usr/lib/modules" / self.release
        return [path for path in order if (base / path).is_file()]

    def require_console(self, console: str, where: str) -> None:
        """See to it that this kernel can have that console: else nobody would ever read the first password.

        Args:
            console: as a profile has it, such as ``ttyS0,115200n8``. A device that is not known here is believed.
            where: who names it, for the message.

        Raises:
            SallyportError: the kernel is built without it.
        """
        symbol = _CONSOLES.get(console.partition(",")[0].rstrip("0123456789"))
        config = self.fetched / "tree/boot" / f"config-{self.release}"
        if symbol is None or not config.is_file():
            return
        lines = frozenset(config.read_text().splitlines())
        if f"CONFIG_{symbol}=y" not in lines:
            there = ", ".join(f"{device}0" for device, needs in _CONSOLES.items() if f"CONFIG_{needs}=y" in lines)
            raise SallyportError(
                f"{where}: Linux {self.release} has no console on {console!r}: CONFIG_{symbol} is not built in",
                f"this kernel can have it on {there}; or choose another kernel",
            )

    def copy(self, path: str, target: Path) -> None:
        """Copy one module decompressed: an image is compressed as a whole, and BusyBox loads no compressed module."""
        source = self.fetched / "tree/usr/lib/modules" / self.release / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        target.write_bytes(lzma.decompress(content) if source.suffix == ".xz" else content)
        target.chmod(0o644)

    def install(self, paths: Iterable[str], output: Path, tree: str) -> None:
        """Put modules into ``output/tree`` with the indexes that modprobe and libkmod read."""
        base = output / tree / "usr/lib/modules" / self.release
        for path in paths:
            self.copy(path, base / path.removesuffix(".xz"))
        source = self.fetched / "tree/usr/lib/modules" / self.release
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            shutil.copyfile(source / name, base / name)
        self.tools.run(["depmod", "-b", tree, self.release], build=output)
        for extra in base.glob("modules.*"):
            extra.chmod(0o644)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")
