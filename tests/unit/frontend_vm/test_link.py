"""The link: heartbeat, loss and return of the backend, replay, and whom the front-end believes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest

from frontend_vm import app, link, log
from frontend_vm.link import Unreachable
from frontend_vm.protocol.base import Done
from frontend_vm.protocol.refusal import Refused
from frontend_vm.protocol.system import HostnameSet
from frontend_vm.protocol.vm import Heartbeat
from frontend_vm.settings import Settings, load_settings
from tests.unit.frontend_vm.keys import make_configuration
from tests.unit.frontend_vm.rig import error_code, running, until


def test_heartbeats_come_as_long_as_the_web_listens(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HEARTBEAT_INTERVAL", 0.05)

    async def scenario() -> None:
        async with running(configuration) as rig:
            await until(lambda: rig.backend.heartbeats >= 4)
            monkeypatch.setattr(app, "is_listening", lambda listener: False)
            await asyncio.sleep(0.1)
            stopped = rig.backend.heartbeats
            await asyncio.sleep(0.3)
            assert rig.backend.heartbeats == stopped

    asyncio.run(scenario())


def test_backend_away_is_said_and_its_return_noticed(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration, backend_up=False) as rig:
            assert json.loads((await rig.call("GET", "/api/v1/health")).body) == {"backend": False}
            response = await rig.log_in()
            assert (response.code, error_code(response)) == (503, "unreachable")
            await rig.backend.start()
            await until(lambda: rig.frontend.link.up)
            assert json.loads((await rig.call("GET", "/api/v1/health")).body) == {"backend": True}
            assert (await rig.log_in()).code == 200
            rig.backend.stop()
            await until(lambda: not rig.frontend.link.up)
            response = await rig.call("GET", "/api/v1/status")
            assert (response.code, error_code(response)) == (503, "unreachable")
            await rig.backend.start()
            await until(lambda: rig.frontend.link.up)
            assert (await rig.call("GET", "/api/v1/status")).code == 200, "the session outlives the connection"

    asyncio.run(scenario())


def test_silent_backend_is_given_up(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "REQUEST_TIMEOUT", 0.2)

    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.silent = True
            response = await rig.log_in()
            assert (response.code, error_code(response)) == (503, "unreachable")
            rig.backend.silent = False
            await until(lambda: rig.frontend.link.up)
            assert (await rig.log_in()).code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "junk",
    [b"\xff\xfe\n", b"[" * 3000 + b"\n", b"x" * 5000, b'{"seq":1,"result":{"type":"done","more":1}}\n', b"half", b"\n"],
)
def test_junk_from_the_backend_costs_the_connection_only(configuration: Path, junk: bytes) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.junk = junk
            response = await rig.log_in()
            assert (response.code, error_code(response)) == (503, "unreachable")
            rig.backend.junk = b""
            await until(lambda: rig.frontend.link.up)
            assert (await rig.log_in()).code == 200

    asyncio.run(scenario())


def test_clock_that_went_back_is_overcome(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            ahead = time.time_ns() + 10**15
            rig.backend.last_seq = ahead
            assert (await rig.log_in()).code == 200
            assert (await rig.call("GET", "/api/v1/status")).code == 200
            assert rig.backend.last_seq > ahead

    asyncio.run(scenario())


def test_endless_replay_is_not_retried_for_ever(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.last_seq = 2**63 - 1
            with pytest.raises((Refused, Unreachable)):
                await rig.frontend.link.ask(Heartbeat(), Done)

    asyncio.run(scenario())


def test_pipelined_requests_get_their_own_replies(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            paths = ["/api/v1/status", "/api/v1/ports"] * 8
            responses = await asyncio.gather(*(rig.call("GET", path) for path in paths))
            kinds = [json.loads(response.body)["type"] for response in responses]
            assert kinds == ["status", "ports"] * 8

    asyncio.run(scenario())


def test_what_the_schema_forbids_is_not_sent(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            with pytest.raises(Refused, match="hostname"):
                await rig.frontend.link.ask(HostnameSet(hostname="Not A Name"), Done)
            assert rig.backend.requests == []

    asyncio.run(scenario())


def test_pending_requests_are_bounded(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.silent = True
            asks = [asyncio.create_task(rig.frontend.link.ask(Heartbeat(), Done)) for _ in range(link.MAX_PENDING + 5)]
            await asyncio.sleep(0.05)
            refused = [task for task in asks if task.done()]
            assert 5 <= len(refused) <= 6  # the link's own heartbeat may be among the pending
            assert all(isinstance(task.exception(), Refused) for task in refused)
            for task in asks:
                task.cancel()

    asyncio.run(scenario())


def test_backend_with_another_key_is_not_believed(configuration: Path, tmp_path: Path) -> None:
    make_configuration(tmp_path)  # the same names, other keys
    (tmp_path / "link.crt").write_bytes((configuration / "link.crt").read_bytes())

    async def scenario() -> None:
        async with running(configuration) as rig:
            impostor = type(rig.backend)(tmp_path)
            impostor.port = rig.backend.port
            rig.backend.stop()
            await impostor.start()
            try:
                await asyncio.sleep(0.8)  # several attempts
                assert not rig.frontend.link.up
                assert impostor.heartbeats == 0
                assert (await rig.log_in()).code == 503
                assert impostor.requests == []
            finally:
                impostor.stop()

    asyncio.run(scenario())


def test_log_is_bounded_and_printable() -> None:
    now = [0.0]
    limit = log.RateLimit(lambda: now[0])
    record = logging.LogRecord("api", logging.INFO, "", 0, "bad \x1b[2J\n%s", ("\u202e",), None)
    assert sum(bool(limit.filter(record)) for _ in range(400)) == log.BURST == 40
    assert log.OneLine().format(record) == "info api: bad ?[2J??"
    now[0] += 1 / log.RATE
    assert limit.filter(record)
    assert log.OneLine().format(record) == "info api: bad ?[2J?? [360 lines before this were dropped]"
    assert not limit.filter(record)


def test_settings_are_checked(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()
    (tmp_path / "settings.json").write_text('{"web_port": 70000}')
    with pytest.raises(ValueError, match=r"settings\.json: .*web_port"):
        load_settings(tmp_path)
    (tmp_path / "settings.json").write_text('{"addresses": ["192.168.42.1"], "access_interface": "access"}')
    assert load_settings(tmp_path).addresses == ("192.168.42.1",)
