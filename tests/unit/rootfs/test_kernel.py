"""Which modules an image gets, and in what order they are loaded."""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

import pytest

from rootfs.base.errors import SallyportError
from rootfs.tree.kernel import Kernel
from tests.unit.rootfs.conftest import Desk, FakeTools

RELEASE = "6.12.1-test"
# As depmod(8) writes it: what a module needs, nearest first, all of it.
DEP = """\
kernel/net/virtio_net.ko.xz: kernel/net/net_failover.ko.xz kernel/net/failover.ko.xz kernel/virtio/virtio.ko.xz
kernel/net/net_failover.ko.xz: kernel/net/failover.ko.xz
kernel/net/failover.ko.xz:
kernel/virtio/virtio.ko.xz:
kernel/virtio/virtio_blk.ko.xz: kernel/virtio/virtio.ko.xz
kernel/md/dm-verity.ko: kernel/built/dm-mod.ko
"""
BUILTIN = "kernel/built/dm-mod.ko\nkernel/built/squashfs.ko\n"


@pytest.fixture
def kernel(desk: Desk, tmp_path: Path) -> Kernel:
    modules = tmp_path / "fetched/tree/usr/lib/modules" / RELEASE
    for line in DEP.splitlines():
        file = modules / line.split(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lzma.compress(file.name.encode()) if file.suffix == ".xz" else file.name.encode())
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        (modules / name).write_text(BUILTIN)

    def depmod(command: list[str], build: Path) -> str:
        assert command == ["depmod", "-b", "tree", RELEASE]
        (build / "tree/lib/modules" / RELEASE / "modules.dep").write_text(DEP)
        return ""

    return Kernel(desk.cache(), FakeTools(depmod), tmp_path / "fetched")


def names(paths: list[str]) -> list[str]:
    return [Path(path).name.split(".")[0] for path in paths]


def test_release_and_image_are_those_of_the_tree(kernel: Kernel) -> None:
    assert kernel.release == RELEASE
    assert kernel.image == kernel.fetched / f"tree/boot/vmlinuz-{RELEASE}"


def test_what_a_module_needs_is_loaded_before_it(kernel: Kernel) -> None:
    assert names(kernel.closure(["virtio_net"], "here")) == ["virtio", "failover", "net_failover", "virtio_net"]


def test_what_two_modules_need_is_loaded_once(kernel: Kernel) -> None:
    order = names(kernel.closure(["virtio_blk", "virtio_net"], "here"))
    assert order == ["virtio", "virtio_blk", "failover", "net_failover", "virtio_net"]


def test_what_is_built_in_is_known_and_has_no_file(kernel: Kernel) -> None:
    assert kernel.closure(["squashfs"], "here") == []
    assert names(kernel.closure(["dm-verity"], "here")) == ["dm-verity"]


def test_dash_and_underscore_are_the_same(kernel: Kernel) -> None:
    assert kernel.closure(["dm_verity", "virtio-blk"], "here") == kernel.closure(["dm-verity", "virtio_blk"], "here")


def test_an_unknown_module_is_an_error_that_names_who_wants_it(kernel: Kernel) -> None:
    with pytest.raises(SallyportError) as caught:
        kernel.closure(["virtio_net", "virtio_nett"], "profile 'mine': modules.host")
    assert str(caught.value) == f"profile 'mine': modules.host: Linux {RELEASE} has no module 'virtio_nett'"


def test_the_index_is_made_once(kernel: Kernel) -> None:
    kernel.closure(["virtio"], "here")
    kernel.closure(["virtio_blk"], "here")
    assert isinstance(kernel.tools, FakeTools)
    assert len(kernel.tools.commands) == 1


def test_modules_are_copied_decompressed(kernel: Kernel, tmp_path: Path) -> None:
    for path in kernel.closure(["virtio_blk", "dm-verity"], "here"):
        target = tmp_path / "out" / Path(path).name
        kernel.copy(path, target)
        assert target.read_bytes() == Path(path).name.encode()
        assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_console_that_the_kernel_is_built_without_is_refused_with_those_that_it_has(kernel: Kernel) -> None:
    config = kernel.fetched / f"tree/boot/config-{RELEASE}"
    kernel.require_console("ttyUSB0", "profile 'x': console")  # who built it did not say with what
    config.parent.mkdir(parents=True)
    config.write_text("CONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_HVC_DRIVER=y\n# CONFIG_VT_CONSOLE is not set\n")
    for console in ("ttyS0,115200n8", "hvc0", "ttyXYZ0"):
        kernel.require_console(console, "profile 'x': console")
    for console in ("tty0", "ttyUSB0,9600e7r", "ttyAMA0"):
        with pytest.raises(SallyportError, match=f"profile 'x': console: .*{console}") as caught:
            kernel.require_console(console, "profile 'x': console")
        assert "ttyS0, hvc0," in caught.value.hint
