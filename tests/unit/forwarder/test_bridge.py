"""Way ``bridge``: the port's counters, up and down, and its process, with scripts in the places of ip(8) and nft(8)."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backend.forwarder import bridge, control, process
from backend.protocol.port import Counter, Port, Ports
from tests.unit.forwarder.rig import settings

LINK: dict[str, Any] = {
    "ifindex": 2,
    "ifname": "mgmt0",
    "flags": ["BROADCAST", "NOARP", "UP", "LOWER_UP"],
    "mtu": 1500,
    "address": "52:54:00:12:34:56",
    "stats64": {
        "rx": {"bytes": 1000, "packets": 10, "errors": 0, "dropped": 0, "over_errors": 0, "multicast": 0},
        "tx": {"bytes": 2000, "packets": 2**40, "errors": 0, "dropped": 0, "carrier_errors": 0, "collisions": 0},
    },
}
RULES: dict[str, Any] = {
    "nftables": [
        {"metainfo": {"version": "1.1.3", "release_name": "Commodore Bullmoose #4", "json_schema_version": 1}},
        {
            "counter": {
                "family": "bridge",
                "name": "rx_passed",
                "table": "port",
                "handle": 2,
                "packets": 5,
                "bytes": 500,
            }
        },
        {"counter": {"family": "bridge", "name": "to_host", "table": "port", "handle": 3, "packets": 0, "bytes": 0}},
    ]
}


class Machine:
    """What ip and nft print, and what the port was told."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ip(json.dumps([LINK]))
        self.nft(json.dumps(RULES))

    def _program(self, name: str, words: str, output: str, status: int) -> None:
        (self._directory / f"{name}.out").write_text(output)
        file = self._directory / name
        file.write_text(
            f'#!/bin/sh\ncase "$*" in "{words}") ;; '
            f'"link set mgmt0 "*) echo "${{4}}" >>{self._directory}/told; exec true ;; '
            '*) echo "unexpected: $*" >&2; exit 99 ;; esac\n'
            f"cat {file}.out; [ {status} = 0 ] || echo 'it is broken' >&2; exit {status}\n"
        )
        file.chmod(0o755)

    @property
    def told(self) -> list[str]:
        """States that the port was given, in order."""
        file = self._directory / "told"
        return file.read_text().split() if file.exists() else []

    def ip(self, output: str, status: int = 0) -> None:
        self._program("ip", "-json -statistics link show dev mgmt0", output, status)

    def nft(self, output: str, status: int = 0) -> None:
        self._program("nft", "-json list counters", output, status)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Machine(directory)


EXPECTED = Port(
    name="mgmt0",
    mac="52:54:00:12:34:56",
    carrier=True,
    rx_frames=10,
    rx_bytes=1000,
    tx_frames=2**40,
    tx_bytes=2000,
    way="bridge",
    vm="tap",
    vm_up=True,
    verdicts=[Counter(name="rx_passed", frames=5, bytes=500), Counter(name="to_host", frames=0, bytes=0)],
    faults=[],
)


def read_port() -> Port:
    async def read() -> Port:
        try:
            return await bridge.read_port()
        finally:  # where one command failed, the other may still run
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    return asyncio.run(read())


def test_counters_are_those_of_the_port_and_of_the_verdicts(machine: Machine) -> None:
    assert read_port() == EXPECTED


def test_no_carrier_is_seen(machine: Machine) -> None:
    machine.ip(json.dumps([LINK | {"flags": ["NO-CARRIER", "BROADCAST", "UP"]}]))
    assert not read_port().carrier


NEGATIVE = {"rx": {"bytes": -1, "packets": 0}, "tx": {"bytes": 0, "packets": 0}}


@pytest.mark.parametrize(
    "output",
    ["", "Device does not exist", "{}", "[]", "[{}]", "null", json.dumps([LINK | {"stats64": NEGATIVE}]), "\xff"],
)
def test_garbage_of_ip_is_a_decode_error(machine: Machine, output: str) -> None:
    machine.ip(output)
    with pytest.raises(msgspec.DecodeError):
        read_port()


def rules(**changes: object) -> str:
    counter = {"name": "rx_passed", "packets": 5, "bytes": 500} | changes
    return json.dumps({"nftables": [{"counter": {key: value for key, value in counter.items() if value is not None}}]})


@pytest.mark.parametrize(
    "output",
    [
        "",
        "[]",
        '{"nftables": 1}',
        '{"nftables": [1]}',
        '{"nftables": [{"counter": 1}]}',
        rules(name=None),
        rules(packets=None),
        rules(packets="5"),
        rules(bytes=-1),
        rules(name=7),
    ],
)
def test_garbage_of_nft_is_a_decode_error(machine: Machine, output: str) -> None:
    machine.nft(output)
    with pytest.raises(msgspec.DecodeError):
        read_port()


@pytest.mark.parametrize("program", ["ip", "nft"])
def test_a_command_that_fails_is_an_error_with_its_words(machine: Machine, program: str) -> None:
    getattr(machine, program)("", status=1)
    with pytest.raises(OSError, match=f"^{program} -json .*: it is broken$"):
        read_port()


def test_the_port_is_brought_up_and_down(machine: Machine) -> None:
    asyncio.run(bridge.open_port())
    assert machine.told == ["up"]
    asyncio.run(bridge.close_port())
    assert machine.told == ["up", "down"]


def test_a_port_that_cannot_be_brought_up_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "PORT", "mgmt1")
    with pytest.raises(OSError, match=r"^ip link set mgmt1 up: unexpected"):
        asyncio.run(bridge.open_port())


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Path]:
    """The forwarder in this process, with datapath ``bridge``; gives its status socket, ends it as systemd does."""
    (directory / "port.json").write_bytes(msgspec.json.encode(settings(port="bridge", tags=0)))
    group = grp.getgrgid(os.getgid()).gr_name
    task = asyncio.create_task(process.serve(process.Places(directory, directory / "port.json", group, group)))
    try:
        async with asyncio.timeout(10):
            while not (directory / "taps.sock").exists():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)
        yield directory / "status.sock"
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()


async def ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    answer = await reader.read()
    writer.close()
    return answer


def test_the_process_answers_while_the_port_is_up_and_leaves_it_down(machine: Machine, tmp_path: Path) -> None:
    async def play() -> bytes:
        async with serving(tmp_path) as status:
            assert machine.told == ["up"]
            assert status.stat().st_mode & 0o777 == 0o660
            return await ask(status)

    assert msgspec.json.decode(asyncio.run(play()), type=Ports) == Ports(ports=[EXPECTED])
    assert machine.told == ["up", "down"]


@pytest.mark.parametrize("output", ["[]", "garbage"])
def test_who_connects_while_counters_cannot_be_read_gets_nothing_and_the_log_says_why(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture, output: str
) -> None:
    machine.ip(output)

    async def play() -> tuple[bytes, bytes]:
        async with serving(tmp_path) as status:
            nothing = await ask(status)
            machine.ip(json.dumps([LINK]))
            return nothing, await ask(status)

    nothing, something = asyncio.run(play())
    assert (nothing, bool(something)) == (b"", True)
    assert [record.name for record in caplog.records] == ["forwarder"]
    assert caplog.records[0].getMessage().startswith("the port's counters cannot be read")


def test_root_may_ask_for_counters_and_is_told_that_there_is_no_capture(machine: Machine, tmp_path: Path) -> None:
    async def play() -> list[control.Answer]:
        async with serving(tmp_path):
            assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o600
            asks = control.StatusAsk(), control.CaptureStart(), control.CaptureStop()
            return [await control.ask(request, tmp_path) for request in asks]

    status, start, stop = asyncio.run(play())
    assert status == control.Answer(port=EXPECTED)
    assert "datapath `bridge` has no capture" in start.problem
    assert stop.problem == "no capture is running"
    assert not list(tmp_path.glob("capture*"))
