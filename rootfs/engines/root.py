"""Makes the base tree of a root file system from what an engine fetched or built: chooses files, compiles Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rootfs.base import bytecode, file_tree, licenses, packages, tools_tree
from rootfs.base.bytecode import compile_python
from rootfs.base.cache import digest_code
from rootfs.base.file_tree import merged
from rootfs.base.licenses import Licenses
from rootfs.base.package_sets import PackageSets
from rootfs.engines import select_files
from rootfs.engines.symbol_map import MAP
from rootfs.spec import architecture
from rootfs.spec.architecture import Arch
from rootfs.spec.root_spec import RootSpec

LicensesOf = Callable[[Path, Sequence[str]], dict[str, Licenses]]


def base_tree(
    sets: PackageSets,
    arch: Arch,
    name: str,
    contents: Path,
    spec: RootSpec,
    licenses_of: LicensesOf,
    *,
    may_exclude_nothing: bool = False,
) -> Path:
    """The base tree of a root file system, from the cache if it is there.

    Args:
        sets: has the tools tree and the cache.
        arch: the architecture of the tree.
        name: of the root file system, out of `rootfs.spec.defconfig.ALL`.
        contents: a directory with ``tree``, ``packages.json`` and ``files.json``, the files that each package brought.
        spec: what is kept of the tree.
        licenses_of: returns the licences of packages in ``contents``.
        may_exclude_nothing: whether a glob that takes files out may match none.

    Returns:
        a directory with ``tree``, ``packages.json`` (the packages that something was kept of) and ``licenses.json``.

    Raises:
        SallyportError: a glob matches nothing, or a needed library is missing (`select_files.choose`).
    """
    tools = sets.tools
    inputs = {"packages": contents.name, "keep": "\n".join(spec.keep), "tools": tools.tree.parent.name}
    inputs |= digest_code(architecture, bytecode, file_tree, licenses, select_files, tools_tree)

    def build(output: Path) -> None:
        tree = output / "tree"
        tree.mkdir()
        chosen = select_files.choose(contents / "tree", spec.keep, str(MAP), arch, may_exclude_nothing)
        select_files.copy(contents / "tree", chosen, tree)
        compile_python(tools, output, "tree/usr/lib")
        origin = json.loads((contents / "files.json").read_text())
        inside = set(chosen)
        kept = [p for p in packages.load(contents) if any(merged(file) in inside for file in origin[p.name])]
        (output / "packages.json").write_text(json.dumps([asdict(package) for package in kept]))
        licenses.save(licenses_of(contents, [p.name for p in kept]), output / licenses.FILE)

    return sets.cache.step(f"base-{name}{arch.suffix}", f"Files of {name}", inputs, build)
