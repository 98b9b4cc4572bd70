"""The host's root file system (base tree, overlays, own code, kernel modules, front-end VM) and its initramfs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.protocol import link_plan
from rootfs.base import bytecode, file_tree, licenses
from rootfs.base.bytecode import compile_python
from rootfs.base.cache import digest_code, digest_path
from rootfs.base.file_tree import link_tree
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT, version
from rootfs.engines.protocol import Engine
from rootfs.spec import architecture, blocks
from rootfs.spec.profile import Profile
from rootfs.tree import busybox, extension, initramfs, kernel, overlay, squashfs, verity
from rootfs.tree.frontend_image import install_package
from rootfs.tree.initramfs import Modules
from rootfs.tree.kernel import Kernel

INITRAMFS = PROJECT / "overlays/host_initramfs"
SOURCES_ONLY = {"core", "kernel", "lan", "pyproject.toml", "*.pyi", *extension.FORWARDER.outputs}
"""What the host\'s image does not have of backend/: sources, and the guest LAN, which no profile has."""
_VM = Path("usr/share/sallyport/frontend")
"""Where the host's tree has the front-end VM's image."""


def values(profile: Profile, engine: str, *, test_access: bool = False) -> dict[str, object]:
    """What templates of the host may use.

    Args:
        profile: of the appliance.
        engine: name of what makes the root file systems.
        test_access: whether it is a test image.
    """
    return {
        "engine": engine,
        "profile": profile,
        "version": version(),
        "link": link_plan,
        "blocks": blocks,
        "test_access": test_access,
    }


def linux(engine: Engine) -> Kernel:
    """The host's kernel with all its modules."""
    return Kernel(engine.cache, engine.sets.tools, engine.kernel("host"))


def build(
    engine: Engine, profile: Profile, vm: Path, engines: str, *, test_access: bool, extra: Sequence[Path], title: str
) -> Path:
    """Build the host's root file system.

    Args:
        engine: makes the base tree and the kernel.
        profile: of the appliance.
        vm: a directory as `rootfs.tree.frontend_image.build` returns it.
        engines: name of what makes the root file systems of host and VM, for templates.
        test_access: whether it is a test image.
        extra: overlays laid over all others.
        title: name of the image, for progress.

    Returns:
        a directory with ``tree``, ``root.squashfs``, the same sealed with dm-verity (`verity.SEALED`, `verity.load`),
        ``initrd``, and the VM's ``frontend-packages.json`` and ``frontend-licenses.json``.

    Raises:
        SallyportError: the profile names a kernel module or console that the kernel does not have; a template or an
            overlay is wrong.
        CommandError: a tool failed.
    """
    tools = engine.sets.tools
    base, spec = engine.root("host")
    its_kernel = linux(engine)
    its_kernel.require_console(profile.console, f"profile {profile.name!r}: console")
    compiled = extension.build(engine.sets, extension.FORWARDER)
    overlays = [*spec.overlays, *([PROJECT / "overlays/host_test"] if test_access else []), *extra]
    inputs = {"base": base.name, "kernel": its_kernel.fetched.name, "frontend": vm.name, "version": version()}
    inputs |= {"extension": compiled.name, "profile": profile.model_dump_json(), "hostname": spec.hostname}
    inputs |= {"backend": digest_path(PROJECT / "backend"), "overlays/host_initramfs": digest_path(INITRAMFS)}
    inputs |= {f"overlay {path.name}": digest_path(path) for path in overlays}
    inputs |= {"busybox": digest_path(busybox.DECLARED), "engines": engines}
    inputs |= digest_code(busybox, bytecode, file_tree, initramfs, kernel, overlay, squashfs, verity)
    inputs |= digest_code(blocks, sys.modules[__name__])
    known = values(profile, engines, test_access=test_access)

    def make(output: Path) -> None:
        tree = output / "tree"
        link_tree(base / "tree", tree)
        overlay.skeleton(tree)
        overlay.lay(overlays, tree, known)
        (tree / "etc/hostname").write_text(spec.hostname + "\n")
        installed = install_package(PROJECT / "backend", tree, SOURCES_ONLY)
        for name in extension.FORWARDER.outputs:
            shutil.copyfile(compiled / name, installed / "forwarder" / name)
            (installed / "forwarder" / name).chmod(0o644)
        compile_python(tools, output, "tree/usr/lib/python3/dist-packages/backend")
        modules = [*profile.modules.initrd, *profile.modules.host]
        its_kernel.install(its_kernel.closure(modules, f"profile {profile.name!r}: modules"), output, "tree")
        (tree / _VM).mkdir(parents=True)
        for name in ("vmlinuz", "initrd", "root.squashfs"):
            os.link(vm / name, tree / _VM / name)
        squashfs.make(tools, output, "tree", "root.squashfs", level=12, stored=("vmlinuz",))
        for name in ("packages.json", licenses.FILE):
            shutil.copyfile(vm / name, output / f"frontend-{name}")
        verity.save(verity.seal(tools, output, output / "root.squashfs"), output)
        initrd(output, base / "tree", its_kernel, profile, known, tools=tools)

    return engine.cache.step(f"host-{profile.name}", f"Host root file system ({title})", inputs, make)


def initrd(
    output: Path, base: Path, modules: Modules, profile: Profile, values: dict[str, object], *, tools: Tools
) -> Path:
    """Make the host's initial RAM file system, ``output/initrd``: for the build, and for the proof to compare.

    Args:
        output: also gets ``initrd-tree``, its files.
        base: a tree that has the programs.
        modules: has the kernel's modules.
        profile: of the appliance.
        values: as `values` returns them.
        tools: for compression.
    """
    return initramfs.build(
        output,
        base=base,
        programs=["usr/sbin/dmsetup"],
        kernel=modules,
        modules=profile.modules.initrd,
        overlay=INITRAMFS,
        values=values,
        tools=tools,
        where=f"profile {profile.name!r}: modules.initrd",
        compress=True,
        arch=architecture.ALL[profile.arch],
    )
