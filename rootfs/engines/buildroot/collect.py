"""Collects the results of a build by Buildroot: the tree in the layout of both engines, the kernel, lists of packages.

The layout is Debian's: libraries are in the directory of their architecture, Python packages in one without a version
in its name. So overlays, the choice of files and all checks of an image are the same for both engines.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rootfs.base import licenses, packages
from rootfs.base.errors import SallyportError
from rootfs.base.file_tree import MERGED, files, merged
from rootfs.base.licenses import Licenses
from rootfs.engines import symbol_map
from rootfs.engines.buildroot import linkage
from rootfs.engines.buildroot.output import Package
from rootfs.spec.architecture import Arch

_PYTHON = Path("usr/lib/python3/dist-packages")
_PYTHON_EXTRAS = ("config-*", "ctypes/macholib", "ensurepip")
"""Parts of Python that Debian has in packages of their own: building modules, macOS libraries, an installer."""
LINUX = "linux"
"""Buildroot's name of the kernel's package."""
_LIBC = ("libc6", "libgcc-s1", "libstdc++6")
"""Debian packages that the toolchain installs as they are."""
_PREBUILT = (
    "nftables", "libbsd0", "libedit2", "libgmp10", "libjansson4", "libmd0",
    "libmnl0", "libnftables1", "libnftnl11", "libtinfo6", "libxtables12", "python3-cryptography", "qemu-system-data",
    "seabios",
)  # fmt: skip
"""Debian packages that rootfs/external/overrides.mk installs as they are."""


def prebuilt(fetched: Path, *, libc: bool = True) -> list[packages.Package]:
    """The packages of a fetched set whose files go into an image as they are.

    Args:
        fetched: as `rootfs.base.packages.fetch` left it.
        libc: whether the C library, which belongs to our toolchain, is one of them.
    """
    names = _PREBUILT + (_LIBC if libc else ())
    return [package for package in packages.load(fetched) if package.name in names]


def sbin() -> set[str]:
    """Names of the programs that the map expects in usr/sbin; Buildroot has them in usr/bin."""
    globs = [glob for entry in symbol_map.read().symbols.values() for glob in entry.keep]
    return {glob.removeprefix("usr/sbin/") for glob in globs if glob.startswith("usr/sbin/")}


def gather(
    arch: Arch,
    directory: Path,
    listed: Sequence[Package],
    binaries: Sequence[packages.Package],
    fetched: Path,
    output: Path,
    hashes: dict[str, str],
) -> None:
    """Fill ``output`` from an output directory of Buildroot.

    Args:
        arch: the architecture that it was built for.
        directory: the output directory (make's ``O``), built.
        listed: the packages of the build.
        binaries: Debian packages as `prebuilt` returns them.
        fetched: the set of those packages, as `rootfs.base.packages.fetch` left it.
        output: gets ``tree``, ``linux/tree``, ``packages.json``, ``files.json`` and ``licenses.json``, all of them as
            `rootfs.base.packages.fetch` and its users have them.
        hashes: names of source files to their SHA-256.

    Raises:
        SallyportError: a program belongs to no package, a prebuilt one lacks a symbol, or a file is not where it should
            be.
    """
    tree = output / "tree"
    shutil.copytree(directory / "target", tree, symlinks=True)
    moved = _arrange(arch, tree)
    _linux(arch, directory, tree, output / "linux/tree")
    brought: dict[str, list[str]] = {}
    for line in (directory / "build/packages-file-list.txt").read_text().splitlines():
        package, _, path = line.partition(",")
        brought.setdefault(package, []).append(_placed(arch, path.removeprefix("./"), moved))
    brought.setdefault(LINUX, [])  # a kernel without modules leaves no file in the tree
    inside = {package.name: package for package in listed if package.name in brought and package.downloads}
    rows = [
        packages.Package(p.name, p.version, arch.name, hashes.get(p.downloads[0].source, ""), by="buildroot", cpe=p.cpe)
        for p in inside.values()
    ]
    rows += binaries
    prebuilt_files: dict[str, list[str]] = json.loads((fetched / "files.json").read_text())
    brought |= {package.name: prebuilt_files[package.name] for package in binaries}
    as_they_are = [tree / name for package in binaries for name in prebuilt_files[package.name]]
    owned = {name for names in brought.values() for name in names}
    if lost := sorted(name for name in files(tree) if name not in owned and _is_program(tree / name)):
        raise SallyportError(
            f"{len(lost)} programs belong to no package of the bill of materials: {', '.join(lost[:5])}",
            "name the package that brings them in `_PREBUILT`, or where they were moved from in `_arrange`",
        )
    libraries = [path for path in (tree / arch.libraries).iterdir() if ".so" in path.name and path.is_file()]
    if lost := linkage.missing((path for path in as_they_are if path.is_file()), libraries):
        raise SallyportError(
            f"prebuilt programs need {len(lost)} symbols that no library has: {', '.join(lost[:5])}",
            "build the library with that symbol, or choose another binary (rootfs/external/overrides.mk)",
        )
    known = {p.name: Licenses((p.licenses,) if p.licenses else ()) for p in inside.values()}
    known |= licenses.read(fetched / "tree", [package.name for package in binaries])
    (output / "packages.json").write_text(json.dumps([asdict(row) for row in rows]))
    (output / "files.json").write_text(json.dumps(brought))
    licenses.save(known, output / licenses.FILE)


def _is_program(file: Path) -> bool:
    """Whether a file is a program or a library (elf(5)); files that the build writes, such as a host name, are not."""
    if file.is_symlink():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _arrange(arch: Arch, tree: Path) -> dict[str, str]:
    """Bring the tree into the shared layout; returns old paths to new ones."""
    moved: dict[str, str] = {}
    for name, target in MERGED.items():
        link = tree / name
        if not link.is_symlink():
            raise SallyportError(
                f"{link} is a directory", f"/{name} and /{target} must be one: BR2_ROOTFS_MERGED_USR=y"
            )
        link.unlink()
    lib, libraries = tree / "usr/lib", tree / arch.libraries
    shutil.rmtree(tree / "usr/lib64") if not (tree / "usr/lib64").is_symlink() else (tree / "usr/lib64").unlink()
    libraries.mkdir()
    for file in lib.iterdir():
        if ".so" in file.name and not (file.is_dir() and not file.is_symlink()):
            leads = os.readlink(file) if file.is_symlink() else ""
            if leads.startswith("/"):
                raise SallyportError(
                    f"{file}: the library is a link to {leads}, outside of usr/lib",
                    "extend `_arrange` in rootfs/engines/buildroot/collect.py",
                )
            file.rename(libraries / file.name)
            if "/" in leads:  # a link into a directory beside the libraries, which is not moved
                (libraries / file.name).unlink()
                (libraries / file.name).symlink_to(f"../{leads}")
    for file in lib.glob("systemd/lib*.so"):
        # systemd's own libraries: the loader finds them there as well, and only units and programs are left.
        file.rename(libraries / file.name)
        moved[file.relative_to(tree).as_posix()] = (arch.libraries / file.name).as_posix()
    for file in [*lib.rglob("*.so*"), *lib.glob("python3*/**/*")]:
        # Libraries are mapped and modules imported, so they need not be executable (Debian Policy, section 8.1).
        if file.is_file() and not file.is_symlink():
            file.chmod(0o644)
    loader = tree / arch.loader
    (libraries / loader.name).chmod(0o755)
    loader.parent.mkdir(exist_ok=True)
    loader.symlink_to(os.path.relpath(libraries / loader.name, loader.parent))
    if (tree / "usr/sbin").is_symlink():
        (tree / "usr/sbin").unlink()
        (tree / "usr/sbin").mkdir()
        for name in sorted(sbin()):
            if (program := tree / "usr/bin" / name).exists():
                program.rename(tree / "usr/sbin" / name)
                moved[f"usr/bin/{name}"] = f"usr/sbin/{name}"
    python = next(iter(sorted(lib.glob("python3.*"))), None)
    if python is None:
        return moved
    for extra in (part for name in _PYTHON_EXTRAS for part in python.glob(name)):
        shutil.rmtree(extra)
    site = python / "site-packages"
    (tree / _PYTHON.parent).mkdir()
    site.rename(tree / _PYTHON)
    site.symlink_to(f"../{_PYTHON.relative_to('usr/lib')}")
    return moved | {site.relative_to(tree).as_posix(): _PYTHON.as_posix()}


def _placed(arch: Arch, path: str, moved: dict[str, str]) -> str:
    """Where a file of Buildroot's list is in the shared layout."""
    path = merged(path)
    for old, new in moved.items():
        if path == old or path.startswith(f"{old}/"):
            return f"{new}{path.removeprefix(old)}"
    place = Path(path)
    return (arch.libraries / place.name).as_posix() if place.parent == Path("usr/lib") and ".so" in place.name else path


def _linux(arch: Arch, directory: Path, tree: Path, target: Path) -> None:
    """Move the kernel's modules out of the tree, and copy the kernel: a profile names the modules of its image."""
    built = next((path for path in (directory / "build").glob("linux-[0-9]*") if path.is_dir()), None)
    if built is None:
        raise SallyportError(f"no kernel was built in {directory}", "set BR2_LINUX_KERNEL=y")
    release = (built / "include/config/kernel.release").read_text().strip()
    modules = target / "usr/lib/modules" / release
    (target / "boot").mkdir(parents=True)
    shutil.copyfile(directory / "images" / arch.kernel, target / "boot" / f"vmlinuz-{release}")
    if (tree / "usr/lib/modules").is_dir():
        shutil.move(tree / "usr/lib/modules" / release, modules)
        for link in ("build", "source"):
            (modules / link).unlink(missing_ok=True)
    modules.mkdir(parents=True, exist_ok=True)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        if not (modules / name).exists():
            shutil.copyfile(built / name, modules / name) if (built / name).exists() else (modules / name).touch()
