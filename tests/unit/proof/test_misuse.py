"""The attacks on the instruction protocol, against the real backend and against ones that were broken on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backend.daemon.main import Daemon
from backend.daemon.server import LinkServer
from backend.daemon.sessions import OpenSession, Sessions
from backend.daemon.settings import Settings
from backend.daemon.throttle import SlowDown
from backend.daemon.validator import RequestValidator
from backend.protocol.instructions import AnyInstruction
from backend.protocol.peers import UNKNOWN
from proof.inside import misuse
from proof.inside.misuse import ATTACKS, Report, judge, plan, run_misuse
from proof.remote_answer import framed
from proof.result import Result, Verdict
from rootfs.base.errors import SallyportError
from tests.unit.backend.certificates import make_link_keys
from tests.unit.backend.conftest import started

GOOD = Report(before=0.1, after=0.2, tried=3, counts={"malformed": 3}, wrong=[], notes=[], trouble="")


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of both ends; those of the front-end also as the VM has them."""
    folder = tmp_path_factory.mktemp("link")
    make_link_keys(folder)
    for end in ("key", "crt"):
        shutil.copy(folder / f"frontend.{end}", folder / f"link.{end}")
        shutil.copy(folder / f"stranger.{end}", folder / f"web.{end}")
    return folder


@pytest.fixture
def settings(tmp_path: Path, link: Path) -> Settings:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "request").mkdir()
    started(tmp_path / "state.json")
    return Settings.under(
        tmp_path, link=link, pause_s=0.0, connect_rate=500.0, connect_burst=500.0, line_s=0.4, handshake_s=0.4,
        request_rate=400.0, request_burst=200.0, hostname_s=0.1,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that only a broken backend needs; long enough for a busy machine."""
    monkeypatch.setattr(misuse, "MARGIN", 2.0)
    monkeypatch.setattr(misuse, "RECOVERY", 2.0)
    monkeypatch.setattr(misuse, "BUDGET_QUICK", 40.0)


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Settings]:
    """The real daemon in a thread of its own."""
    ready, loops = threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()
    ports: list[int] = []

    async def main() -> None:
        async with Daemon(settings, console=lambda lines: None) as daemon:
            ports.append(daemon.port)
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield dataclasses.replace(settings, port=ports[0])
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def shell(command: str, timeout: float) -> tuple[int, str]:
    done = subprocess.run(
        ["sh", "-c", command.replace("python3", sys.executable, 1)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def attacked(settings: Settings, *attacks: str, seed: int = 1) -> dict[str, Result]:
    results = run_misuse(shell, seed=seed, quick=True, settings=settings, folder=str(settings.link), attacks=attacks)
    assert [result.name for result in results] == [name for name in ATTACKS if name in attacks]
    return {result.name: result for result in results}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_backend_stands_it(settings: Settings, attack: str) -> None:
    with serving(settings) as running:
        result = attacked(running, attack)[attack]
    assert result.verdict is Verdict.SEALED, result
    assert "answered in" in result.control
    assert not list((settings.request).iterdir())


def accept_replays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestValidator, "_check_order", lambda self, seq: None)


def accept_the_same_again(patch: pytest.MonkeyPatch) -> None:
    real = RequestValidator._check_order

    def check(validator: RequestValidator, seq: int) -> None:
        if seq != validator._last_seq:
            real(validator, seq)

    patch.setattr(RequestValidator, "_check_order", check)


def accept_far_ahead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("backend.daemon.validator.SEQ_FREE", 2**63)


def accept_anybody(patch: pytest.MonkeyPatch, *, whoever: bool) -> None:
    """Without any certificate, or with any that its own key vouches for."""
    from backend.daemon import link as link_module

    real = link_module.load_keys

    class Everybody(bytes):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    def load(folder: Path) -> link_module.LinkKeys:
        keys = real(folder)
        if whoever:
            keys.context.verify_mode = ssl.CERT_NONE
        return link_module.LinkKeys(keys.context, Everybody(keys.peer))

    patch.setattr("backend.daemon.main.load_keys", load)


def accept_old_tls(patch: pytest.MonkeyPatch) -> None:
    from backend.daemon import link as link_module

    real = link_module.load_keys

    def load(folder: Path) -> link_module.LinkKeys:
        keys = real(folder)
        keys.context.minimum_version = ssl.TLSVersion.TLSv1_2
        return keys

    class Old(str):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    patch.setattr("backend.daemon.main.load_keys", load)
    patch.setattr(ssl.SSLObject, "version", lambda self: Old("TLSv1.2"))


def ignore_fields(patch: pytest.MonkeyPatch) -> None:
    class Loose(msgspec.Struct):
        v: int
        seq: int
        do: AnyInstruction
        token: Any = None

    patch.setattr("backend.daemon.validator.decode_request", msgspec.json.Decoder(Loose).decode)


def take_longer_lines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("backend.daemon.server.MAX_LINE", 8192)


def wait_for_ever(patch: pytest.MonkeyPatch) -> None:
    real = LinkServer.__init__

    def init(self: LinkServer, settings: Settings, *rest: Any) -> None:
        real(self, dataclasses.replace(settings, line_s=99.0), *rest)

    patch.setattr(LinkServer, "__init__", init)


def take_ends_for_lines(patch: pytest.MonkeyPatch) -> None:
    """A line that was cut off is carried out."""

    async def line(self: LinkServer, reader: asyncio.StreamReader) -> bytes | None:
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial or None
        except OSError:
            return None

    patch.setattr(LinkServer, "_line", line)


def no_rate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("backend.protocol.rate_limit.Bucket.take", lambda self: 0.0)


def ignore_fields_and_rate(patch: pytest.MonkeyPatch) -> None:
    """The rate refuses most of what comes so fast: which, depends on the machine."""
    ignore_fields(patch)
    no_rate(patch)


def take_any_number(patch: pytest.MonkeyPatch) -> None:
    real = LinkServer.__init__

    def init(self: LinkServer, settings: Settings, *rest: Any) -> None:
        real(self, dataclasses.replace(settings, connections=99), *rest)

    patch.setattr(LinkServer, "__init__", init)


def guess_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SlowDown, "wait", lambda self: 0.0)


def any_session_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "find", lambda self, token: OpenSession(b"", "https", UNKNOWN, 0.0, 0.0))


def die_of_it(patch: pytest.MonkeyPatch) -> None:
    """After the first oversized line nobody is served any more."""
    real = LinkServer._connection

    async def connection(self: LinkServer, *arguments: Any) -> None:
        if "dead" in self.__dict__:
            arguments[0].close()
        else:
            await real(self, *arguments)

    real_line = LinkServer._line

    async def line(self: LinkServer, reader: asyncio.StreamReader) -> bytes | None:
        try:
            return await real_line(self, reader)
        except Exception as error:
            if "bytes" in str(error):
                self.__dict__["dead"] = True
            raise

    patch.setattr(LinkServer, "_connection", connection)
    patch.setattr(LinkServer, "_line", line)


@pytest.mark.parametrize(
    ("broken", "attack", "said"),
    [
        (accept_replays, "sequence", "seq 1"),
        (accept_the_same_again, "sequence", "a replay on the same connection: effect done"),
        (accept_far_ahead, "sequence", "effect done"),
        (lambda patch: accept_anybody(patch, whoever=True), "tls", "no certificate: effect done"),
        (lambda patch: accept_anybody(patch, whoever=False), "tls", "signed by the front-end's key: effect done"),
        (accept_old_tls, "tls", "TLS 1.2: effect done"),
        (ignore_fields, "malformed", "effect done"),
        (ignore_fields_and_rate, "mutants", "effect done"),
        (take_longer_lines, "oversized", "a line of 4097 bytes: effect done"),
        (wait_for_ever, "slow", "a line of a byte a second: neither refused nor closed"),
        (take_ends_for_lines, "cut", "moved the backend's sequence"),
        (no_rate, "pipelined", "are granted"),
        (take_any_number, "connections", "at most 8 connections"),
        (guess_away, "approval", "slowed down"),
        (no_rate, "approval", "from as many addresses are checked"),
        (any_session_will_do, "approval", "system.reboot with the token"),
        (die_of_it, "oversized", "did not recover"),
    ],
)
def test_what_is_broken_is_a_hole(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], None],
    attack: str,
    said: str,
) -> None:
    broken(monkeypatch)
    with serving(settings) as running:
        # Of random accidents some three in a run are taken: in one of twenty runs none.
        for seed in range(1, 9 if attack == "mutants" else 2):
            result = attacked(running, attack, seed=seed)[attack]
            if result.verdict is Verdict.HOLE:
                break
    assert result.verdict is Verdict.HOLE, result
    assert said in result.evidence + " ".join(result.frames), result


def test_without_the_backend_nothing_is_tested(settings: Settings) -> None:
    # Port 9 of loopback: nobody.
    result = attacked(dataclasses.replace(settings, port=9), "malformed")["malformed"]
    assert result.verdict is Verdict.NOT_TESTED
    assert "not answered before" in result.control


def test_verdicts() -> None:
    def verdict(**changes: Any) -> Verdict:
        return judge(msgspec.structs.replace(GOOD, **changes))[0]

    assert verdict() is Verdict.SEALED
    assert verdict(wrong=["x"]) is Verdict.HOLE
    assert verdict(after=None) is Verdict.HOLE
    assert verdict(before=None, after=None, tried=0) is Verdict.NOT_TESTED
    assert verdict(trouble="not done in time") is Verdict.NOT_TESTED
    assert verdict(tried=0) is Verdict.NOT_TESTED


def test_a_script_that_gives_no_usable_answer_is_not_tested() -> None:
    for output in ("", framed({"before": 0.1}), framed(msgspec.to_builtins(GOOD))[:-40]):
        (result,) = run_misuse(lambda *_, said=output: (0, said), seed=1, quick=True, attacks=["tls"])
        assert result.verdict is Verdict.NOT_TESTED
        assert result.control == "none seen"


def test_when_the_vm_is_lost_the_rest_is_not_tested() -> None:
    def run(command: str, timeout: float) -> tuple[int, str]:
        raise SallyportError("gone")

    results = run_misuse(run, seed=1, quick=True)
    assert {result.verdict for result in results} == {Verdict.NOT_TESTED}
    assert "lost in 'malformed'" in results[-1].evidence


def test_a_plan_is_the_same_for_the_same_seed_and_fits_in_an_argument() -> None:
    commands: list[str] = []
    for attacks in (list(ATTACKS), ["tls"]):
        run_misuse(lambda command, _: commands.append(command) or (0, ""), seed=3, quick=False, attacks=attacks)  # type: ignore[func-returns-value]
    assert commands[len(ATTACKS)] == commands[list(ATTACKS).index("tls")]
    assert max(map(len, commands)) < 30000  # of the 32 KiB that an SSH packet surely holds (RFC 4253 section 6.1)
    assert json.loads(plan("tls", seed=1, quick=False, settings=Settings(), folder="/x"))["connections"] == 8
