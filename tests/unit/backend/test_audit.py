"""The audit log: chained, bounded by kind, durable, and never in the way of anything else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import backend.daemon.audit
import backend.daemon.main
from backend.common import store, vm_state
from backend.daemon import chain
from backend.daemon.audit import CHANGES, KINDS, REJECTED, SESSIONS, SYSTEM, Audit
from backend.daemon.ring import Kind, Ring, Rings
from backend.daemon.settings import Settings
from backend.daemon.worker import Worker
from backend.protocol.base import Done
from backend.protocol.session import PasswordSet, SessionClose
from backend.protocol.system import HostnameSet, StatusGet
from rootfs.base.version import PROJECT
from tests.unit.backend.rig import NEW_PASSWORD, Now, read_audit, read_log, run, running, until

SMALL = Kind("changes", files=3, file_bytes=1000)


def entry(detail: str = "", **fields: Any) -> chain.Entry:
    return chain.Entry(1, "", "2026-01-01T00:00:00.000Z", "boot", "test", "ok", detail=detail, **fields)


def details(folder: Path, kind: str = "changes") -> list[str]:
    paths = chain.files(folder, kind)
    return [json.loads(line).get("detail", "") for path in paths for line in path.read_bytes().splitlines()]


def filled(folder: Path, count: int, kind: Kind = SMALL) -> Ring:
    ring = Ring(folder, kind)
    for number in range(count):
        ring.append(entry(str(number)))
    ring.close()
    return ring


def only(folder: Path) -> Path:
    (path,) = chain.files(folder, "changes")
    return path


# The chain


def test_entries_name_their_predecessors_over_files_restarts_and_what_was_dropped(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    ring = filled(tmp_path, 40)
    found = chain.verify(tmp_path, "changes")
    assert (found.broken, found.unfinished) == (0, 0)
    assert (found.last, found.head) == ring.end
    assert found.last == 43
    assert found.first > 1  # the oldest were dropped, and that is no fault
    assert len(chain.files(tmp_path, "changes")) == SMALL.files
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= SMALL.files * SMALL.file_bytes


def _edit(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"detail":"1"', b'"detail":"x"'), *lines[2:]]


def _forge(lines: list[bytes]) -> list[bytes]:
    """A line that was changed by somebody who mended the next one's hash, too, but not the rest."""
    changed = _edit(lines)
    return [*changed[:2], changed[2].replace(chain.digest(lines[1]).encode(), chain.digest(changed[1]).encode()),
            *changed[3:]]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "place", "why"),
    [
        (_edit, 3, "hash"),
        (_forge, 4, "hash"),
        (lambda lines: lines[:1] + lines[2:], 2, "number"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3, "number"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1, "number"),
        (lambda lines: [lines[0], b"\0" * 80, *lines[2:]], 2, "not readable"),
        (lambda lines: [lines[0], b"[" * 100_000, *lines[2:]], 2, "not readable"),
        (lambda lines: [lines[0], b"\xff\x1b[2J", *lines[2:]], 2, "not readable"),
        (lambda lines: [b'{"seq":1,"prev":"' + b"0" * 64 + b'"}', *lines[1:]], 1, "hash"),
    ],
    ids=["edited", "forged", "left out", "twice", "swapped", "zeros", "too long", "no text", "another beginning"],
)
def test_what_was_changed_is_told_with_its_place_and_the_log_goes_on(
    tmp_path: Path, damage: Any, place: int, why: str
) -> None:
    filled(tmp_path, 5, CHANGES)
    path = only(tmp_path)
    path.write_bytes(b"\n".join(damage(path.read_bytes().splitlines())) + b"\n")
    found = chain.verify(tmp_path, "changes")
    assert re.search(rf"entry {place}: .*{why}", found.breaks[0])
    broken = found.broken
    ring = Ring(tmp_path, CHANGES)
    ring.append(entry("after"))
    ring.append(entry("after that"))
    assert chain.verify(tmp_path, "changes").broken == broken
    assert details_of_readable(path)[-2:] == ["after", "after that"]


def details_of_readable(path: Path) -> list[str]:
    return [entry.detail for line in path.read_bytes().splitlines() if (entry := chain.decode(line))]


def test_a_damaged_last_line_does_not_break_what_follows(tmp_path: Path) -> None:
    filled(tmp_path, 3, CHANGES)
    path = only(tmp_path)
    path.write_bytes(b"\n".join([*path.read_bytes().splitlines()[:2], b"\0" * 100]) + b"\n")
    filled(tmp_path, 3, CHANGES)
    found = chain.verify(tmp_path, "changes")
    assert (found.broken, found.last) == (1, 6)
    assert "entry 3" in found.breaks[0]


def test_a_file_that_is_missing_in_the_middle_is_told(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    first, second, _ = chain.files(tmp_path, "changes")
    number = chain.first_of(second)
    second.unlink()
    (fault,) = [text for text in chain.verify(tmp_path, "changes").breaks if "begins at" in text]
    assert f"ends at entry {number - 1}" in fault
    assert first.exists()


def test_what_cannot_be_read_is_told_and_the_rest_is_checked(tmp_path: Path) -> None:
    """No link is followed, no pipe waited for, whoever made them."""
    filled(tmp_path, 12)
    first, second, third = chain.files(tmp_path, "changes")
    for strange in (partial(second.symlink_to, "/dev/zero"), partial(os.mkfifo, second), second.mkdir):
        second.unlink(missing_ok=True)
        strange()
        found = chain.verify(tmp_path, "changes")
        assert found.breaks[0].startswith(f"{second.name}: cannot be read")
        assert (found.first, found.last) == (chain.first_of(first), 12)
    assert third.exists()


def test_a_log_is_no_other_log(tmp_path: Path) -> None:
    filled(tmp_path, 2, CHANGES)
    only(tmp_path).rename(tmp_path / "rejected-0000000001.jsonl")
    assert chain.verify(tmp_path, "rejected").broken == 1


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_an_entry_that_a_power_cut_tore_is_cut_off_and_noted(tmp_path: Path, cut: int) -> None:
    filled(tmp_path, 3, CHANGES)
    path = only(tmp_path)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    assert chain.verify(tmp_path, "changes").unfinished == len(whole.splitlines()[-1]) + 1 - cut
    Ring(tmp_path, CHANGES).append(entry("after"))
    found = chain.verify(tmp_path, "changes")
    assert (found.broken, found.unfinished, found.last) == (0, 0, 4)
    assert details(tmp_path)[:2] == ["0", "1"]
    assert re.fullmatch(r"\d+ bytes of an unfinished entry cut off", details(tmp_path)[2])
    assert details(tmp_path)[3] == "after"


def test_a_power_cut_right_after_a_new_file_was_made(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    last = filled(tmp_path, 0)
    last.append(entry("x"))
    (tmp_path / chain.file_name("changes", 6)).touch()
    filled(tmp_path, 1)
    found = chain.verify(tmp_path, "changes")
    assert (found.broken, found.last) == (0, 6)


@pytest.mark.parametrize("size", [3000, 100_000])
def test_garbage_at_the_end_that_no_entry_can_be_stays_and_is_told(tmp_path: Path, size: int) -> None:
    filled(tmp_path, 2, CHANGES)
    path = only(tmp_path)
    path.write_bytes(path.read_bytes() + b"x" * size)
    Ring(tmp_path, CHANGES).append(entry("after"))
    found = chain.verify(tmp_path, "changes")
    assert (found.broken, found.last) == (1, 4)
    assert path.stat().st_size > size


def test_an_entry_is_synced_before_append_returns_and_files_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    ring = Ring(tmp_path / "audit", CHANGES)
    ring.append(entry("one"))
    path = only(tmp_path / "audit")
    assert synced == [str(tmp_path), str(tmp_path / "audit"), str(path)]
    assert ring._fd is not None
    os.lseek(ring._fd, 0, os.SEEK_SET)
    ring.append(entry("two"))
    assert details(tmp_path / "audit") == ["one", "two"]


def test_the_longest_entry_is_no_longer_than_a_line_may_be(tmp_path: Path) -> None:
    async def test() -> None:
        disk = Worker("disk")
        audit = Audit(Rings(tmp_path, KINDS), disk, "b" * 36)
        # What escapes to most: a backslash each, which JSON doubles.
        await audit.record("instruction", outcome="malformed", instruction="i" * 40, peer="\\" * 999, session="s" * 12,
                           vm="v" * 40, detail="\\" * 999, budget=2**53)  # fmt: skip
        await audit.close()
        disk.stop()

    asyncio.run(test())
    assert chain.verify(tmp_path, "changes").last == 1
    assert only(tmp_path).stat().st_size < chain.MAX_LINE


# The command


def command(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "backend.daemon.audit", *words], cwd=PROJECT, capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_the_command_says_whole_broken_and_what_was_cut_off(tmp_path: Path) -> None:
    filled(tmp_path, 5, CHANGES)
    found = chain.verify(tmp_path, "changes")
    noted = f"changes:5:{found.head}"
    code, said = command("check", str(tmp_path), noted)
    assert (code, said.splitlines()[0]) == (0, f"changes: entries 1 to 5, head {found.head}: whole")
    path = only(tmp_path)
    whole = path.read_bytes()
    # The end of a log can be cut off without a trace inside it: only who noted the head sees it.
    path.write_bytes(b"\n".join(whole.splitlines()[:4]) + b"\n")
    assert command("check", str(tmp_path))[0] == 0
    assert command("check", str(tmp_path), noted)[0] == 1
    path.write_bytes(whole.replace(b'"detail":"2"', b'"detail":"\x1b[2J"'))
    code, said = command("check", str(tmp_path))
    assert code == 1
    assert "entry 4: does not name the hash" in said
    assert "\x1b" not in said
    assert command("check", str(tmp_path / "nowhere"))[0] == command()[0] == 2


# Kinds


def test_nothing_that_others_can_cause_pushes_an_operators_entry_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind has files of its own; a year of rejections, crashes and logins leaves a change where it was."""
    small = tuple(replace(kind, file_bytes=20_000) for kind in KINDS)
    for name, kind in zip(("CHANGES", "SESSIONS", "SYSTEM", "REJECTED"), small, strict=True):
        monkeypatch.setattr(backend.daemon.audit, name, kind)
    monkeypatch.setattr(backend.daemon.audit, "KINDS", small)
    monkeypatch.setattr(os, "fsync", lambda fd: None)

    async def test() -> None:
        now, disk = Now(), Worker("disk")
        audit = Audit(Rings(tmp_path, small), disk, "boot", now)
        await audit.record("instruction", outcome="ok", kind=small[0], instruction="hostname.set")
        for _ in range(1000):
            now.s += 60
            await audit.reject("message", outcome="malformed", detail="x" * 200)
            await audit.record("vm.exit", outcome="ok", kind=small[2], detail="x" * 200)
            await audit.record("session.end", outcome="evicted", kind=small[1], peer="x" * 64)
        await audit.close()
        disk.stop()

    asyncio.run(test())
    assert [json.loads(line)["instruction"] for line in only(tmp_path).read_bytes().splitlines()] == ["hostname.set"]
    for kind in small:
        paths = chain.files(tmp_path, kind.name)
        assert sum(path.stat().st_size for path in paths) <= kind.files * kind.file_bytes
        assert chain.verify(tmp_path, kind.name).broken == 0
    assert chain.verify(tmp_path, "rejected").first > 1  # they did flow over


def test_what_is_too_much_of_a_kind_is_counted_in_the_next_entry_or_in_one_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        now, disk = Now(), Worker("disk")
        audit = Audit(Rings(tmp_path / "audit", KINDS), disk, "boot", now)
        await audit.record("backend.start", kind=SYSTEM, outcome="ok")
        for _ in range(1000):
            await audit.reject("message", outcome="malformed")
        assert len(read_log(tmp_path, "rejected")) == REJECTED.burst
        # Another kind's entry is none of its business.
        await audit.record("instruction", outcome="ok", instruction="hostname.set")
        assert "suppressed" not in read_log(tmp_path, "changes")[-1]
        await audit.flush()
        assert len(read_log(tmp_path, "rejected")) == REJECTED.burst
        now.s += 31
        await audit.flush()
        summary = read_log(tmp_path, "rejected")[-1]
        assert (summary["event"], summary["suppressed"]) == ("audit.summary", 950)
        assert summary["detail"].startswith("950 further")
        await audit.reject("message", outcome="malformed")
        now.s += 31
        await audit.reject("message", outcome="malformed")
        assert read_log(tmp_path, "rejected")[-1]["suppressed"] == 1
        await audit.reject("message", outcome="malformed")
        await audit.close()
        assert read_log(tmp_path, "rejected")[-1]["suppressed"] == 1
        stop = read_log(tmp_path, "system")[-1]
        assert (stop["event"], stop["outcome"]) == ("backend.stop", "ok")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stop["time"])
        disk.stop()

    asyncio.run(test())


def test_the_running_backend_says_what_it_only_counted_and_what_it_dropped(
    settings: Settings, cheap_hash: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(REJECTED, rate=1.0, burst=2.0)
    kinds = (*KINDS[:-1], quick)
    for module in backend.daemon.audit, backend.daemon.main:
        monkeypatch.setattr(module, "KINDS", kinds)
    monkeypatch.setattr(backend.daemon.audit, "REJECTED", quick)
    full = [True]
    real = store.replace

    def full_once(path: Path, content: bytes, **more: Any) -> None:
        if path.name == "hostname" and full and full.pop():
            raise OSError(errno.ENOSPC, "full")
        real(path, content, **more)

    monkeypatch.setattr(store, "replace", full_once)

    async def test() -> None:
        async with running(replace(settings, hostname_s=0.0)) as rig:
            client, token = await rig.operator()
            for _ in range(6):
                await client.raw(b"nonsense\n")
            await until(lambda: bool(rig.audit(event="audit.summary", suppressed=4)))
            # The disk is full once: the oldest log of least weight makes room, and the name is stored.
            await client.ask(HostnameSet("stored"), token)
            assert (settings.data / "hostname").read_bytes() == b"stored\n"
            await until(lambda: bool(rig.audit(event="audit.dropped")))
            assert "rejected-0000000001" in rig.audit(event="audit.dropped")[0]["detail"]

    run(test())


def test_months_of_changes_stay_whatever_who_has_the_password_does() -> None:
    """The arithmetic of `Settings.change_rate`: entries of the usual length, as many as can be had, in whole files."""
    a_day = 2 * 24 * 3600 * Settings().change_rate * 430
    assert (CHANGES.files - 1) * CHANGES.file_bytes / a_day > 55


def test_what_is_left_of_the_burst_survives_a_restart(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.daemon.credential.derive", lambda password, salt, _n: password.encode().ljust(32)[:32])
    few = replace(settings, change_burst=3.0, change_rate=1e-6, hostname_s=0.0)

    async def change(times: int) -> list[str]:
        async with running(few) as rig:
            client = await rig.connect()
            token = (await client.login(rig.first_password if rig.console else NEW_PASSWORD)).token
            codes = [(await client.ask(PasswordSet(old="wrong", new=NEW_PASSWORD), token)).code]
            for _ in range(times - 1):
                codes.append((await client.ask(HostnameSet("x"), token)).code)
            if rig.console:
                assert await client.ask(PasswordSet(old=rig.first_password, new=NEW_PASSWORD), token) == Done()
            return codes

    async def test() -> None:
        assert await change(2) == ["denied", "failed"]
        assert await change(2) == ["limited", "limited"]

    run(test())
    assert [entry["budget"] for entry in read_log(settings.data, "changes")] == [2, 2, 1, 1, 0, 0]


# A full disk


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tiny", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_the_oldest_log_and_never_what_an_operator_stores(tiny_disk: Path) -> None:
    """Files of other sizes than the kinds' own; the disk and its ENOSPC are real."""
    kinds = tuple(replace(kind, file_bytes=16_384, files=8) for kind in KINDS)
    rings = Rings(tiny_disk / "audit", kinds)

    async def test() -> None:
        disk = Worker("disk", rings.make_room)
        for number in range(250):
            for kind in kinds:
                await disk.run(partial(rings.by_kind[kind.name].append, entry(f"{number}" + "x" * 150)))
        # Strangers' entries went first, and operators' are all there.
        assert len(details(tiny_disk / "audit")) == 250
        assert rings.dropped[0].startswith("rejected-")
        assert not any(name.startswith("changes-") for name in rings.dropped)
        # A new password and a host name: as large as the disk's free room and more.
        free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
        (tiny_disk / "filler").write_bytes(b"x" * free)
        with pytest.raises(OSError, match="No space"):
            store.replace(tiny_disk / "credential.json", b"old" * 2000)
        before = len(rings.dropped)
        await disk.run(lambda: store.replace(tiny_disk / "credential.json", b"new" * 2000))
        assert (tiny_disk / "credential.json").read_bytes() == b"new" * 2000
        assert len(rings.dropped) > before
        await disk.run(lambda: rings.by_kind["changes"].append(entry("after")))
        assert details(tiny_disk / "audit")[-1] == "after"
        for kind in kinds:
            assert chain.verify(tiny_disk / "audit", kind.name).broken == 0
        rings.close()
        disk.stop()

    asyncio.run(test())


def test_on_a_full_disk_the_last_file_of_changes_is_kept_and_others_chains_go_on(tmp_path: Path) -> None:
    rings = Rings(tmp_path, KINDS)
    for kind in KINDS:
        filled(tmp_path, 3, kind)
    dropped = 0
    while rings.make_room():
        dropped += 1
    assert dropped == 3
    assert rings.dropped == [f"{name}-0000000001.jsonl" for name in ("rejected", "system", "sessions")]
    assert details(tmp_path) == ["0", "1", "2"]
    rings.by_kind["rejected"].append(entry("on"))
    found = chain.verify(tmp_path, "rejected")
    assert (found.broken, found.first, found.last) == (0, 4, 4)


def test_what_a_failing_disk_swallowed_is_counted_and_leaves_no_half_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        disk = Worker("disk")
        audit = Audit(Rings(tmp_path, KINDS), disk, "boot", Now())
        await audit.record("one", outcome="ok")
        real = os.write

        def full(*_: object) -> int:
            raise OSError(errno.EIO, "broken")

        def half(fd: int, data: bytes) -> int:
            return real(fd, data[: len(data) // 2])

        for broken in full, half:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", broken)
                await audit.record("lost", outcome="ok")
        await audit.record("two", outcome="ok", peer="\x9b2J", detail="\u202e" + "x" * 5000)
        await audit.close()
        disk.stop()

    asyncio.run(test())
    one, two = (json.loads(line) for line in only(tmp_path).read_bytes().splitlines())
    assert (one["event"], two["event"], two["lost"]) == ("one", "two", 2)
    assert only(tmp_path).read_bytes().isascii()
    assert len(two["detail"]) == 200
    assert chain.verify(tmp_path, "changes").broken == 0


# What gets into it


def test_each_end_of_a_session_is_audited_with_its_reason(settings: Settings, cheap_hash: None) -> None:
    async def test() -> None:
        async with running(replace(settings, session_idle_s=1.5, sessions=2)) as rig:
            client, first = await rig.operator()
            password = rig.first_password
            tokens = [first] + [(await client.login(password)).token for _ in range(2)]
            assert isinstance(await client.ask(SessionClose(), tokens[2]), Done)
            other = (await client.login(password)).token
            assert await client.ask(PasswordSet(old=password, new=NEW_PASSWORD), other) == Done()
            vm_state.write(settings.vm_state, running_vm("a" * 16, 1))
            await until(lambda: bool(rig.audit(event="vm.start")))
            vm_state.write(settings.vm_state, running_vm("a" * 16, 2))
            await until(lambda: bool(rig.audit(event="session.end", outcome="vm")))
            await client.login(NEW_PASSWORD)
            await until(lambda: bool(rig.audit(event="session.end", outcome="idle")))
            await client.login(NEW_PASSWORD)
        ends = [entry for entry in read_log(settings.data, "sessions") if entry["event"] == "session.end"]
        assert [end["outcome"] for end in ends] == ["evicted", "logout", "password", "vm", "idle", "stop"]
        opened = [entry["session"] for entry in read_log(settings.data, "sessions") if entry["event"] == "instruction"]
        assert {end["session"] for end in ends} == set(opened)
        assert {end["peer"] for end in ends} == {"https 192.0.2.7"}
        assert not any(token in json.dumps(read_audit(settings.data)) for token in [*tokens, other])

    run(test())


def running_vm(history: str, starts: int, *events: tuple[int, str, str]) -> vm_state.VmState:
    known = events or tuple((number, "start", "under kvm") for number in range(1, starts + 1))
    told = tuple(vm_state.VmEvent(*event) for event in known)  # type: ignore[arg-type]
    return vm_state.VmState("running", "kvm", "", starts, "ab" * 16, 0.0, "", history, told)


def test_what_happens_to_the_vm_is_audited_once_also_over_a_restart_of_the_backend(settings: Settings) -> None:
    def told() -> list[tuple[str, str]]:
        return [
            (e["event"], e.get("detail", "")) for e in read_log(settings.data, "system") if e["event"].startswith("vm.")
        ]

    async def test() -> None:
        exit_ = (3, "exit", "QEMU ended with status -9, after 12.0 s")
        async with running(settings):
            vm_state.write(settings.vm_state, running_vm("a" * 16, 1, (1, "start", ""), (2, "up", "x"), exit_))
            await until(lambda: len(told()) == 3)
        async with running(settings):
            # What it missed: 16 events are kept.
            vm_state.write(settings.vm_state, running_vm("a" * 16, 9, exit_, (7, "start", "")))
            await until(lambda: len(told()) == 4)
            settings.vm_state.write_bytes(b"[" * 4000)
            await until(lambda: len(told()) == 5)
            vm_state.write(settings.vm_state, running_vm("b" * 16, 1, (1, "start", "")))
            await until(lambda: len(told()) == 6)
        assert told()[2] == ("vm.exit", "QEMU ended with status -9, after 12.0 s")
        assert told()[3] == ("vm.start", "; 3 events before this one were not seen")
        assert told()[4][0] == "vm.state"
        assert {entry.get("vm") for entry in read_log(settings.data, "system")} == {
            None, "a" * 16 + "/1", "a" * 16 + "/2", "a" * 16 + "/3", "a" * 16 + "/7", "b" * 16 + "/1",
        }  # fmt: skip

    run(test())


def test_the_status_tells_whether_the_log_is_whole_and_where_it_ends(settings: Settings, cheap_hash: None) -> None:
    async def test() -> None:
        async with running(replace(settings, hostname_s=0.0)) as rig:
            client, token = await rig.operator()
            password = rig.first_password
            await client.ask(HostnameSet("x"), token)
        path = only(settings.data / "audit")
        lines = path.read_bytes().splitlines()
        path.write_bytes(lines[0].replace(b"begun", b"BEGUN") + b"\n" + lines[1] + b"\n")
        async with running(settings) as rig:
            client = await rig.connect()
            token = (await client.login(password)).token
            await told(client, token, lines[1])

    async def told(client: Any, token: str, last: bytes) -> None:
        async with asyncio.timeout(5):
            while (found := (await client.ask(StatusGet(), token)).audit).state == "checking":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert found.state == "broken"
        assert "entry 2: does not name the hash" in found.fault
        assert (found.entries, found.head) == (2, chain.digest(last))

    run(test())


def test_sessions_and_system_have_limits_of_their_own() -> None:
    assert all(kind.rate > 0 and kind.burst >= 50 for kind in (SESSIONS, SYSTEM, REJECTED))
    assert not CHANGES.rate


@pytest.mark.parametrize(
    "spoil", [lambda folder: folder.write_text(""), lambda folder: folder.symlink_to("/proc/1/fd")]
)
def test_a_folder_that_is_none_costs_the_log_and_no_login(
    settings: Settings, cheap_hash: None, spoil: Callable[[Path], object]
) -> None:
    spoil(settings.data / "audit")

    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            assert (await client.ask(StatusGet(), token)).hostname

    run(test())


def test_a_backend_that_never_started_writes_no_stop(tmp_path: Path) -> None:
    """It is started again for ever, and would push out what was written before."""

    async def test() -> None:
        disk = Worker("disk")
        await Audit(Rings(tmp_path / "audit", KINDS), disk, "boot", Now()).close()
        disk.stop()

    asyncio.run(test())
    assert not list(tmp_path.rglob("system*"))
