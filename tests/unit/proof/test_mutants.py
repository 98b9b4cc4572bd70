"""The list of planted holes fits the code that it changes and the proof that must find them; their judge is strict."""

from __future__ import annotations

import builtins
import dis
import importlib
import socket
from collections import Counter
from pathlib import Path
from types import CodeType, SimpleNamespace

import pytest

from driver.errors import MachineError
from driver.shell import HostShell
from proof.inside.misuse import ATTACKS
from proof.result import Result, Verdict
from proof.stages import STAGES
from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT
from tests.mutants import MUTANTS, chosen, mutation, some
from tests.mutants.mutant import Mutant
from tests.mutants.mutation import Mutation, Outcome, exit_code, judge, judge_clean
from tests.mutants.plants import AtBoot, Code, InImage, InTree, OnHost, background


def result(label: str, verdict: Verdict, evidence: str = "what was seen") -> Result:
    group, name = label.split("/")
    return Result(group, name, "tried", verdict, evidence, "control", 0.0)


def mutant(*found: str) -> Mutant:
    return Mutant("m", "host", "a hole", OnHost(()), "system", found)


def test_there_are_enough_of_them_in_all_layers() -> None:
    assert len(MUTANTS) >= 25
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    layers = Counter(m.layer for m in MUTANTS)
    assert min(layers[layer] for layer in ("port", "link", "host", "VM", "backend", "tree", "image", "boot")) >= 2


def test_each_is_looked_for_by_a_stage_of_the_proof() -> None:
    for m in MUTANTS:
        assert m.stage in STAGES or (m.stage == "tree" and isinstance(m.plant, InTree | InImage)), m.name
        assert m.found, m.name
        if m.stage == "instructions":
            assert all(pattern.split("/")[1] in ATTACKS for pattern in m.found), m.name


@pytest.mark.parametrize("m", [m for m in MUTANTS if isinstance(m.plant, Code)], ids=lambda m: m.name)
def test_what_is_changed_stands_in_the_code_exactly_once(m: Mutant) -> None:
    assert isinstance(m.plant, Code)
    sources = {edit.module: (PROJECT / edit.module).read_text() for edit in m.plant.edits}
    for edit in m.plant.edits:
        assert sources[edit.module].count(edit.old) == 1, edit
        sources[edit.module] = sources[edit.module].replace(edit.old, edit.new)
    for module, source in sources.items():
        unknown = global_names(compile(source, module, "exec")) - set(dir(builtins))
        unknown -= set(vars(importlib.import_module(module.removesuffix(".py").replace("/", "."))))
        assert not unknown, f"{module}: what is planted uses names that the module does not have, so it cannot run"


def global_names(code: CodeType) -> set[str]:
    """Names that a piece of code and the functions in it look up in their module."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*map(global_names, inner))


def test_what_is_laid_over_the_image_is_there() -> None:
    overlays = [m.plant.overlay for m in MUTANTS if isinstance(m.plant, AtBoot) and m.plant.overlay]
    assert overlays
    assert all(any(overlay.rglob("*.service")) for overlay in overlays)


def test_only_the_named_result_counts_as_found() -> None:
    named = [result("host/arp-prefix", Verdict.HOLE), result("port/tcp", Verdict.SEALED)]
    assert judge(mutant("host/arp*"), named)[0] == "found"
    assert judge(mutant("port/*"), named)[0] == "missed"
    assert "host/arp-prefix" in judge(mutant("port/*"), named)[1]


def test_what_was_not_tested_is_missed() -> None:
    verdict, evidence = judge(mutant("host/*"), [result("host/arp", Verdict.NOT_TESTED, "no control")])
    assert (verdict, "no control" in evidence) == ("missed", True)
    assert judge(mutant("host/*"), [])[0] == "missed"


def test_a_clean_run_must_be_quiet_and_whole() -> None:
    sealed = result("host/arp", Verdict.SEALED)
    assert judge_clean([sealed, result("controls/arp", Verdict.CONTROL)])[0] == "quiet"
    assert judge_clean([sealed, result("host/nd", Verdict.HOLE)])[0] == "false alarm"
    assert judge_clean([sealed, result("host/nd", Verdict.NOT_TESTED)])[0] == "not tested"
    assert judge_clean([])[0] != "quiet"


def test_one_missed_hole_or_one_alarm_fails_the_run() -> None:
    good = [Outcome("m", "host", "", "found", "", 1.0), Outcome("clean", "", "", "quiet", "", 1.0)]
    assert exit_code(good) == 0
    for verdict in ("missed", "not tested"):
        assert exit_code([*good, Outcome("n", "host", "", verdict, "", 1.0)]) == 1
    assert exit_code([*good, Outcome("clean", "", "", "false alarm", "", 1.0)]) == 1
    with pytest.raises(SallyportError, match="nothing"):
        exit_code([])


def test_names_are_looked_up() -> None:
    assert [m.name for m in chosen("getty, replay")] == ["getty", "replay"]
    assert chosen("") == MUTANTS
    with pytest.raises(SallyportError, match="no mutant nothing"):
        chosen("getty,nothing")


def test_a_planted_program_fits_the_terminals_line() -> None:
    for m in MUTANTS:
        for line in m.plant.lines if isinstance(m.plant, OnHost) else ():
            assert len(line.encode()) < 3900, m.name
    assert "ip netns exec mgmt" in background("pass", netns="mgmt")[1]


def test_a_clean_round_keeps_what_was_found_before_a_stage_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Result]:
        raise MachineError("the VM does not answer")

    one = Mutation.__new__(Mutation)
    monkeypatch.setattr(
        mutation, "STAGES", {"listeners": lambda *_: [result("host/nd", Verdict.HOLE)], "flood": broken}
    )
    rig = SimpleNamespace(restore=lambda _name: None)
    monkeypatch.setattr(Mutation, "_rig", rig)
    vars(one).update(_effort=None, _say=None)
    outcome = one.clean(["listeners", "flood"])
    assert outcome.verdict == "false alarm"
    assert "host/nd" in outcome.evidence
    lone = one.clean(["flood"])
    assert lone.verdict == "not tested"
    assert "flood/run: the VM does not answer" in lone.evidence


def test_a_host_whose_machine_is_gone_is_told_as_such(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "shell"))
        listener.listen()
        shell = HostShell(tmp_path / "shell")
        peer, _ = listener.accept()
        peer.close()
    with pytest.raises(MachineError, match="gone"):
        shell.run("id")
    with pytest.raises(MachineError, match="gone"):
        shell.check("id")
    shell.close()


def test_every_commit_plants_another_tenth() -> None:
    static = {mutant.name for mutant in MUTANTS if isinstance(mutant.plant, InTree | InImage)}
    drawn = [[mutant.name for mutant in some(seed)] for seed in range(100)]
    assert some(7) == some(7)
    assert all(len(names) <= len(MUTANTS) / 10 + 2 for names in drawn)
    assert all(set(names) & static and set(names) - static for names in drawn)
    assert {name for names in drawn for name in names} == {mutant.name for mutant in MUTANTS}
