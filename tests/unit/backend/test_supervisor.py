"""The supervisor with a sleeping child in QEMU's place."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import backend.common.tap
from backend.common import heartbeat, vm_state
from backend.common.heartbeat import Heartbeats
from backend.common.vm_state import VmState
from backend.forwarder import process
from backend.guests import supervisor, vm
from backend.guests.accelerator import Accelerator
from backend.guests.console import Console
from backend.guests.supervisor import HeartbeatSocket, HeartbeatTimeouts, Supervisor

TAPS = vm.TapDescriptors(access=None, link=8)
QUICK = HeartbeatTimeouts(first_kvm=0.15, first_tcg=0.15, next=0.15, backoff=0.01)
PATIENT = HeartbeatTimeouts(first_kvm=60, first_tcg=60, next=60, backoff=0.01)
DEADLINE_S = 5.0


class Bench:
    """One supervisor, the VMs that it starts, and the states that it tells."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "RUN", folder)
        monkeypatch.setattr(shutil, "chown", lambda *_words, **_names: None)
        monkeypatch.setattr(vm, "start", self._start)
        monkeypatch.setattr(vm_state, "write", self._write)
        self._really_write = _WRITE
        self.folder = folder
        self.argv = ["sleep", "60"]
        self.beats_from: set[int] = set()
        """Numbers of the starts whose VM sends one heartbeat."""
        self.started: list[Process] = []
        self.accelerators: list[str] = []
        self.names: list[str] = []
        """Of each start, as the file told it when the VM began to live."""
        self.told: list[VmState] = []
        self.at_last: list[VmState] = []
        """What was told when the supervisor was stopped."""
        self.heartbeats = HeartbeatSocket(folder / "heartbeat.sock")
        self.sender = Heartbeats(folder / "heartbeat.sock")
        self.consoles = tuple(Console(name, folder / "journal") for name in ("vm-console", "vm-qemu"))

    async def _start(self, chosen: Accelerator, taps: vm.TapDescriptors, console: int, messages: int) -> Process:
        assert taps == TAPS
        assert (console, messages) == tuple(one.write_end for one in self.consoles)
        assert all(child.returncode is not None for child in self.started), "two VMs at once"
        self.accelerators.append(chosen.name)
        self.names.append(self.told[-1].start_id)
        self.started.append(await asyncio.create_subprocess_exec(*self.argv))
        if len(self.started) in self.beats_from:
            self.beat()
        return self.started[-1]

    def beat(self) -> None:
        """One beat of the VM that runs now."""
        self.sender.beat(time.monotonic())

    def _write(self, path: Path, state: VmState) -> None:
        assert path == self.folder / "state.json"
        self._really_write(path, state)
        self.told.append(state)

    def run(
        self,
        kind: str,
        timeouts: HeartbeatTimeouts,
        until: Callable[[], bool],
        *,
        prod: Callable[[], None] | None = None,
    ) -> None:
        """Supervise until the condition holds; ``prod`` is called every few milliseconds."""

        async def play() -> None:
            chosen = Accelerator("kvm" if kind == "kvm" else "tcg", "a test says so")
            task = asyncio.create_task(Supervisor(TAPS, chosen, self.heartbeats, timeouts, *self.consoles).run())
            async with asyncio.timeout(DEADLINE_S):
                while not until():
                    assert not task.done(), task.exception()
                    if prod is not None:
                        prod()
                    await asyncio.sleep(0.005)
            count = len(self.told)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.told, self.at_last = self.told[:count], self.told[count:]

        asyncio.run(play())

    def close(self) -> None:
        self.sender.close()
        self.heartbeats._socket.close()
        for console in self.consoles:
            console.close()


_WRITE = vm_state.write


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.close()
    assert all(child.returncode is not None for child in made.started), "a VM outlived its supervisor"


def test_a_vm_that_ends_is_started_again(bench: Bench) -> None:
    bench.argv = ["sh", "-c", "exit 7"]
    bench.run("kvm", PATIENT, lambda: len(bench.started) >= 3)
    assert {state.last_exit for state in bench.told[2:]} == {"QEMU ended with status 7"}


def test_a_system_call_that_the_filter_forbids_is_told(bench: Bench) -> None:
    bench.argv = ["sh", "-c", "kill -s SYS $$"]
    bench.run("kvm", PATIENT, lambda: len(bench.started) >= 2)
    assert re.fullmatch(r"QEMU ended with status -31, SIGSYS: .*filter forbids", bench.told[-1].last_exit)


def test_a_vm_that_is_killed_while_it_runs_is_started_again(bench: Bench) -> None:
    bench.beats_from = {1}

    def kill_the_first() -> None:
        if len(bench.started) == 1 and bench.told[-1].state == "running" and bench.started[0].returncode is None:
            # Not by kill() of asyncio, which looks first whether it has ended, and so may take its status away.
            os.kill(bench.started[0].pid, signal.SIGKILL)

    bench.run("kvm", PATIENT, lambda: len(bench.started) == 2, prod=kill_the_first)
    assert bench.told[-1].last_exit == "QEMU ended with status -9"
    assert bench.accelerators == ["kvm", "kvm"]


def test_a_vm_that_never_beats_is_killed_and_started_again(bench: Bench) -> None:
    bench.run("tcg", QUICK, lambda: len(bench.started) == 2)
    assert bench.started[0].returncode == -9
    assert bench.told[-1].last_exit.startswith("no heartbeat for")


def test_a_vm_that_falls_silent_is_killed_and_started_again(bench: Bench) -> None:
    bench.beats_from = {1}
    timeouts = HeartbeatTimeouts(first_kvm=60, first_tcg=60, next=0.1, backoff=0.01)
    bench.run("kvm", timeouts, lambda: len(bench.started) == 2)
    assert bench.started[0].returncode == -9
    assert [state.state for state in bench.told][:3] == ["starting", "starting", "running"]


def test_a_vm_that_beats_is_left_alone(bench: Bench) -> None:
    bench.beats_from = {1}
    ticks = iter(range(120))  # of 5 ms at least: four times the timeouts
    bench.run("kvm", QUICK, lambda: next(ticks, None) is None, prod=bench.beat)
    assert len(bench.started) == 1
    assert bench.told[-1].state == "running"


def test_first_timeouts_is_the_accelerators(bench: Bench) -> None:
    timeouts = HeartbeatTimeouts(first_kvm=60, first_tcg=0.05, next=60, backoff=0.01)
    bench.run("tcg", timeouts, lambda: len(bench.started) == 2)
    before = len(bench.started)
    ticks = iter(range(40))
    bench.run("kvm", timeouts, lambda: next(ticks, None) is None)
    assert len(bench.started) == before + 1


def test_only_the_beat_itself_is_a_sign_of_life(bench: Bench) -> None:
    def babble() -> None:
        beat = heartbeat.encode(time.monotonic())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as stranger:
            for words in (b"", b"beat", beat * 2, b"B" + beat[1:]):
                try:
                    stranger.sendto(words, str(bench.folder / "heartbeat.sock"))
                except BlockingIOError:
                    return

    bench.run("tcg", QUICK, lambda: len(bench.started) == 2, prod=babble)
    assert "running" not in [state.state for state in bench.told]


def test_states_are_told_in_order_and_the_file_has_the_last(bench: Bench) -> None:
    bench.beats_from = {1, 2}
    timeouts = HeartbeatTimeouts(first_kvm=60, first_tcg=60, next=0.1, backoff=0.01)
    bench.run("kvm", timeouts, lambda: [s.state for s in bench.told].count("running") == 2)
    assert [(s.state, s.starts) for s in bench.told] == [
        ("starting", 0),
        ("starting", 1),
        ("running", 1),
        ("restarting", 1),  # it ended
        ("restarting", 1),  # the next one has another name, and is not there yet
        ("restarting", 2),
        ("running", 2),
    ]
    assert {(s.accelerator, s.accelerator_reason) for s in bench.told} == {("kvm", "a test says so")}
    assert bench.told[0].last_exit == ""
    assert bench.told[5].started_at > bench.told[2].started_at
    (at_last,) = bench.at_last
    assert vm_state.read(bench.folder / "state.json") == at_last
    assert at_last.last_exit == "the supervisor was stopped"


def test_what_happened_to_the_vm_is_numbered_on_over_a_restart_of_the_supervisor(bench: Bench) -> None:
    bench.beats_from = {1}
    bench.run("kvm", PATIENT, lambda: bench.told[-1:] != [] and bench.told[-1].state == "running")
    bench.argv = ["sh", "-c", "exit 7"]
    bench.run("kvm", PATIENT, lambda: len(bench.started) >= 3)
    state = (bench.told + bench.at_last)[-1]
    assert [event.number for event in state.events] == list(range(1, len(state.events) + 1))
    told = [(event.what, event.detail) for event in state.events]
    assert [what for what, _ in told[:5]] == ["start", "up", "exit", "start", "exit"]
    assert told[0][1] == "under kvm"
    assert told[2][1].startswith("the supervisor was stopped, after ")
    assert told[4][1].startswith("QEMU ended with status 7, after ")
    # Killed: it could say nothing.
    really = vm_state.VmState("running", "kvm", "", 1, "ab" * 16, 0.0, "", state.history, state.events[:4])
    vm_state.write(bench.folder / "state.json", really)
    bench.run("kvm", PATIENT, lambda: len(bench.started) >= 5)
    last = (bench.told + bench.at_last)[-1]
    events = last.events
    assert last.history == state.history
    assert events[4].what == "exit"
    assert "ended unexpectedly" in events[4].detail
    assert len(events) <= vm_state.EVENTS


def test_each_start_has_a_random_name_that_is_told_before_the_vm_lives(bench: Bench) -> None:
    bench.argv = ["sh", "-c", "exit 7"]
    bench.run("kvm", PATIENT, lambda: len(bench.started) >= 2)
    first = len(bench.started)
    # The supervisor's unit is started anew, and counts from one again.
    bench.run("kvm", PATIENT, lambda: len(bench.started) >= first + 2)
    assert len(set(bench.names)) == len(bench.names) >= 4
    assert all(len(bytes.fromhex(name)) == 16 for name in bench.names)


def test_two_boots_in_silence_under_kvm_make_it_tcg(bench: Bench) -> None:
    bench.run("kvm", QUICK, lambda: len(bench.started) == 4)
    assert bench.accelerators == ["kvm", "kvm", "tcg", "tcg"]
    assert bench.told[-1].accelerator == "tcg"
    assert "KVM twice" in bench.told[-1].accelerator_reason


def test_two_vms_that_die_under_kvm_before_they_ever_beat_make_it_tcg(bench: Bench) -> None:
    bench.argv = ["sh", "-c", "exit 1"]
    bench.run("kvm", PATIENT, lambda: len(bench.started) == 3)
    assert bench.accelerators == ["kvm", "kvm", "tcg"]


def test_kvm_that_once_carried_a_vm_is_never_given_up(bench: Bench) -> None:
    bench.beats_from = {2}
    bench.run("kvm", QUICK, lambda: len(bench.started) == 6)
    assert bench.accelerators == ["kvm"] * 6


def test_pauses_grow_to_the_limit_and_a_vm_that_lived_is_started_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    lived = iter([0, 0, 0, 0, 0, 0, 11, 0])
    clock = [0.0]
    really_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds != 0.005:  # the bench's own
            pauses.append(seconds)
        await really_sleep(0)

    async def watch(_self: Supervisor, child: Process) -> str:
        clock[0] += next(lived)
        return "over"

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Supervisor, "_watch", watch)
    bench.run("kvm", HeartbeatTimeouts(backoff=2.0), lambda: len(pauses) >= 8)
    assert pauses[:8] == [0.0, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.0]


def test_a_beat_counts_for_the_vm_whose_connection_it_came_over(bench: Bench) -> None:
    started_at = time.monotonic()

    async def wait(seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await bench.heartbeats.beat(started_at)
        except TimeoutError:
            return False
        return True

    for before in 0.0, started_at - 1, started_at, float("nan"):
        bench.sender.beat(before)
    assert not asyncio.run(wait(0.05))
    bench.sender.beat(started_at + 0.001)
    assert asyncio.run(wait(DEADLINE_S))


def test_late_beats_of_the_vm_that_is_gone_leave_the_next_its_time_to_boot(bench: Bench) -> None:
    connected_at = time.monotonic()
    timeouts = HeartbeatTimeouts(first_kvm=60, first_tcg=60, next=0.05, backoff=0.01)
    ticks = iter(range(60))  # of 5 ms at least: six times the timeouts
    bench.run("kvm", timeouts, lambda: next(ticks, None) is None, prod=lambda: bench.sender.beat(connected_at))
    assert len(bench.started) == 1
    assert "running" not in [state.state for state in bench.told]


def test_the_heartbeat_socket_is_for_its_group_alone(bench: Bench) -> None:
    path = bench.folder / "heartbeat.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    HeartbeatSocket(path)._socket.close()  # one that a predecessor left is replaced


@pytest.fixture
def taps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(supervisor, "TAPS", tmp_path / "taps.sock")
    monkeypatch.setattr(shutil, "chown", lambda *_words, **_names: None)
    return tmp_path / "taps.sock"


def test_the_tap_goes_from_the_forwarder_to_the_supervisor(
    taps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the supervisor asks first; and while nobody asks, the forwarder holds none."""
    opened: list[tuple[str, int]] = []

    def open_tap(name: str) -> int:
        opened.append((name, os.open(tmp_path / "tap", os.O_CREAT | os.O_RDWR)))
        return opened[-1][1]

    monkeypatch.setattr(backend.common.tap, "open_tap", open_tap)

    async def play() -> tuple[int, int]:
        early = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(supervisor.receive_tap())))
        await asyncio.sleep(0.05)
        listener = process.listen(taps, "somebody")
        giver = asyncio.create_task(process._hand_out(listener))
        first = await early
        second = await asyncio.to_thread(lambda: asyncio.run(supervisor.receive_tap()))
        giver.cancel()
        listener.close()
        return first, second

    received = asyncio.run(play())
    assert taps.stat().st_mode & 0o777 == 0o660
    assert [name for name, _ in opened] == ["access0"] * 2
    assert {os.fstat(descriptor).st_ino for descriptor in received} == {(tmp_path / "tap").stat().st_ino}
    assert sum(entry.resolve() == tmp_path / "tap" for entry in Path("/proc/self/fd").iterdir()) == 2
    for descriptor in received:
        os.close(descriptor)


def test_a_tap_that_cannot_be_opened_is_logged_and_asked_for_again(
    taps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Busy while the predecessor of a VM that was killed still holds it."""
    answers = iter([OSError("tap access0: Device or resource busy"), None])

    def open_tap(_name: str) -> int:
        if (answer := next(answers)) is not None:
            raise answer
        return os.open(tmp_path / "tap", os.O_CREAT | os.O_RDWR)

    monkeypatch.setattr(backend.common.tap, "open_tap", open_tap)

    async def play() -> int:
        listener = process.listen(taps, "somebody")
        giver = asyncio.create_task(process._hand_out(listener))
        with pytest.raises(OSError, match="0 file descriptors"):
            await asyncio.to_thread(lambda: asyncio.run(supervisor.receive_tap()))
        received = await asyncio.to_thread(lambda: asyncio.run(supervisor.receive_tap()))
        giver.cancel()
        listener.close()
        return received

    os.close(asyncio.run(play()))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == "QEMU asked for the VM's tap and did not get it: tap access0: Device or resource busy"


def test_a_forwarder_that_gives_nothing_is_an_error(taps: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(taps))
        listener.listen()

        async def play() -> int:
            receiver = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(supervisor.receive_tap())))
            peer, _ = await asyncio.to_thread(listener.accept)
            peer.close()
            return await receiver

        with pytest.raises(OSError, match="0 file descriptors"):
            asyncio.run(play())


@pytest.mark.parametrize("error", [FileNotFoundError, ConnectionRefusedError, PermissionError])
def test_a_forwarder_that_is_not_ready_is_asked_again_until_the_deadline(
    taps: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """PermissionError: between bind(2) and chown(2), the socket is there and not yet ours to use."""
    asked: list[str] = []

    class Client(socket.socket):
        def connect(self, address: object) -> None:
            asked.append(str(address))
            raise error("not yet")

    monkeypatch.setattr(socket, "socket", Client)
    monkeypatch.setattr(supervisor, "TAPS_DEADLINE_S", 0.15)
    with pytest.raises(error):
        asyncio.run(supervisor.receive_tap())
    assert len(asked) >= 2
