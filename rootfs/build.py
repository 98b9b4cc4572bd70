"""Makes the flash image: front-end VM, host root file system, disk, manifest, bill of materials, checksums.

Only the order of the work is here: each of these has a module of its own in `rootfs.tree` or `rootfs.artifact`.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rootfs.artifact import blockmap, components, disk, gpt, layout, manifest, publish, sbom
from rootfs.base import licenses
from rootfs.base.cache import Cache, digest_code, provide
from rootfs.base.package_sets import PackageSets, toolset
from rootfs.base.version import PROJECT, version
from rootfs.engines.debian.engine import Engine as DebianEngine
from rootfs.engines.protocol import Engine
from rootfs.spec import architecture
from rootfs.spec.profile import Profile
from rootfs.tree import frontend_image, host_image, qa_access, verity

OUT = PROJECT / "out"
CACHE = OUT / "cache"


@dataclass(frozen=True)
class Recipe:
    """What image to make.

    Args:
        profile: of the appliance.
        test_access: put a root shell on the host's second serial port and one into the VM: for QA, never shipped.
        extra: overlays for the host, laid over all others: the tests plant holes with them.
        tag: last part of the image's name.
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


def debian(profile: Profile, cache: Cache, *, offline: bool = False) -> Engines:
    """Engine ``debian`` for both root file systems of a profile.

    Args:
        profile: names the architecture and the host's kernel.
        cache: where packages and trees are kept.
        offline: whether packages that are not in the cache are an `OfflineError`.
    """
    arch = architecture.ALL[profile.arch]
    sets = PackageSets(cache, arch.name, arch.debian, offline=offline)
    engine = DebianEngine(sets, arch, profile.kernel)
    return Engines(engine.name, engine, engine)


def make(
    recipe: Recipe, console: Console, out: Path = OUT, cache: Path = CACHE, engines: Engines | None = None
) -> Built:
    """Make ``out/<name>.img`` with .bmap, .manifest.json, .cdx.json and SHA256SUMS; each appears by one rename.

    Args:
        recipe: what to make.
        console: shows which steps run, and why.
        out: where the image goes.
        cache: where outputs of steps are kept; on the same file system as ``out`` these share files.
        engines: None: engine ``debian``.

    Raises:
        SallyportError: something is wrong that the user can correct; the message says what and where.
    """
    engines = engines or debian(recipe.profile, Cache(cache, console))
    qa = [PROJECT / "overlays/frontend_vm_test", qa_access.prepare()] if recipe.test_access else []
    vm = frontend_image.build(engines.frontend, recipe.profile, qa)
    root = host_image.build(
        engines.host,
        recipe.profile,
        vm,
        engines.name,
        test_access=recipe.test_access,
        extra=recipe.extra,
        title=recipe.name,
    )
    finished = _disk(engines, recipe, root)
    provide(out)
    publish.publish(finished, out)
    image, said = out / f"{recipe.name}.img", out / f"{recipe.name}.manifest.json"
    return Built(image, said, root / "tree", vm, verity.load(root).root_hash)


def _disk(engines: Engines, recipe: Recipe, root: Path) -> Path:
    """The directory with all files of the image that are published."""
    engine, sets = engines.host, engines.host.sets
    linux = host_image.linux(engine)
    inputs = {
        "root": root.name,
        "boot": sets.boot.name,
        "disk": recipe.profile.disk.model_dump_json(),
        "name": recipe.name,
    }
    code = (blockmap, components, disk, gpt, layout, licenses, manifest, publish, sbom, verity)
    inputs |= digest_code(*code, sys.modules[__name__])

    def build(output: Path) -> None:
        sealed = verity.load(root)
        os.link(root / verity.SEALED, output / verity.SEALED)
        image = disk.assemble(
            sets.tools,
            output,
            profile=recipe.profile,
            arch=engine.arch,
            boot=sets.boot / "tree",
            kernel=linux.image,
            initrd=root / "initrd",
            verity=sealed,
            release=version(),
        )
        for made in (image, image.with_name(f"{image.name}.bmap")):
            made.rename(output / made.name.replace(image.stem, recipe.name))
        parts = components.parts(engine, engines.frontend, root)
        manifest.write(
            output / f"{recipe.name}.manifest.json",
            profile=recipe.profile,
            test_access=recipe.test_access,
            engine=engines.name,
            kernel=linux.release,
            root=root,
            packages={part.name: part.packages for part in parts},
            root_hash=sealed.root_hash,
            toolset=toolset(sets.tools),
        )
        bill = sbom.document(recipe.name, version(), sealed.root_hash, parts)
        (output / f"{recipe.name}.cdx.json").write_text(bill)
        for path in list(output.iterdir()):
            if not path.name.startswith(recipe.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        publish.write_sums(output)

    return engine.cache.step("disk", f"Flash image {recipe.name}.img", inputs, build)
