"""What an image is made of, for its manifest and bill of materials: the packages of host and front-end VM."""

from __future__ import annotations

import json
from pathlib import Path

from rootfs.artifact import disk
from rootfs.artifact.sbom import Part
from rootfs.base import licenses, packages
from rootfs.base.licenses import Licenses
from rootfs.base.packages import Package
from rootfs.engines.protocol import Engine


def parts(host: Engine, vm: Engine, root: Path) -> list[Part]:
    """Host and front-end VM, each with its root file system and kernel; the host also with what boots it.

    Args:
        host: made the host's root file system.
        vm: made the front-end VM's.
        root: a directory as `rootfs.tree.host_image.build` returns it.
    """
    base, _ = host.root("host")
    stub = [package for package in packages.load(host.sets.boot) if package.name == disk.STUB_PACKAGE]
    known = licenses.load(base / licenses.FILE) | licenses.read(host.sets.boot / "tree", [disk.STUB_PACKAGE])
    inside, kernel_licenses = _kernel(host, "host")
    vm_packages = [Package(**fields) for fields in json.loads((root / "frontend-packages.json").read_text())]
    vm_known = licenses.load(root / f"frontend-{licenses.FILE}")
    vm_inside, vm_kernel_licenses = _kernel(vm, "frontend")
    system, guest = "operating system of the appliance", "the virtual machine with the whole management surface"
    return [
        Part("host", system, [*packages.load(base), *inside, *stub], known | kernel_licenses, "backend"),
        Part("frontend", guest, [*vm_packages, *vm_inside], vm_known | vm_kernel_licenses, "frontend_vm"),
    ]


def _kernel(engine: Engine, name: str) -> tuple[list[Package], dict[str, Licenses]]:
    """The packages of a defconfig's kernel, and their licences."""
    directory = engine.kernel(name)
    found = [package for package in packages.load(directory) if package.name.startswith(engine.kernel_package)]
    return found, engine.licenses(directory, [package.name for package in found])
