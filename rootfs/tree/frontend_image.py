"""Builds the front-end VM's image: kernel, initrd and root file system, the files that the host image carries."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.protocol import link_plan
from rootfs.base import file_tree, licenses
from rootfs.base.bytecode import compile_python
from rootfs.base.cache import digest_code, digest_path
from rootfs.base.file_tree import link_tree
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT, version
from rootfs.engines.protocol import Engine
from rootfs.spec.architecture import Arch
from rootfs.spec.profile import Profile
from rootfs.tree import busybox, initramfs, kernel, overlay, squashfs
from rootfs.tree.initramfs import Modules
from rootfs.tree.kernel import Kernel

SOURCE = PROJECT / "frontend_vm"
MODULES = ("virtio_mmio", "virtio_blk", "squashfs", "qemu_fw_cfg", "virtio_net", "virtio_rng")
INITRAMFS = PROJECT / "overlays/frontend_vm_initramfs"
BUILD_ONLY = {"*.config"}


def values(profile: Profile) -> dict[str, object]:
    """What templates of the VM may use."""
    return {"profile": profile, "version": version(), "link": link_plan}


def build(engine: Engine, profile: Profile, extra_overlays: Sequence[Path] = ()) -> Path:
    """Build the VM's image.

    Args:
        engine: makes the base tree and the kernel.
        profile: of the appliance.
        extra_overlays: overlays laid over all others (test images).

    Returns:
        a directory with ``vmlinuz``, ``initrd``, ``root.squashfs`` and, beside them, ``packages.json`` and
        ``licenses.json``.
    """
    tools = engine.sets.tools
    base, spec = engine.root("frontend")
    linux = Kernel(engine.cache, tools, engine.kernel("frontend"))
    overlays = [*spec.overlays, *extra_overlays]
    inputs = {"base": base.name, "kernel": linux.fetched.name, "frontend_vm": digest_path(SOURCE)}
    # A symbolic link, of which the digest above has only the target's path.
    inputs |= {"protocol": digest_path(SOURCE / "protocol")}
    inputs |= {"overlays/frontend_vm_initramfs": digest_path(INITRAMFS), "version": version()}
    inputs |= {f"overlay {path.name}": digest_path(path) for path in overlays}
    inputs |= {"profile": profile.model_dump_json(), "hostname": spec.hostname}
    inputs |= {"busybox": digest_path(busybox.DECLARED)}
    inputs |= digest_code(busybox, file_tree, initramfs, kernel, overlay, squashfs, sys.modules[__name__])

    def make(output: Path) -> None:
        tree = output / "tree"
        link_tree(base / "tree", tree)
        overlay.skeleton(tree)
        overlay.lay(overlays, tree, values(profile))
        (tree / "etc/hostname").write_text(spec.hostname + "\n")
        install_package(SOURCE, tree, BUILD_ONLY)
        compile_python(tools, output, "tree/usr/lib/python3/dist-packages/frontend_vm")
        initrd(output, base / "tree", linux, profile, arch=engine.arch, tools=tools)
        shutil.copyfile(linux.image, output / "vmlinuz")
        # Not compressed: the host's root file system compresses it and the host's page cache holds it decompressed, so
        # the VM, whose processor may be emulated, never decompresses anything.
        squashfs.make(tools, output, "tree", "root.squashfs", level=None)
        for name in ("packages.json", licenses.FILE):
            shutil.copyfile(base / name, output / name)

    return engine.cache.step(f"frontend{engine.arch.suffix}", "Front-end VM image", inputs, make)


def initrd(output: Path, base: Path, modules: Modules, profile: Profile, *, arch: Arch, tools: Tools) -> Path:
    """Make the VM's initial RAM file system, ``output/initrd``: for the build, and for the proof to compare.

    Args:
        output: also gets ``initrd-tree``, its files.
        base: a tree that has the programs.
        modules: has the kernel's modules.
        profile: of the appliance.
        arch: architecture of the base.
        tools: the tools tree.
    """
    return initramfs.build(
        output,
        base=base,
        programs=(),
        kernel=modules,
        modules=MODULES,
        overlay=INITRAMFS,
        values=values(profile),
        tools=tools,
        where=str(Path(__file__)),
        compress=False,
        arch=arch,
    )


def install_package(source: Path, tree: Path, without: set[str]) -> Path:
    """Copy one of our Python packages into a tree, following symbolic links; returns its directory there.

    Args:
        source: the package.
        tree: a root tree.
        without: names, or globs of names, of files that only the build needs.
    """
    target = tree / "usr/lib/python3/dist-packages" / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", *without))
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target
