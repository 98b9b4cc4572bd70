"""Which packages a set has: the locked ones, or on request what the archive has today."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from invoke import Context, Exit

from rootfs import tasks
from rootfs.base import packages
from rootfs.base.errors import OfflineError
from rootfs.base.package_sets import PackageSets
from rootfs.base.packages import Package
from rootfs.engines.debian import engine
from tests.unit.rootfs.conftest import Desk

OLD, NEW = (Package("systemd-boot-efi", version, "amd64", version * 64) for version in "12")


class Archive:
    """In the place of `packages.fetch`: has the new version, and keeps the old one."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def fetch(self, _name: str, _include: Sequence[str], output: Path, *, newest: bool, **_: object) -> None:
        self.asked.append(newest)
        made = [NEW] if newest else packages.read_lock()["boot"]
        (output / "packages.json").write_text(json.dumps([asdict(package) for package in made]))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    archive = Archive()
    monkeypatch.delenv(packages.NEWEST, raising=False)
    monkeypatch.setattr(packages, "LOCK", tmp_path / "packages.lock")
    monkeypatch.setattr(packages, "fetch", archive.fetch)
    packages.write_lock({"boot": [OLD]})
    return archive


def test_the_locked_ones_unless_the_user_asks(archive: Archive, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.load(PackageSets(desk.cache()).boot) == [OLD]
    assert "not as" not in desk.said
    monkeypatch.setenv(packages.NEWEST, "1")
    assert packages.load(PackageSets(desk.cache()).boot) == [NEW]
    assert archive.asked == [False, True]


def test_what_differs_from_the_lock_is_said_each_time(archive: Archive, desk: Desk) -> None:
    for _ in range(2):
        assert packages.load(PackageSets(desk.cache(), newest=True).boot) == [NEW]
        assert "! not as packages.lock has it (--newest): systemd-boot-efi 1 -> 2\n" in desk.said
    packages.write_lock({"boot": [NEW]})
    assert PackageSets(desk.cache(), newest=True).boot
    assert "not as" not in desk.said
    assert archive.asked == [True], "the same day it is not asked for again"


def test_the_newest_of_another_day_is_asked_for_again(archive: Archive, desk: Desk) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        assert PackageSets(desk.cache(), newest=True, as_of=day).boot
    assert archive.asked == [True, True]


def test_offline_the_locked_ones_that_are_here_will_do(archive: Archive, desk: Desk) -> None:
    assert PackageSets(desk.cache()).boot
    assert PackageSets(desk.cache(), offline=True).boot
    with pytest.raises(OfflineError):
        _ = PackageSets(desk.cache(), offline=True, newest=True).boot


def test_a_compile_node_has_the_locked_compiler(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(packages.NEWEST, "1")
    with pytest.raises(Exit):
        tasks.node(Context(), listen="127.0.0.1", allow="127.0.0.1")
    assert "same compiler" in capsys.readouterr().err
    assert archive.asked == []


def test_every_set_that_is_declared_is_locked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a build stops where a declaration was changed and the lock was not renewed."""
    locked, asked = packages.read_lock(), {}

    def fetch(name: str, include: Sequence[str], output: Path, **_: object) -> None:
        asked[name] = set(include)
        (output / "packages.json").write_text("[]")

    monkeypatch.setattr(packages, "fetch", fetch)
    engine.lock(desk.cache())
    assert asked.keys() == locked.keys()
    assert {name: include - {package.name for package in locked[name]} for name, include in asked.items()} == {
        name: set() for name in asked
    }
