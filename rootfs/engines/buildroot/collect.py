"""What a finished build leaves: its target tree in the layout that both engines share, the kernel, what is in it.

The layout is Debian's: libraries in the directory of their architecture, Python's packages in one without a version in
its name. So overlays, the choice of files and every check of an image hold for both engines.
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
"""What Debian has in packages of its own: how to build modules, another system's libraries, an installer."""
LINUX = "linux"
"""The kernel's package."""
_LIBC = ("libc6", "libgcc-s1", "libstdc++6")
"""Debian's binaries, which our toolchain brings in."""
_PREBUILT = (
    "nftables", "libbsd0", "libedit2", "libgmp10", "libjansson4", "libmd0",
    "libmnl0", "libnftables1", "libnftnl11", "libtinfo6", "libxtables12", "python3-cryptography", "qemu-system-data",
    "seabios",
)  # fmt: skip
"""Debian's binaries, which rootfs/external/overrides.mk brings in."""


def prebuilt(fetched: Path, *, libc: bool = True) -> list[packages.Package]:
    """The packages of a fetched set of which something goes into an image as it is.

    Args:
        fetched: as `rootfs.base.packages.fetch` left it.
        libc: whether the C library, the toolchain's, is of them.
    """
    names = _PREBUILT + (_LIBC if libc else ())
    return [package for package in packages.load(fetched) if package.name in names]


def sbin() -> set[str]:
    """The programs that are in usr/sbin where that is a directory of its own: the choice of files says so."""
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
        arch: what it was built for.
        directory: make's ``O``, built.
        listed: its packages.
        binaries: of Debian's packages those of `prebuilt`.
        fetched: the Debian packages with what is not built, as `rootfs.base.packages.fetch` left them.
        output: gets ``tree``, ``linux/tree``, ``packages.json``, ``files.json`` and ``licenses.json``, all of them as
            `rootfs.base.packages.fetch` and its users have them.
        hashes: source file to its SHA-256.

    Raises:
        SallyportError: Buildroot left something else than was expected.
    """
    tree = output / "tree"
    shutil.copytree(directory / "target", tree, symlinks=True)
    moved = _arrange(arch, tree)
    _linux(arch, directory, tree, output / "linux/tree")
    brought: dict[str, list[str]] = {}
    for line in (directory / "build/packages-file-list.txt").read_text().splitlines():
        package, _, path = line.partition(",")
        brought.setdefault(package, []).append(_placed(arch, path.removeprefix("./"), moved))
    brought.setdefault(LINUX, [])  # one without modules leaves no file in the tree
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
            f"of no package: {', '.join(lost[:5])}, and {len(lost)} in all: the bill of materials would not have them",
            "name the package that brings them in `_PREBUILT`, or where they were moved from in `_arrange`",
        )
    libraries = [path for path in (tree / arch.libraries).iterdir() if ".so" in path.name and path.is_file()]
    if lost := linkage.missing((path for path in as_they_are if path.is_file()), libraries):
        raise SallyportError(
            f"prebuilt, and not to be loaded: {', '.join(lost[:5])}, and {len(lost)} in all",
            "build the library with it, or take another binary (rootfs/external/overrides.mk)",
        )
    known = {p.name: Licenses((p.licenses,) if p.licenses else ()) for p in inside.values()}
    known |= licenses.read(fetched / "tree", [package.name for package in binaries])
    (output / "packages.json").write_text(json.dumps([asdict(row) for row in rows]))
    (output / "files.json").write_text(json.dumps(brought))
    licenses.save(known, output / licenses.FILE)


def _is_program(file: Path) -> bool:
    """Whether it is one, or a library (elf(5)). What is written while an image is made, such as a host name, is not."""
    if file.is_symlink():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _arrange(arch: Arch, tree: Path) -> dict[str, str]:
    """Bring the tree into the shared layout; returns old to new places."""
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
                raise SallyportError(f"{file} -> {leads}: a library elsewhere", "mend `_arrange`")
            file.rename(libraries / file.name)
            if "/" in leads:  # to a directory beside them, which stays
                (libraries / file.name).unlink()
                (libraries / file.name).symlink_to(f"../{leads}")
    for file in lib.glob("systemd/lib*.so"):
        # systemd's own libraries: the loader finds them here, too, and what is left there are units and programs.
        file.rename(libraries / file.name)
        moved[file.relative_to(tree).as_posix()] = (arch.libraries / file.name).as_posix()
    for file in [*lib.rglob("*.so*"), *lib.glob("python3*/**/*")]:
        # Only programs are executable here: libraries are mapped, modules imported (Debian Policy, section 8.1).
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
    """Where a file of Buildroot's list is now."""
    path = merged(path)
    for old, new in moved.items():
        if path == old or path.startswith(f"{old}/"):
            return f"{new}{path.removeprefix(old)}"
    place = Path(path)
    return (arch.libraries / place.name).as_posix() if place.parent == Path("usr/lib") and ".so" in place.name else path


def _linux(arch: Arch, directory: Path, tree: Path, target: Path) -> None:
    """Kernel and modules, out of the tree: an image has only the modules that its profile names."""
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
