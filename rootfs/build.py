"""Makes the flash image: front-end VM, host root file system, disk, checksums, manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from backend.protocol import link_plan
from rootfs.artifact import blockmap, disk, gpt, layout, sbom
from rootfs.artifact.disk import Verity
from rootfs.base import licenses, packages
from rootfs.base.cache import Cache, alone, digest_code, digest_path, provide
from rootfs.base.licenses import Licenses
from rootfs.base.packages import Package
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT, version
from rootfs.engines.debian.engine import Engine, compile_python
from rootfs.spec import architecture, defconfig
from rootfs.spec.profile import Profile
from rootfs.tree import extension, initramfs, kernel, overlay, squashfs
from rootfs.tree import frontend_image as frontend
from rootfs.tree import qa_access as test_access
from rootfs.tree.initramfs import Modules
from rootfs.tree.kernel import Kernel

OUT = PROJECT / "out"
CACHE = OUT / "cache"
_INIT = PROJECT / "overlays/host_initramfs/init.j2"
SOURCES_ONLY = {"core", "kernel", "lan", "pyproject.toml", "*.pyi", *extension.FORWARDER.outputs}
"""What the host's image has not of backend/: sources, and the guest LAN, which no profile has."""
_APPLETS = (
    *("sh", "mount", "umount", "insmod", "switch_root", "sleep", "echo", "grep", "reboot", "cat", "mkdir", "cp"),
    *("chroot", "timeout"),
)


@dataclass(frozen=True)
class Recipe:
    """What image to make.

    ``test_access`` puts a root shell on the host's second serial port and one into the VM: for QA, never shipped.
    ``extra`` are overlays for the host laid over all others: the tests plant holes with them.
    """

    profile: Profile
    test_access: bool = False
    extra: tuple[Path, ...] = ()
    tag: str = ""

    @property
    def name(self) -> str:
        """File name without its ending."""
        parts = ["sallyport", version(), self.profile.name, "test" if self.test_access else "", self.tag]
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Built:
    """A finished image in ``out/``."""

    image: Path
    manifest: Path
    host_tree: Path
    frontend: Path
    root_hash: str


@dataclass(frozen=True)
class Engines:
    """What makes the two root file systems. ``name`` is the user's word for both."""

    name: str
    host: Engine
    frontend: Engine


def make(
    recipe: Recipe, console: Console, out: Path = OUT, cache: Path = CACHE, engines: Engines | None = None
) -> Built:
    """Make ``out/<name>.img`` with .bmap, .manifest.json, .cdx.json and SHA256SUMS; each appears by one rename.

    Args:
        recipe: what to make.
        console: where is told what runs and why.
        out: where the image goes.
        cache: where outputs of steps are kept; on the same file system as ``out`` these share files.
        engines: in the place of engine ``debian``.

    Raises:
        SallyportError: whatever the user can mend.
    """
    if engines is None:
        debian = Engine(Cache(cache, console), arch=architecture.ALL[recipe.profile.arch])
        engines = Engines(debian.name, debian, debian)
    extra = [PROJECT / "overlays/frontend_vm_test", test_access.prepare()] if recipe.test_access else []
    vm = frontend.build(engines.frontend, recipe.profile, extra)
    root = _root(engines, recipe, vm)
    finished = _disk(engines, recipe, root)
    verity = Verity(**json.loads((root / "verity.json").read_text()))
    provide(out)
    built = Built(out / f"{recipe.name}.img", out / f"{recipe.name}.manifest.json", root / "tree", vm, verity.root_hash)
    _publish(finished, out)
    return built


def _kernel(engine: Engine, recipe: Recipe) -> Kernel:
    return Kernel(engine.cache, engine.tools, engine.kernel("host", recipe.profile.kernel))


def flavours(recipe: Recipe) -> tuple[str, str]:
    """Which kernels are in an image, the host's and the VM's."""
    return recipe.profile.kernel, frontend.KERNEL


def values(recipe: Recipe, engine: str) -> dict[str, object]:
    """What templates of the host may use."""
    return {
        "engine": engine,
        "profile": recipe.profile,
        "version": version(),
        "link": link_plan,
        "layout": layout,
        "test_access": recipe.test_access,
    }


def initrd(output: Path, base: Path, modules: Modules, recipe: Recipe, engine: str, *, tools: Tools) -> Path:
    """Make the host's initial RAM file system, ``output/initrd``, as the build does, and the proof to compare.

    Args:
        output: also gets ``initrd-tree``, its files.
        base: a tree that has the programs.
        modules: has the kernel's modules.
        recipe: of the image.
        engine: name of what made the trees.
        tools: for compression.
    """
    return initramfs.build(
        output,
        base=base,
        programs=["usr/sbin/dmsetup"],
        applets=_APPLETS,
        kernel=modules,
        modules=recipe.profile.modules.initrd,
        init=_INIT,
        values=values(recipe, engine),
        tools=tools,
        where=f"profile {recipe.profile.name!r}: modules.initrd",
        compress=True,
        arch=architecture.ALL[recipe.profile.arch],
    )


def _root(engines: Engines, recipe: Recipe, vm: Path) -> Path:
    """The host's root file system: ``tree``, ``root.verity``, ``verity.json``, ``initrd``."""
    engine = engines.host
    base, wish = engine.root("host", defconfig.HOST)
    linux = _kernel(engine, recipe)
    linux.require_console(recipe.profile.console, f"profile {recipe.profile.name!r}: console")
    compiled = extension.build(engine, extension.FORWARDER)
    extra = [*([PROJECT / "overlays/host_test"] if recipe.test_access else []), *recipe.extra]
    overlays = [*wish.overlays, *extra]
    inputs = {"base": base.name, "kernel": linux.fetched.name, "frontend": vm.name, "version": version()}
    inputs |= {"extension": compiled.name, "profile": recipe.profile.model_dump_json(), "hostname": wish.hostname}
    inputs |= {"backend": digest_path(PROJECT / "backend"), "overlays/host_initramfs": digest_path(_INIT.parent)}
    inputs |= {f"overlay {path.name}": digest_path(path) for path in overlays}
    inputs |= digest_code(disk, initramfs, kernel, layout, overlay, squashfs, sys.modules[__name__])

    known = values(recipe, engines.name)

    def build(output: Path) -> None:
        tree = output / "tree"
        overlay.link_tree(base / "tree", tree)
        overlay.skeleton(tree)
        for directory in overlays:
            overlay.apply(directory, tree, known)
        (tree / "etc/hostname").write_text(wish.hostname + "\n")
        installed = frontend.install_package(PROJECT / "backend", tree, SOURCES_ONLY)
        for name in extension.FORWARDER.outputs:
            shutil.copyfile(compiled / name, installed / "forwarder" / name)
            (installed / "forwarder" / name).chmod(0o644)
        compile_python(engine.tools, output, "tree/usr/lib/python3/dist-packages/backend")
        modules = [*recipe.profile.modules.initrd, *recipe.profile.modules.host]
        linux.install(linux.closure(modules, f"profile {recipe.profile.name!r}: modules"), output, "tree")
        shelf = tree / "usr/share/sallyport/frontend"
        shelf.mkdir(parents=True)
        for name in ("vmlinuz", "initrd", "root.squashfs"):
            os.link(vm / name, shelf / name)
        squashfs.make(engine.tools, output, "tree", "root.squashfs", level=12, stored=("vmlinuz",))
        for name in ("packages.json", licenses.FILE):
            shutil.copyfile(vm / name, output / f"frontend-{name}")
        verity = disk.seal(engine.tools, output, output / "root.squashfs")
        (output / "verity.json").write_text(json.dumps(verity.__dict__))
        initrd(output, base / "tree", linux, recipe, engines.name, tools=engine.tools)

    return engine.cache.step(f"host-{recipe.profile.name}", f"Host root file system ({recipe.name})", inputs, build)


def _disk(engines: Engines, recipe: Recipe, root: Path) -> Path:
    engine, tools = engines.host, engines.host.tools
    linux = _kernel(engine, recipe)
    inputs = {
        "root": root.name,
        "boot": engine.boot.name,
        "disk": recipe.profile.disk.model_dump_json(),
        "name": recipe.name,
    }
    inputs |= digest_code(blockmap, disk, gpt, layout, licenses, sbom, sys.modules[__name__])

    def build(output: Path) -> None:
        verity = Verity(**json.loads((root / "verity.json").read_text()))
        os.link(root / "root.verity", output / "root.verity")
        image = disk.assemble(
            tools,
            output,
            profile=recipe.profile,
            arch=engine.arch,
            boot=engine.boot / "tree",
            kernel=linux.image,
            initrd=root / "initrd",
            verity=verity,
            release=version(),
        )
        for made in (image, image.with_name(f"{image.name}.bmap")):
            made.rename(output / made.name.replace(image.stem, recipe.name))
        parts = _parts(engines, recipe, root)
        _manifest(output / f"{recipe.name}.manifest.json", recipe, engines, root, parts, verity)
        bill = sbom.document(recipe.name, version(), verity.root_hash, parts)
        (output / f"{recipe.name}.cdx.json").write_text(bill)
        for path in list(output.iterdir()):
            if not path.name.startswith(recipe.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        sums = [f"{_sha256(path)}  {path.name}" for path in sorted(output.iterdir())]
        (output / "SHA256SUMS").write_text("\n".join(sums) + "\n")

    return engine.cache.step("disk", f"Flash image {recipe.name}.img", inputs, build)


def _manifest(
    target: Path, recipe: Recipe, engines: Engines, root: Path, parts: Sequence[sbom.Part], verity: Verity
) -> None:
    tree = root / "tree"
    shelf = tree / "usr/share/sallyport/frontend"
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    content = {
        "name": recipe.name,
        "version": version(),
        "profile": recipe.profile.model_dump(mode="json"),
        "engine": engines.name,
        "test_access": recipe.test_access,
        "kernel": _kernel(engines.host, recipe).release,
        "root_hash": verity.root_hash,
        # What of the unified kernel image nothing else of the image can tell.
        "boot": {
            "kernel": _sha256(target.parent / "vmlinuz"),
            "stub": _sha256(target.parent / "stub"),
            "tools": toolset(engines.host),
        },
        "sizes": {
            "image_bytes": (target.parent / f"{recipe.name}.img").stat().st_size,
            "root_bytes": (root / "root.squashfs").stat().st_size,
            "uki_bytes": (target.parent / "uki.efi").stat().st_size,
            "frontend_bytes": sum(path.stat().st_size for path in shelf.iterdir()),
        },
        "packages": {part.name: [package.__dict__ for package in part.packages] for part in parts},
        "files": {path.relative_to(tree).as_posix(): _sha256(path) for path in files},
    }
    target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def toolset(engine: Engine) -> str:
    """SHA-256 of the tools tree's packages: other ones may make other bytes of the same inputs."""
    lines = sorted(f"{p.name} {p.version} {p.sha256}\n" for p in packages.load(engine.tools.tree.parent))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parts(engines: Engines, recipe: Recipe, root: Path) -> list[sbom.Part]:
    """Host and front-end VM as the bill of materials has them: root file system, kernel, and what boots the host."""
    host, vm = engines.host, engines.frontend
    base, _ = host.root("host", defconfig.HOST)
    stub = [package for package in packages.load(host.boot) if package.name == disk.STUB_PACKAGE]
    own = json.loads((root / "frontend-packages.json").read_text())
    inside, known = _with_kernel(host, host.kernel("host", recipe.profile.kernel), packages.load(base), base)
    known |= licenses.read(host.boot / "tree", [disk.STUB_PACKAGE])
    vm_inside, vm_known = _with_kernel(
        vm, vm.kernel("frontend", frontend.KERNEL), [Package(**fields) for fields in own], root, "frontend-"
    )
    system, guest = "operating system of the appliance", "the virtual machine with the whole management surface"
    return [
        sbom.Part("host", system, [*inside, *stub], known, "backend"),
        sbom.Part("frontend", guest, vm_inside, vm_known, "frontend_vm"),
    ]


def _with_kernel(
    engine: Engine, kernel_set: Path, inside: list[Package], says: Path, prefix: str = ""
) -> tuple[list[Package], dict[str, Licenses]]:
    """Packages and their licences, with those of the kernel.

    Args:
        engine: whose.
        kernel_set: what `Engine.kernel` returned.
        inside: the packages of the root file system.
        says: where their licences are, in a file whose name begins with ``prefix``.
        prefix: see above.
    """
    linux = [package for package in packages.load(kernel_set) if package.name.startswith(engine.linux)]
    known = licenses.load(says / f"{prefix}{licenses.FILE}")
    return [*inside, *linux], known | engine.licenses(kernel_set, [package.name for package in linux])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(finished: Path, out: Path) -> None:
    """Put the outputs into ``out`` by rename: hard links, read-only, so that nobody changes the cache by them."""
    for path in sorted(finished.iterdir()):
        if path.name == "SHA256SUMS":
            continue
        target = out / path.name
        if target.exists() and target.samefile(path):
            continue
        with tempfile.TemporaryDirectory(dir=out, prefix=".publish-") as temporary:
            linked = Path(temporary) / path.name
            path.chmod(0o444)
            try:
                os.link(path, linked)
            except OSError:  # the cache may be on another disk
                shutil.copyfile(path, linked)
                linked.chmod(0o444)
            linked.replace(target)
    with alone(out / ".sums.lock"):
        sums = {line.split("  ")[1]: line for line in _lines(out / "SHA256SUMS")}
        sums = {name: line for name, line in sums.items() if (out / name).exists()}
        sums |= {line.split("  ")[1]: line for line in _lines(finished / "SHA256SUMS")}
        new = out / ".SHA256SUMS.new"
        new.write_text("\n".join(sums[key] for key in sorted(sums)) + "\n")
        new.replace(out / "SHA256SUMS")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
