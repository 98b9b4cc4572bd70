"""The proof's look at the audit log, against real logs: a hole is named, and silence is no proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.daemon import audit, chain
from backend.daemon.audit import CHANGES, KINDS, REJECTED
from backend.daemon.chain import Entry
from backend.daemon.ring import Kind, Ring
from proof.host import audit_log
from proof.remote_answer import framed
from proof.result import Result, Verdict


def write(folder: Path, kind: Kind, count: int = 1) -> None:
    ring = Ring(folder, kind)
    for _ in range(count):
        ring.append(Entry(1, "", "now", "boot", "message", "denied"))
    ring.close()


def judged(folder: Path, capsys: pytest.CaptureFixture[str], knock: Callable[[], object]) -> dict[str, Result]:
    def run_host(line: str, _limit: float) -> tuple[int, str]:
        words = line.removeprefix(audit_log.CHECK).split()
        return audit.main(["check", str(folder), *words]), capsys.readouterr().out

    def run_vm(line: str, _limit: float) -> tuple[int, str]:
        assert "7000" in line
        knock()
        return 0, framed(audit_log.CONNECTIONS)

    return {result.name: result for result in audit_log.run_audit_log(run_vm, run_host)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(audit_log, "SETTLE", 0.0)
    for kind in KINDS:
        write(tmp_path, kind, 3)
    return tmp_path


def test_refusals_in_their_own_log_and_whole_chains_are_sealed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = judged(folder, capsys, lambda: write(folder, REJECTED))
    assert {result.verdict for result in found.values()} == {Verdict.SEALED}
    assert "1 more entries" in found["rejections"].control


def test_refusals_among_the_changes_are_a_hole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(folder, capsys, lambda: write(folder, CHANGES, 2))
    assert found["rejections"].verdict is Verdict.HOLE
    assert found["chain"].verdict is Verdict.SEALED


def test_refusals_that_leave_no_trace_prove_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judged(folder, capsys, lambda: None)["rejections"].verdict is Verdict.NOT_TESTED


def cut_off(folder: Path) -> None:
    path = chain.files(folder, "changes")[-1]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def change(folder: Path) -> None:
    path = chain.files(folder, "sessions")[-1]
    path.write_bytes(path.read_bytes().replace(b"denied", b"ok", 1))


@pytest.mark.parametrize("damage", [cut_off, change])
def test_a_log_that_was_changed_meanwhile_is_a_hole(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    def knock() -> None:
        damage(folder)
        write(folder, REJECTED)

    found = judged(folder, capsys, knock)
    assert found["chain"].verdict is Verdict.HOLE


def test_a_checker_that_says_nothing_proves_nothing() -> None:
    results = audit_log.run_audit_log(lambda *_: (0, framed(8)), lambda *_: (0, "all is well"))
    assert {result.verdict for result in results} == {Verdict.NOT_TESTED}
