"""Engine `buildroot`: what a build left becomes base trees and kernels, as engine `debian` has them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rootfs.base import licenses, packages
from rootfs.base.errors import OfflineError, SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.engines.buildroot.engine import Engine
from rootfs.engines.buildroot.output import Package
from rootfs.engines.debian.engine import Engine as DebianEngine
from rootfs.spec import defconfig
from rootfs.spec.architecture import X86_64
from rootfs.tree.kernel import Kernel
from tests.unit.rootfs.conftest import Desk

CONFIG = 'BR2_x86_64=y\nBR2_TARGET_GENERIC_HOSTNAME="small"\nBR2_PACKAGE_PYTHON3=y\n'
FILES = {
    "target/usr/bin/busybox": "", "target/usr/bin/vi": "", "target/usr/lib/ld-linux-x86-64.so.2": "",
    "target/usr/sbin/init": "", "target/usr/lib/python3.13/os.py": "", "target/usr/lib/python3.13/pdb.py": "",
    "target/usr/lib/python3.13/site-packages/tornado/web.py": "", "target/usr/bin/python3.13": "",
    "target/usr/bin/python3": "", "images/bzImage": "kernel",
    "build/linux-6.12/include/config/kernel.release": "6.12\n",
    "build/linux-6.12/modules.builtin": "kernel/virtio_mmio.ko\n",
    "build/packages-file-list.txt": "busybox,./bin/busybox\nvim,./usr/bin/vi\n",
}  # fmt: skip


def listed(name: str) -> Package:
    return Package(name=name, type="target", version="1", licenses="MIT", downloads=({"source": f"{name}.tar"},))  # type: ignore[arg-type]


class FinishedBuilder:
    """Everything is built; says how often it was asked to."""

    tree = SimpleNamespace(release="2025.11.3")
    arch = X86_64

    def __init__(self, directory: Path) -> None:
        self.directory, self.asked = directory, 0
        self.sandbox = SimpleNamespace(prebuilt=directory.parent / "prebuilt")

    def inputs(self, _name: str) -> dict[str, str]:
        return {}

    def configs(self, name: str) -> list[Path]:
        return [defconfig.ALL[name]]

    def prebuilt(self) -> list[packages.Package]:
        return []

    def locked(self, _names: list[str]) -> nullcontext[None]:
        return nullcontext()

    def build(self, _names: list[str]) -> list[Path]:
        self.asked += 1
        return [self.directory]

    def output(self, _name: str) -> tuple[None, list[Package]]:
        return None, [listed(name) for name in ("busybox", "vim", "linux")]

    def sources(self, _names: list[str]) -> list[Any]:
        return [SimpleNamespace(file=f"{name}.tar", sha256=lambda: "ab") for name in ("busybox", "vim", "linux")]


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedBuilder:
    directory = tmp_path / "O"
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name, target in (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "lib")):
        (directory / "target" / name).symlink_to(target)
    (directory / "target/usr/lib64").symlink_to("lib")
    (tmp_path / "prebuilt").mkdir()
    for name in ("packages.json", "files.json"):
        (tmp_path / "prebuilt" / name).write_text("[]")
    config = tmp_path / "small.config"
    config.write_text(CONFIG)
    monkeypatch.setitem(defconfig.ALL, "frontend", config)
    monkeypatch.setattr("rootfs.engines.root.compile_python", lambda *_: None)
    return FinishedBuilder(directory)


@pytest.fixture
def engine(builder: FinishedBuilder, desk: Desk, tmp_path: Path) -> Engine:
    sets = PackageSets(desk.cache())
    sets.__dict__["tools"] = SimpleNamespace(tree=tmp_path / "tools/tree")
    return Engine(sets, builder)  # type: ignore[arg-type]


def test_of_a_build_is_kept_what_the_symbols_stand_for(engine: Engine, builder: FinishedBuilder) -> None:
    base, spec = engine.root("frontend")
    there = {path.relative_to(base / "tree").as_posix() for path in (base / "tree").rglob("*") if not path.is_dir()}
    python = {"usr/bin/python3", "usr/bin/python3.13", "usr/lib/python3.13/os.py", "usr/lib/python3.13/site-packages"}
    loader = {"usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"}
    assert there == {"usr/bin/busybox"} | loader | python
    assert spec.hostname == "small"
    assert [package.name for package in packages.load(base)] == ["busybox"]
    assert licenses.load(base / licenses.FILE)["busybox"].names == ("MIT",)
    engine.root("frontend")
    assert builder.asked == 1


def test_its_kernel_is_one_as_the_other_engine_has_it(engine: Engine) -> None:
    fetched = engine.kernel("frontend")
    linux = Kernel(engine.cache, engine.sets.tools, fetched)
    assert linux.release == "6.12"
    assert linux.image.read_text() == "kernel"
    assert [package.name for package in packages.load(fetched)] == ["linux"]
    assert list(engine.licenses(fetched, ["linux"])) == ["linux"]
    assert json.loads((fetched / licenses.FILE).read_text())


def test_what_the_choice_of_files_does_not_know_is_found_before_the_build(
    engine: Engine, builder: FinishedBuilder, tmp_path: Path
) -> None:
    (tmp_path / "small.config").write_text(f"{CONFIG}BR2_PACKAGE_LVM=y\n")
    with pytest.raises(SallyportError, match="does not know the symbol BR2_PACKAGE_LVM"):
        engine.prepare()
    assert builder.asked == 0


def test_without_a_network_what_is_not_here_is_told_in_one_go(desk: Desk) -> None:
    made = DebianEngine(PackageSets(desk.cache(), offline=True), host_kernel="cloud")
    with pytest.raises(
        OfflineError, match=r"for tools, .*for boot, .*for kernel-cloud, .*for host, .*for frontend: not here"
    ):
        made.prepare()
    assert not list(desk.directory.glob("packages-*"))
