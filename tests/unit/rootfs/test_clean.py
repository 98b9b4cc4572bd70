"""`invoke clean`, where ``out/`` is on another disk."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from invoke import Context, Exit

import tasks
from rootfs.base import cache


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    checkout.chmod(0o755)
    monkeypatch.setattr(tasks, "OUT", checkout / "out")
    return checkout


def clean() -> None:
    tasks.clean(Context())


def fill(directory: Path) -> None:
    (directory / "cache/step").mkdir(parents=True)
    (directory / "cache/step/file").write_text("")
    (directory / "sallyport-1-qemu.img").write_text("")
    (directory / "cache/step").chmod(0o500)


def test_a_directory_is_gone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(checkout / "out")
    clean()
    assert list(checkout.iterdir()) == []
    assert "out/ is gone" in capsys.readouterr().err
    clean()


def test_of_a_link_the_contents_are_gone_and_the_link_stays(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "big disk"
    fill(disk)
    (disk / "somebody's").mkdir()
    (checkout / "out").symlink_to(disk)
    clean()
    assert [path.name for path in disk.iterdir()] == ["somebody's"]
    assert (checkout / "out").readlink() == disk
    said = capsys.readouterr().err
    assert f"still a link to {disk}" in said
    assert f"{disk}/somebody's is nothing that this project makes" in said
    assert stat.S_IMODE(checkout.stat().st_mode) == 0o755


def test_what_a_link_in_it_leads_to_is_left_alone_and_named(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "other")
    (checkout / "out").mkdir()
    (checkout / "out/cache").symlink_to(tmp_path / "other")
    clean()
    assert list(checkout.iterdir()) == []
    assert (tmp_path / "other/sallyport-1-qemu.img").exists()
    assert f"{tmp_path}/other: what is there was left alone" in capsys.readouterr().err


def test_a_link_to_the_checkout_itself_is_refused(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PROJECT", checkout)
    (checkout / "tasks.py").write_text("")
    (checkout / "out").symlink_to(checkout)
    with pytest.raises(Exit):
        clean()
    assert "leads to" in capsys.readouterr().err
    assert (checkout / "tasks.py").exists()
