"""Temporary directories and sockets where paths are as odd as a user's."""

from __future__ import annotations

import socket
import stat
import tempfile
from pathlib import Path

import pytest

from rootfs.base import scratch
from rootfs.base.errors import SallyportError
from tests.conftest import ODD_NAMES


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place that the test may fall back on."""
    made = Path(tempfile.mkdtemp(dir="/tmp", prefix="sp-"))  # pytest's own are not open to all
    made.chmod(0o755)
    monkeypatch.setattr(scratch, "_PLACES", (made,))
    return made


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_an_odd_place_is_not_used(plain: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / name
    odd.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with scratch.scratch("sallyport-") as directory:
        assert directory.parent == plain
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(plain.iterdir()) == []


def test_the_users_place_is_used_unless_others_may_not_enter_it(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = plain / "own"
    own.mkdir()
    own.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    assert scratch.place() == own
    own.chmod(0o700)
    assert scratch.place() == plain


def test_without_any_place_the_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a b"))
    monkeypatch.setattr(scratch, "_PLACES", (tmp_path / "c d",))
    with pytest.raises(SallyportError, match=r"a b, .*c d are unsuitable") as caught:
        scratch.place()
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize("name", ["short", *ODD_NAMES], ids=ascii)
def test_a_socket_is_bound_and_reached_however_long_its_path_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "x.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as near, socket.socket(socket.AF_UNIX) as far:
        with scratch.socket_path(path) as address:
            near.bind(address)
        assert path.is_socket()
        near.listen(1)
        with scratch.socket_path(path) as address:
            far.connect(address)
        far.sendall(b"x")
        with near.accept()[0] as heard:
            assert heard.recv(1) == b"x"
