from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from backend.common import vm_state
from backend.daemon.settings import Settings
from tests.unit.backend.certificates import make_link_keys


@pytest.fixture(scope="session")
def link_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of both ends of the link and those of strangers."""
    folder = tmp_path_factory.mktemp("link")
    make_link_keys(folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, link_keys: Path) -> Settings:
    """A host in a folder. Times that a test does not wait for are those of production: machines that test are busy."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "request").mkdir()
    identity = {"product": "Sallyport", "version": "0.1.0", "profile": "qemu-x86_64", "engine": "debian"}
    (tmp_path / "image.json").write_text(json.dumps(identity | {"commit": "not ours"}))
    (tmp_path / "storage.json").write_text('{"state": "ok"}\n')
    started(tmp_path / "state.json")
    (tmp_path / "cmdline").write_text(f"root=/dev/dm-0 sallyport.roothash={'5a' * 32} quiet\n")
    return Settings.under(tmp_path, link=link_keys, pause_s=0.0, connect_burst=500.0, request_burst=1000.0)


def started(path: Path, start_id: str = "5a" * 16, starts: int = 1) -> None:
    """What the supervisor writes when it has started the VM."""
    now = time.monotonic()
    state = vm_state.VmState(
        state="running", accelerator="kvm", accelerator_reason="", starts=starts, start_id=start_id, started_at=now,
        last_exit="",
    )  # fmt: skip
    vm_state.write(path, state)


@pytest.fixture
def cheap_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed at no cost, for tests that log in only to do something else."""

    def derive(password: str, salt: bytes, _n: int) -> bytes:
        return hashlib.scrypt(password.encode(errors="surrogatepass"), salt=salt, n=2, r=1, p=1, dklen=32)

    monkeypatch.setattr("backend.daemon.credential.derive", derive)
