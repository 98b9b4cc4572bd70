from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rootfs import build as images
from rootfs.base.cache import Cache, digest_path
from rootfs.base.errors import SallyportError
from rootfs.build import Built, Recipe
from tests.bench import build

QUIET = Console(quiet=True)


def small_make(recipe: Recipe, console: Console, out: Path, cache: Path) -> Built:
    """Real steps in a real cache, with next to nothing in them."""
    steps = Cache(cache, console)

    def fill(directory: Path) -> None:
        for name in ("vmlinuz", "initrd", "root.squashfs"):
            (directory / name).write_bytes(b"x" * 1000)

    for name in ("packages-tools", "packages-host", "packages-frontend"):
        steps.step(name, name, {}, fill)
    frontend = steps.step("frontend", "VM", {}, fill)
    host = steps.step("host-qemu", "host", {path.name: digest_path(path) for path in recipe.extra}, fill)
    disk = steps.step("disk", "disk", {"root": host.name, "name": recipe.name}, fill)
    out.mkdir(exist_ok=True)
    manifest = out / f"{recipe.name}.manifest.json"
    manifest.write_text(json.dumps({"sizes": {"root_bytes": 50_000_000, "uki_bytes": 10_000_000}}))
    return Built(disk, manifest, host, frontend, host.name)


class SmallTools:
    def run(self, command: list[str], *, build: Path) -> str:
        source = build / command[-1]
        Path(f"{source}.zst").write_bytes(source.read_bytes()[:500])
        return ""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout's out/, with everything that takes time replaced."""
    directory = tmp_path / "out"
    monkeypatch.setattr(images, "OUT", directory)
    monkeypatch.setattr(images, "make", small_make)
    monkeypatch.setattr(build, "PackageSets", lambda cache: SimpleNamespace(tools=SmallTools()))
    monkeypatch.setattr(build, "run_command", lambda argv, cwd, env: "  ✓ Host (nothing changed)\n")
    return directory


def test_all_figures_are_there_and_nothing_is_left(out: Path, tmp_path: Path) -> None:
    build.run(3, tmp_path / "build.json", QUIET)
    found = {f["name"]: f for f in json.loads((tmp_path / "build.json").read_text())["figures"]}
    assert {name: (f["unit"], f["target"]) for name, f in found.items()} == {
        "cold build, with downloads": ("s", 300),
        "nothing changed, the build alone": ("s", 2),
        "nothing changed, `invoke image`": ("s", 2),
        "one overlay file changed": ("s", 20),
        "host image content (root and kernel)": ("MB", 128),
        "VM image, compressed on its own": ("MB", 24),
    }
    assert all(len(f["runs"]) == (3 if f["unit"] == "s" else 1) for f in found.values())
    assert found["host image content (root and kernel)"]["median"] == 60.0
    assert found["VM image, compressed on its own"]["runs"] == [0.002]  # 3 x 500 bytes, three digits kept
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("call", [1, 2, 5])
def test_ctrl_c_leaves_nothing(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls = iter(range(1, 100))

    def interrupted(recipe: Recipe, console: Console, out: Path, cache: Path) -> Built:
        built = small_make(recipe, console, out, cache)
        # The tools tree has directories that nobody may write to.
        (built.frontend / "closed").mkdir(exist_ok=True)
        (built.frontend / "closed/file").touch()
        (built.frontend / "closed").chmod(0o555)
        if next(calls) == call:
            raise KeyboardInterrupt
        return built

    monkeypatch.setattr(images, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.run(2, tmp_path / "build.json", QUIET)
    assert list(out.iterdir()) == []
    assert not (tmp_path / "build.json").exists()


def test_a_warm_cold_build_is_not_told_as_one(out: Path) -> None:
    out.mkdir()
    area = build.ScratchArea(out)
    area.make(build._recipe())
    # Had emptying not worked, the next would be warm.
    object.__setattr__(area, "empty", lambda: None)
    with pytest.raises(SallyportError, match="not a cold build"):
        build._cold(area, 1, QUIET)


def test_a_step_that_ran_is_not_told_as_nothing_changed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    area = build.ScratchArea(out)
    with pytest.raises(SallyportError, match=r"nothing changed; steps that ran: .*host-qemu"):
        build._unchanged(area, 1, QUIET)
    monkeypatch.setattr(
        build, "run_command", lambda argv, cwd, env: "  ✓ A (nothing changed)\n  … Flash image (changed: x)\n"
    )
    with pytest.raises(SallyportError, match="Flash image"):
        build._command(1, QUIET)


def test_an_overlay_that_changes_more_or_less_is_found_out(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(recipe: Recipe, console: Console, out: Path, cache: Path) -> Built:
        return small_make(Recipe(recipe.profile), console, out, cache)

    out.mkdir()
    monkeypatch.setattr(images, "make", blind)
    with pytest.raises(SallyportError, match="ran: none"):
        build._overlay(build.ScratchArea(out), 1, QUIET)


def test_what_the_cache_says_of_a_step_that_runs_is_understood(tmp_path: Path) -> None:
    said = io.StringIO()
    for _ in range(2):
        Cache(tmp_path / "cache", Console(file=said, width=200)).step("disk", "Flash image", {}, lambda path: None)
    assert build._RAN.findall(said.getvalue()) == ["  … Flash image (never built here)"]
    assert "(nothing changed)" in said.getvalue()
