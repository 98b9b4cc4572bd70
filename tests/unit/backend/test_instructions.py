"""What the instructions do, through the link, on a host in a folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backend.common import heartbeat, store, vm_state
from backend.daemon import host_status
from backend.daemon.public_identity import PresentedIdentity, PublicIdentity
from backend.daemon.settings import Settings
from backend.forwarder import counters
from backend.protocol.base import Done, Error
from backend.protocol.codec import Reply, encode
from backend.protocol.instructions import AnyInstruction
from backend.protocol.port import Counter, Fault, Port, Ports, PortsList
from backend.protocol.session import PasswordSet, Session, SessionClose, SessionOpen
from backend.protocol.system import AuditLog, HostnameSet, Status, StatusGet, SystemReboot
from backend.protocol.vm import Certificate, CertificateGet, Heartbeat
from rootfs.base.version import PROJECT
from tests.unit.backend.certificates import web_certificate
from tests.unit.backend.conftest import started
from tests.unit.backend.rig import NEW_PASSWORD, Rig, read_audit, run, running, until

pytestmark = pytest.mark.usefixtures("cheap_hash")

START_ID = "0f" * 16
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
PORT = Port(
    name="mgmt0",
    mac="52:54:00:00:00:01",
    carrier=True,
    rx_frames=7,
    rx_bytes=700,
    tx_frames=3,
    tx_bytes=300,
    way="ring",
    vm="vhost-user",
    vm_up=True,
    verdicts=[Counter("rx_passed", 7, 700)],
    faults=[Fault("legacy", 1)],
)


@contextlib.asynccontextmanager
async def port_process(settings: Settings, answer: bytes, *, hang: bool = False) -> AsyncIterator[list[int]]:
    """The port process' status socket; gives the list of answers it gave."""
    answers: list[int] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(len(answer))
        writer.write(answer)
        if hang:
            await asyncio.sleep(30)
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, settings.port_status)
    try:
        yield answers
    finally:
        server.close()


@contextlib.asynccontextmanager
async def root_unit(rig: Rig) -> AsyncIterator[None]:
    """The root unit that puts a requested host name in force."""
    request = rig.settings.request / "hostname"

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.01)
            if request.exists():
                rig.hostname = request.read_text().strip()
                request.unlink()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


AUDIT = AuditLog("broken", "x" * 120, 2**63, "0" * 64)


def assert_error(result: Any, code: str) -> Error:
    assert isinstance(result, Error)
    assert result.code == code
    return result


@pytest.mark.instruction("status.get")
def test_status_tells_the_host_as_it_is(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            state = vm_state.VmState("running", "kvm", "a trial guest ran", 2, START_ID, time.monotonic() - 5, "killed")
            vm_state.write(settings.vm_state, state)
            client, token = await rig.operator()
            status = await client.ask(StatusGet(), token)
            assert isinstance(status, Status)
            assert (status.hostname, status.product, status.version) == ("sallyport", "Sallyport", "0.1.0")
            assert (status.profile, status.engine, status.image) == ("qemu-x86_64", "debian", "5a" * 32)
            assert status.boot_id == BOOT_ID
            assert 0 < status.memory_available < status.memory_total
            assert 0 < status.data_available <= status.data_total
            assert status.uptime_s > 0
            assert status.machine.accelerator == "kvm"
            assert status.machine.starts == 2
            assert 5.0 <= status.machine.uptime_s < 15.0

    run(test())


@pytest.mark.instruction("certificate.get")
def test_the_certificate_is_everybodys_and_a_new_one_is_shown(settings: Settings) -> None:
    """The VM asks while nobody is logged in. What the console shows is the host's file, not what the VM would like."""
    first, second = (web_certificate(name) for name in ("first", "second"))

    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            assert_error(await client.ask(CertificateGet()), "failed")
            rig.console.clear()
            for pem in (first, second):
                settings.identity.write_bytes(msgspec.json.encode(PublicIdentity(certificate=pem, ssh="SHA256:abc")))
                for _ in range(2):
                    assert await client.ask(CertificateGet()) == Certificate(pem)
                status = await client.ask(StatusGet(), token)
                assert (status.web_fingerprint[:48], status.ssh_fingerprint) == (rig.console[2].strip(), "SHA256:abc")
                assert len(rig.console) == 5
                rig.console.clear()
            assert not rig.audit(instruction="certificate.get", outcome="ok")

    run(test())


def test_a_new_vm_voids_the_sessions_of_the_old_one(settings: Settings) -> None:
    """Tokens that somebody harvested in a VM that was taken over end with that VM, whatever its number."""

    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            # It runs now; then the supervisor's unit is started anew, and counts from one again.
            started(settings.vm_state)
            assert isinstance(await client.ask(StatusGet(), token), Status)
            started(settings.vm_state, "a5" * 16)
            assert_error(await client.ask(StatusGet(), token), "denied")
            assert isinstance(await client.login(rig.first_password), Session)

    run(test())


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[" * 4000, b"x" * 10000])
def test_sessions_end_when_nobody_can_say_which_vm_runs(settings: Settings, content: bytes | None) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            assert isinstance(await client.ask(StatusGet(), token), Status)
            if content is None:
                settings.vm_state.unlink()
            else:
                settings.vm_state.write_bytes(content)
            assert_error(await client.ask(StatusGet(), token), "denied")
            assert "which front-end VM" in assert_error(await client.login(rig.first_password), "failed").message
            started(settings.vm_state)
            assert_error(await client.ask(StatusGet(), token), "denied")
            assert isinstance(await client.login(rig.first_password), Session)

    run(test())


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"state":"evil"}', b"[" * 4000, b"x" * 10000])
def test_status_survives_a_missing_or_broken_vm_state(settings: Settings, content: bytes | None) -> None:
    settings.vm_state.unlink()
    if content is not None:
        settings.vm_state.write_bytes(content)
    found = host_status.HostStatus(settings, PresentedIdentity(settings.identity, print)).get(AUDIT).machine
    assert (found.state, found.accelerator, found.accelerator_reason) == ("starting", "tcg", "not known yet")


def test_a_machine_state_with_endless_texts_still_fits_in_a_message(settings: Settings) -> None:
    state = vm_state.VmState("running", "tcg", "\x01" * 5000, 1, START_ID, 0.0, "\x01" * 5000)
    vm_state.write(settings.vm_state, state)
    status = host_status.HostStatus(settings, PresentedIdentity(settings.identity, print)).get(AUDIT)
    assert status.machine.accelerator_reason == status.machine.last_exit == "\x01" * 200
    assert encode(Reply(1, status))


@pytest.mark.instruction("ports.list")
def test_ports_are_asked_from_the_port_process_once_for_many(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            other = await rig.connect()
            ports = Ports([PORT])
            async with port_process(settings, msgspec.json.encode(ports)) as answers:
                assert await client.ask(PortsList(), token) == ports
                assert await other.ask(PortsList(), token) == ports
                assert len(answers) == 1
                await asyncio.sleep(0.55)
                assert await other.ask(PortsList(), token) == ports
                assert len(answers) == 2

    run(test())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b'{"type":"ports","ports":[]}' + b" " * 70000,
        b"[" * 5000,
        b'{"type":"ports","ports":[{"name":1}]}',
        b'{"type":"ports","ports":[],"x":1}',
    ],
    ids=["nothing", "empty", "too long", "deep", "wrong type", "extra field"],
)
def test_a_port_process_that_talks_nonsense_is_an_error(settings: Settings, answer: bytes) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            async with port_process(settings, answer):
                assert_error(await client.ask(PortsList(), token), "failed")
            async with port_process(settings, msgspec.json.encode(Ports([PORT]))):
                assert isinstance(await client.ask(PortsList(), token), Ports)

    run(test())


def test_a_port_process_that_hangs_or_is_gone_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.daemon.port_status.DEADLINE_S", 0.1)

    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            assert_error(await client.ask(PortsList(), token), "failed")
            async with port_process(settings, b'{"type":', hang=True):
                assert_error(await client.ask(PortsList(), token), "failed")

    run(test())


def test_the_largest_honest_answer_of_the_forwarder_fits_in_a_message(settings: Settings) -> None:
    """All verdicts and all faults there are, each counted as high as 64 bits go, and the longest words elsewhere."""
    most = 2**64 - 1
    header = (PROJECT / "backend/forwarder/core/vhost_fault.h").read_text()
    faults = [Fault(name, most) for name in re.findall(r'X\(FAULT_\w+, "(\w+)"', header) if name != "none"]
    counts = tuple(((most, most),) * len(counters.VERDICTS) for _ in counters.DIRECTIONS)
    numbers = dict.fromkeys(("rx_frames", "rx_bytes", "tx_frames", "tx_bytes"), most)
    port = Port(
        name="m" * 15,  # IFNAMSIZ - 1 (linux/if.h)
        mac="52:54:00:00:00:01",
        carrier=False,
        way="bridge",
        vm="vhost-user",
        vm_up=False,
        verdicts=counters.named(counts),
        faults=faults,
        **numbers,
    )
    line = encode(Reply(2**63 - 1, Ports([port])))
    assert 3000 < len(line) < 3800  # as the comment at MAX_LINE says

    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            async with port_process(settings, msgspec.json.encode(Ports([port]))):
                assert await client.ask(PortsList(), token) == Ports([port])

    run(test())


def test_more_ports_than_fit_in_a_message_is_an_error(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            async with port_process(settings, msgspec.json.encode(Ports([PORT] * 50))):
                assert_error(await client.ask(PortsList(), token), "failed")
                assert isinstance(await client.ask(StatusGet(), token), Status)

    run(test())


@pytest.mark.instruction("hostname.set")
def test_a_host_name_is_stored_and_in_force_when_the_answer_comes(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig, root_unit(rig):
            client, token = await rig.operator()
            assert await client.ask(HostnameSet("gate-7"), token) == Done()
            assert rig.hostname == "gate-7"
            assert (settings.data / "hostname").read_bytes() == b"gate-7\n"
            entries = rig.audit(instruction="hostname.set", peer="https 192.0.2.7")
            assert [entry["outcome"] for entry in entries] == ["begun", "ok"]
            assert entries[-1]["detail"] == "gate-7"

    run(test())


def test_a_host_name_that_nobody_applies_fails_after_the_deadline(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, hostname_s=0.2)) as rig:
            client, token = await rig.operator()
            assert_error(await client.ask(HostnameSet("gate-8"), token), "failed")
            assert [entry["outcome"] for entry in rig.audit(instruction="hostname.set")] == ["begun", "failed"]

    run(test())


def test_an_unexpected_error_is_told_without_details(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            settings.request.rmdir()
            error = assert_error(await client.ask(HostnameSet("gate-9"), token), "failed")
            assert str(settings.request) not in error.message
            assert [entry["outcome"] for entry in rig.audit(instruction="hostname.set")] == ["begun", "failed"]
            assert isinstance(await client.ask(StatusGet(), token), Status)

    run(test())


@pytest.mark.instruction("system.reboot")
def test_a_reboot_is_audited_and_answered_before_it_is_asked_for(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, reboot_delay_s=0.2)) as rig:
            client, token = await rig.operator()
            assert await client.ask(SystemReboot(), token) == Done()
            assert not (settings.request / "reboot").exists()
            assert [entry["outcome"] for entry in rig.audit(instruction="system.reboot")] == ["begun", "ok"]
            await until((settings.request / "reboot").exists)

    run(test())


def test_a_promised_reboot_is_not_forgotten_when_the_daemon_is_stopped(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, reboot_delay_s=60.0)) as rig:
            client, token = await rig.operator()
            assert await client.ask(SystemReboot(), token) == Done()
        assert (settings.request / "reboot").exists()

    run(test())


@pytest.mark.instruction("vm.heartbeat")
def test_heartbeats_reach_the_supervisor_and_need_none(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            before = time.monotonic()
            client = await rig.connect()
            after = time.monotonic()
            assert await client.ask(Heartbeat()) == Done()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
                supervisor.bind(str(settings.heartbeat))
                supervisor.settimeout(5)
                assert await client.ask(Heartbeat()) == Done()
                connected_at = heartbeat.decode(supervisor.recv(100))
                assert connected_at is not None
                assert before < connected_at < after
                # A supervisor that does not read: its queue fills, nobody waits for it.
                for _ in range(300):
                    assert await client.ask(Heartbeat()) == Done()
            assert await client.ask(Heartbeat()) == Done()
            assert not rig.audit(instruction="vm.heartbeat")

    run(test())


@pytest.mark.parametrize(
    "do",
    [
        StatusGet(),
        PortsList(),
        HostnameSet("x"),
        PasswordSet(old="x", new=NEW_PASSWORD),
        SystemReboot(),
        SessionClose(),
    ],
    ids=lambda do: type(do).__name__,
)
@pytest.mark.instruction("session.close")
def test_without_a_session_nothing_happens(settings: Settings, do: AnyInstruction) -> None:
    async def test() -> None:
        async with running(replace(settings, reboot_delay_s=0.02)) as rig:
            client, token = await rig.operator()
            before = sorted(path.name for path in settings.request.iterdir())
            for wrong in None, "A" * 43, token[:-1] + ("A" if token[-1] != "A" else "B"):
                assert_error(await client.ask(do, wrong), "denied")
            assert await client.ask(SessionClose(), token) == Done()
            assert_error(await client.ask(do, token), "denied")
            await asyncio.sleep(0.05)
            assert sorted(path.name for path in settings.request.iterdir()) == before
            assert not (settings.data / "hostname").exists()
            assert len(rig.audit(instruction=str(do.__struct_config__.tag), outcome="denied")) == 4

    run(test())


@pytest.mark.instruction("session.open")
def test_logins_are_audited_and_slowed_for_all_connections(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            clients = [await rig.connect() for _ in range(3)]
            # Side by side, so that they would slip past a check that is not serialised.
            results = await asyncio.gather(*(client.login("wrong") for client in clients))
            assert [result.code for result in results] == ["denied"] * 3
            for client in clients:
                limited = assert_error(await client.login(rig.first_password), "limited")
                assert 0.0 < limited.retry_after_s <= 1.0
            # Whoever comes from elsewhere does not wait, whichever name is guessed at.
            assert_error(await clients[0].login(rig.first_password, user="root", address="192.0.2.8"), "denied")
            await asyncio.sleep(limited.retry_after_s)
            assert isinstance(await clients[0].login(rig.first_password), Session)
            outcomes = [entry["outcome"] for entry in rig.audit(instruction="session.open")]
            assert outcomes == ["denied"] * 3 + ["limited"] * 3 + ["denied", "ok"]
            assert rig.audit(instruction="session.open")[-1]["peer"] == "https 192.0.2.7"

    run(test())


@pytest.mark.parametrize(
    "do", [HostnameSet("x"), SessionOpen(user="admin", password="wrong", service="ssh", address="::")]
)
def test_who_is_not_let_in_cannot_fill_the_audit_log(settings: Settings, do: AnyInstruction) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, _ = await rig.operator()
            for _ in range(80):
                assert isinstance(await client.ask(do), Error)
            assert 50 <= len(rig.audit()) <= 58
        assert rig.audit(event="audit.summary")[0]["suppressed"] >= 26

    run(test())


def test_logins_in_parallel_do_not_slip_past_the_slow_down(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            clients = [await rig.connect() for _ in range(8)]
            results = await asyncio.gather(*(client.login("wrong") for client in clients))
            assert sorted(result.code for result in results) == ["denied"] * 3 + ["limited"] * 5

    run(test())


@pytest.mark.instruction("password.set")
def test_a_new_password_ends_other_sessions_and_survives_a_restart(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            first = rig.first_password
            other = (await client.login(first)).token
            assert_error(await client.ask(PasswordSet(old="wrong", new=NEW_PASSWORD), token), "denied")
            assert await client.ask(PasswordSet(old=first, new=NEW_PASSWORD), token) == Done()
            assert isinstance(await client.ask(StatusGet(), token), Status)
            assert_error(await client.ask(StatusGet(), other), "denied")
        async with running(settings) as rig:
            assert rig.console == []
            client = await rig.connect()
            assert_error(await client.login(first), "denied")
            assert isinstance(await client.login(NEW_PASSWORD), Session)
        log = json.dumps(read_audit(settings.data)) + (settings.data / "credential.json").read_text()
        for secret in first, NEW_PASSWORD, token, other, 'wrong"':
            assert secret not in log

    run(test())


@pytest.mark.parametrize("address", ["1.2.3", "::1::", "1:2", "..", "fe80::1:2:3:4:5:6:7:8", "01.2.3.4"])
def test_a_peer_that_is_no_address_is_refused(settings: Settings, address: str) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            assert_error(await client.login(rig.first_password, address=address), "malformed")
            assert isinstance(await client.login(rig.first_password), Session)

    run(test())


def test_a_wrong_old_password_counts_as_a_failed_login(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            change = PasswordSet(old="wrong", new=NEW_PASSWORD)
            for code in "denied", "denied", "denied", "limited":
                assert_error(await client.ask(change, token), code)
            assert_error(await client.login(rig.first_password), "limited")
            assert isinstance(await client.login(rig.first_password, address="192.0.2.8"), Session)

    run(test())


def test_changes_are_limited(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, change_burst=4.0, change_rate=0.01)) as rig, root_unit(rig):
            client, token = await rig.operator()
            for number in range(4):
                assert await client.ask(HostnameSet(f"n{number}"), token) == Done()
            assert assert_error(await client.ask(HostnameSet("n4"), token), "limited").retry_after_s > 1.0
            assert isinstance(await client.ask(StatusGet(), token), Status)
            assert rig.hostname == "n3"

    run(test())


def test_a_full_disk_takes_neither_the_daemon_nor_the_reboot_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async def test() -> None:
        async with running(settings) as rig:
            client, token = await rig.operator()
            with monkeypatch.context() as broken:
                broken.setattr("backend.daemon.ring.Ring.append", full)
                broken.setattr("backend.common.store.replace", full)
                assert_error(await client.ask(HostnameSet("x"), token), "failed")
                assert isinstance(await client.ask(StatusGet(), token), Status)
            assert await client.ask(SystemReboot(), token) == Done()
            # What was lost: that it began, and that it failed.
            assert rig.audit(instruction="system.reboot", outcome="begun")[0]["lost"] == 2

    run(test())


def test_the_stored_files_are_private(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig, root_unit(rig):
            client, token = await rig.operator()
            await client.ask(HostnameSet("x"), token)

    run(test())
    modes = {path.name: path.stat().st_mode & 0o777 for path in settings.data.iterdir()}
    assert modes == {"credential.json": 0o600, "hostname": 0o600, "audit": 0o700}
    assert {path.stat().st_mode & 0o777 for path in (settings.data / "audit").iterdir()} == {0o600}


def test_the_credential_file_has_its_promised_form(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            assert json.loads(store.read(settings.data / "credential.json", 4096))["used"] is False
            await rig.operator()
            stored = json.loads(store.read(settings.data / "credential.json", 4096))
            assert stored.keys() == {"salt", "hash", "n", "r", "p", "used"}
            assert stored["used"] is True

    run(test())
