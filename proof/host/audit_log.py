"""The host's audit logs: refusals that anybody can provoke have a log of their own, and every log is an unbroken chain.

Root in the VM connects to the backend without a certificate. Each refusal must become an entry of ``rejected``, which
is the control; none may become one of ``changes``, where it would displace an operator's entry. The image's own checker
verifies the hash chains of all logs before and after, and that each log continues from where it ended before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.daemon.audit import KINDS
from backend.protocol import link_plan
from proof.remote_script import RemoteScript, RemoteScriptError, RunInVm, assemble
from proof.result import Result, Verdict

GROUP = "audit"
CHECK = "python3 -I -m backend.daemon.audit check"
CONNECTIONS = 8
TIMEOUT = 120.0
SETTLE = 10.0
"""Seconds within which a refusal must be in a log."""
SCRIPT: RemoteScript[int] = RemoteScript(
    assemble(Path(__file__).with_name("audit_log_script.py"), main="answer(connect())"), int
)
_LINE = re.compile(r"(\w+): (?:entries (\d+) to (\d+), head ([0-9a-f]{64})|no entry)(?:, then .*)?: (whole|broken.*)")


@dataclass(frozen=True)
class Log:
    """One log as the checker found it: number and hash of its last entry, and whether its chain is unbroken."""

    last: int
    head: str
    whole: bool


def parse(text: str) -> Mapping[str, Log]:
    """Return what the checker printed of each log, by name; `ValueError` if one is missing."""
    found = {
        m[1]: Log(int(m[3] or 0), m[4] or "", m[5] == "whole") for m in map(_LINE.fullmatch, text.splitlines()) if m
    }
    if missing := [kind.name for kind in KINDS if kind.name not in found]:
        raise ValueError(f"the checker printed nothing about {', '.join(missing)}: {text[-200:]!r}")
    return found


def run_audit_log(run_vm: RunInVm, run_host: Callable[[str, float], tuple[int, str]]) -> list[Result]:
    """Provoke refusals from the VM, compare the host's logs before and after; results ``chain`` and ``rejections``.

    Raises:
        Exception: whatever ``run_vm`` or ``run_host`` raise.
    """
    began = time.monotonic()
    try:
        before = parse(run_host(CHECK, TIMEOUT)[1])
        SCRIPT.run_in_vm(run_vm, TIMEOUT, link_plan.BACKEND_ADDRESS, str(link_plan.BACKEND_PORT), str(CONNECTIONS))
        deadline = time.monotonic() + SETTLE
        while True:
            text = run_host(f"{CHECK} {_known_heads(before)}", TIMEOUT)[1]
            after = parse(text)
            if sum(after[kind.name].last - before[kind.name].last for kind in KINDS) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
    except (RemoteScriptError, ValueError) as error:
        return [
            Result(GROUP, name, tried, Verdict.NOT_TESTED, str(error), "none seen", time.monotonic() - began)
            for name, tried in _TRIED.items()
        ]
    return judge(before, after, text, time.monotonic() - began)


_TRIED = {
    "chain": "every entry of every audit log of the host: its hash and its number",
    "rejections": "connections from the VM without a certificate: which log has their refusals",
}


def _known_heads(logs: Mapping[str, Log]) -> str:
    return " ".join(f"{name}:{log.last}:{log.head}" for name, log in logs.items() if log.head)


def judge(before: Mapping[str, Log], after: Mapping[str, Log], text: str, seconds: float) -> list[Result]:
    """Return the two results from what the checker found before and after, and its last output."""
    control = f"{after['rejected'].last - before['rejected'].last} more entries in the log of rejections"
    grown = {name: after[name].last - before[name].last for name in after}
    seen = grown["rejected"] > 0
    faults = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    broken = [name for name, log in after.items() if not log.whole]
    entries = sum(log.last for log in after.values())
    chain = (
        (Verdict.HOLE, f"{', '.join(broken)} not whole: {'; '.join(faults[:3])}")
        if broken
        else (Verdict.SEALED if entries else Verdict.NOT_TESTED, f"{entries} entries in {len(after)} logs")
    )
    rejections = (
        (Verdict.HOLE, f"{grown['changes']} more entries in the log of operators' changes")
        if grown["changes"]
        else (Verdict.SEALED if seen else Verdict.NOT_TESTED, f"{CONNECTIONS} refusals, no entry among the changes")
    )
    return [
        Result(GROUP, name, _TRIED[name], verdict, evidence, control, seconds)
        for name, (verdict, evidence) in (("chain", chain), ("rejections", rejections))
    ]
