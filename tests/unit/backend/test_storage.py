"""How the data partition is, in one word and one sentence."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from backend.daemon import host_status, storage
from backend.daemon.main import Daemon
from backend.daemon.public_identity import PresentedIdentity
from backend.daemon.settings import Settings
from backend.protocol.system import AuditLog, Storage, StorageState
from tests.unit.backend.rig import read_audit, run, until

ROOM = 10**6


def disk(free: int = ROOM, *, flags: int = 0) -> os.statvfs_result:
    return os.statvfs_result((4096, 1, 2 * ROOM, free, free, 100, 100, 100, flags, 255))


def slots(folder: Path, *devices: str) -> None:
    for device in devices:
        (folder / device).mkdir(parents=True)
        (folder / device / "uevent").write_text(f"DEVNAME={device}\nPARTNAME=slot-a\n")


@pytest.mark.parametrize("found", ["ok", "repaired", "copy", "temporary"])
def test_what_was_found_at_the_start_is_told(tmp_path: Path, found: StorageState) -> None:
    (tmp_path / "storage.json").write_text(f'{{"state": "{found}"}}\n')
    assert storage.at_start(tmp_path / "storage.json") == found
    assert storage.state(found, disk(), failed=False, second=False).state == found


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b'{"state":"full"}', b'{"state":"ok","x":1}', b"[" * 3000, b"x" * 9000]
)
def test_a_missing_or_foreign_file_is_not_taken_for_good_news(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "storage.json").write_bytes(content)
    assert storage.at_start(tmp_path / "storage.json") == "unknown"


def test_the_worst_that_holds_is_told() -> None:
    readonly, full = os.ST_RDONLY, storage.FULL - 1
    assert storage.state("ok", disk(), failed=True, second=False).state == "read-only"
    for found, now, second, said in (
        ("ok", disk(), False, "ok"),
        ("ok", disk(storage.FULL), False, "ok"),
        ("ok", disk(full), False, "full"),
        ("repaired", disk(full), False, "full"),
        ("repaired", disk(full, flags=readonly), False, "read-only"),
        ("temporary", disk(full), False, "temporary"),
        ("copy", disk(), False, "copy"),
        ("temporary", disk(), True, "second-disk"),
    ):
        assert storage.state(found, now, failed=False, second=second).state == said  # type: ignore[arg-type]


def test_every_state_but_the_good_one_says_what_it_means() -> None:
    assert set(storage.TEXTS) == set(get_args(StorageState))
    assert [state for state, text in storage.TEXTS.items() if not text] == ["ok"]


def test_the_first_program_says_nothing_that_the_backend_does_not_know() -> None:
    """The two files that must agree: the shell script writes what this module reads."""
    script = (Path(__file__).parents[3] / "overlays/host_initramfs/init.j2").read_text()
    (state,) = msgspec.structs.fields(storage.BootFinding)
    assert set(re.findall(r"\bstate=([a-z]+)", script)) == set(get_args(state.type))


def test_status_has_it(settings: Settings) -> None:
    settings.storage.write_text('{"state": "repaired"}')
    slots(settings.block_devices, "vda2")
    host = host_status.HostStatus(settings, PresentedIdentity(settings.identity, print))
    assert host.get(AuditLog("whole", "", 0, "0" * 64)).storage == Storage("repaired", storage.TEXTS["repaired"])
    (settings.ext4 / "vda4").mkdir(parents=True)
    (settings.ext4 / "vda4/errors_count").write_text("0\n")
    assert host.get(AuditLog("whole", "", 0, "0" * 64)).storage.state == "repaired"
    (settings.ext4 / "vda4/errors_count").write_text("1\n")
    assert host.get(AuditLog("whole", "", 0, "0" * 64)).storage.state == "read-only"
    slots(settings.block_devices, "vdb2")
    assert host.get(AuditLog("whole", "", 0, "0" * 64)).storage.state == "second-disk"


def test_a_second_disk_ends_in_a_restart_with_a_word_on_the_console(settings: Settings, tmp_path: Path) -> None:
    quick = Settings.under(tmp_path, link=settings.link, disks_s=0.01, reboot_delay_s=0.0)
    quick.storage.write_text('{"state": "temporary"}')
    shown: list[list[str]] = []
    slots(quick.block_devices, "vda2")

    async def test() -> None:
        async with Daemon(quick, console=shown.append):
            await asyncio.sleep(0.2)
            assert not (quick.request / "reboot").exists()  # one is as it should be
            slots(quick.block_devices, "sdb2")
            await until((quick.request / "reboot").exists)

    run(test())
    assert any("Two disks" in line for lines in shown for line in lines)
    entries = read_audit(quick.data)
    assert [entry["outcome"] for entry in entries if entry["event"] == "storage"] == ["temporary", "second-disk"]
