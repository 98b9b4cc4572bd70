"""The kernel of an image: its boot image, the named modules, and the modules that these depend on."""

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
"""Console devices, and the option that the kernel must be built with for each (drivers/tty, drivers/usb/serial)."""


@dataclass(frozen=True)
class Kernel:
    """A kernel with all modules.

    Args:
        cache: keeps the index of modules.
        tools: has depmod(8).
        fetched: a directory whose ``tree`` has boot/ and usr/lib/modules/ (`rootfs.engines.protocol.Engine.kernel`).
    """

    cache: Cache
    tools: Tools
    fetched: Path

    @property
    def release(self) -> str:
        """The release, as `uname -r` prints it."""
        return next((self.fetched / "tree/usr/lib/modules").iterdir()).name

    @property
    def image(self) -> Path:
        """The file that a boot loader or QEMU starts."""
        return self.fetched / "tree/boot" / f"vmlinuz-{self.release}"

    def _index(self) -> dict[str, list[str]]:
        """Paths of modules to the paths they depend on, nearest first (modules.dep(5)); built-in ones have none."""

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
        """Paths (below ``usr/lib/modules/<release>``) of modules and of all that they depend on, in load order.

        Args:
            names: module names; ``-`` and ``_`` are the same.
            where: the field that names them, for messages.

        Raises:
            SallyportError: the kernel has no module of that name.
        """
        index = self._index()
        by_name = {_name(path): path for path in index}
        order: list[str] = []
        for name in names:
            path = by_name.get(name.replace("-", "_"))
            if path is None:
                raise SallyportError(
                    f"{where}: Linux {self.release} has no module {name!r}",
                    "correct the name, or choose another kernel",
                )
            # modules.dep lists the nearest first, so the module that must be loaded first is the last.
            for needed in [*reversed(index[path]), path]:
                if needed not in order and "." in needed:
                    order.append(needed)
        # Built-in ones have no file to load.
        base = self.fetched / "tree/usr/lib/modules" / self.release
        return [path for path in order if (base / path).is_file()]

    def require_console(self, console: str, where: str) -> None:
        """Check that the kernel supports a console: without it, nobody could read the first password.

        Args:
            console: as in a profile, such as ``ttyS0,115200n8``; devices that are not in `_CONSOLES` are accepted.
            where: the field that names it, for messages.

        Raises:
            SallyportError: the kernel is built without its driver.
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
                f"name one of {there}, or choose another kernel",
            )

    def copy(self, path: str, target: Path) -> None:
        """Copy one module, decompressed: the image is compressed as a whole, and BusyBox loads no compressed module."""
        source = self.fetched / "tree/usr/lib/modules" / self.release / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        target.write_bytes(lzma.decompress(content) if source.suffix == ".xz" else content)
        target.chmod(0o644)

    def install(self, paths: Iterable[str], output: Path, tree: str) -> None:
        """Copy modules into ``output/tree``, and make the indexes that modprobe(8) and libkmod read."""
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
