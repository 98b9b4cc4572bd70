"""The management port's counters, with scripts in the places of ip(8) and nft(8)."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backend import port
from backend.instructions import Counter, Port, Ports

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
    """What ip and nft print."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ip(json.dumps([LINK]))
        self.nft(json.dumps(RULES))

    def _program(self, name: str, words: str, output: str, status: int) -> None:
        (self._directory / f"{name}.out").write_text(output)
        file = self._directory / name
        file.write_text(
            f'#!/bin/sh\n[ "$*" = "{words}" ] || {{ echo "unexpected: $*" >&2; exit 99; }}\n'
            f"cat {file}.out; [ {status} = 0 ] || echo 'it is broken' >&2; exit {status}\n"
        )
        file.chmod(0o755)

    def ip(self, output: str, status: int = 0) -> None:
        self._program("ip", "-json -statistics link show dev mgmt0", output, status)

    def nft(self, output: str, status: int = 0) -> None:
        self._program("nft", "-json list counters table bridge port", output, status)


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
    verdicts=[Counter(name="rx_passed", frames=5, bytes=500), Counter(name="to_host", frames=0, bytes=0)],
)


def read_ports() -> Ports:
    async def read() -> Ports:
        try:
            return await port.read_ports()
        finally:  # where one command failed, the other may still run
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    return asyncio.run(read())


def test_counters_are_those_of_the_port_and_of_the_verdicts(machine: Machine) -> None:
    assert read_ports() == Ports(ports=[EXPECTED])


def test_no_carrier_is_seen(machine: Machine) -> None:
    machine.ip(json.dumps([LINK | {"flags": ["NO-CARRIER", "BROADCAST", "UP"]}]))
    assert not read_ports().ports[0].carrier


NEGATIVE = {"rx": {"bytes": -1, "packets": 0}, "tx": {"bytes": 0, "packets": 0}}


@pytest.mark.parametrize(
    "output",
    ["", "Device does not exist", "{}", "[]", "[{}]", "null", json.dumps([LINK | {"stats64": NEGATIVE}]), "\xff"],
)
def test_garbage_of_ip_is_a_decode_error(machine: Machine, output: str) -> None:
    machine.ip(output)
    with pytest.raises(msgspec.DecodeError):
        read_ports()


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
        read_ports()


@pytest.mark.parametrize("program", ["ip", "nft"])
def test_a_command_that_fails_is_an_error_with_its_words(machine: Machine, program: str) -> None:
    getattr(machine, program)("", status=1)
    with pytest.raises(OSError, match=f"^{program} -json .*: it is broken$"):
        read_ports()


async def ask(path: Path) -> bytes:
    server = await asyncio.start_unix_server(port._answer_status, str(path))
    async with server:
        reader, writer = await asyncio.open_unix_connection(str(path))
        answer = await reader.read()
        writer.close()
    return answer


def test_who_connects_gets_one_document(machine: Machine, tmp_path: Path) -> None:
    answer = asyncio.run(ask(tmp_path / "status.sock"))
    assert msgspec.json.decode(answer, type=Ports) == Ports(ports=[EXPECTED])


@pytest.mark.parametrize("output", ["[]", "garbage"])
def test_who_connects_while_counters_cannot_be_read_gets_nothing_and_the_log_says_why(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture, output: str
) -> None:
    machine.ip(output)
    assert asyncio.run(ask(tmp_path / "status.sock")) == b""
    assert [record.name for record in caplog.records] == ["port"]
    assert caplog.records[0].getMessage().startswith("counters: ")
