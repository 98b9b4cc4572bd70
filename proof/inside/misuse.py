"""Attacks on the instruction protocol by root in the VM, who has the link's keys: nothing forbidden is accepted.

`misuse_script` runs in the VM, one class of attacks at a time, each between two controls: a fresh connection on which a
heartbeat is executed and ``status.get`` without a session is denied. This module judges the script's answer. The limits
are those that the backend declares (`backend.daemon.settings`), with room for a slow machine.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from backend.daemon.settings import Settings
from backend.protocol.codec import MAX_LINE
from backend.protocol.link_plan import BACKEND_NAME
from proof.remote_script import RemoteScript, RemoteScriptError, RunInVm, assemble
from proof.result import Result, Verdict
from rootfs.base.errors import SallyportError

GROUP = "instructions"
FRONT_END = "/run/frontend"
"""Where the VM keeps what the host handed to it: overlays/frontend_vm/etc/init.d/setup.j2."""
MARGIN = 12.0
"""Seconds that a slow machine may take beyond what the backend declares."""
RECOVERY = 30.0
"""Seconds after an attack within which a fresh connection must be answered."""
BUDGET_QUICK, BUDGET = 90.0, 400.0
"""Seconds for one class."""


ATTACKS: Mapping[str, str] = {
    "malformed": "lines that are not JSON or not a request: types, fields, names, numbers, UTF-8, NUL, deep nesting",
    "oversized": "lines of one byte above the limit up to 16 MiB, with an end and without",
    "slow": "lines and handshakes of one byte a second, handshakes that never start, idle connections",
    "tls": "no TLS, TLS 1.2, no certificate, and certificates that are not the pinned one",
    "records": "after the handshake: another one, open records, changed records, a record twice",
    "cut": "connections that end within handshake, record or line, by a normal close and by a reset",
    "sequence": "replays, sequence numbers out of order and far ahead, unknown protocol versions",
    "connections": "more connections than are accepted, then hundreds to thousands without a handshake",
    "approval": "every instruction without an operator's session or with a made-up one; guesses at the password",
    "mutants": "requests damaged at random",
    "pipelined": "hundreds to thousands of requests sent at once",
}
"""What is tried in each class, in the order in which they run.

The last two may leave the sequence ahead of the clock. Then the front-end's heartbeats and a quick sender's requests
take each other's numbers, and a front-end that is not heard for 20 s is started anew.
"""

_Text = Annotated[str, Meta(max_length=4096)]


class Report(Struct, frozen=True, forbid_unknown_fields=True):
    """What `misuse_script` found in one class. Times are seconds; None: the control was not seen."""

    before: float | None
    after: float | None
    tried: int
    counts: dict[_Text, int]
    """How often each outcome was seen."""
    wrong: Annotated[list[_Text], Meta(max_length=64)]
    """Outcomes that are forbidden, as text; each is a hole."""
    notes: Annotated[list[_Text], Meta(max_length=64)]
    trouble: _Text
    """Why not everything was tried; empty if everything was."""


_FILES = ("connection", "controls", "lines", "endings", "handshake", "limits", "main")
SCRIPT = RemoteScript(
    assemble(
        *(Path(__file__).with_name("misuse_script") / f"{name}.py" for name in _FILES),
        # Threads that still wait for a reply must not keep the process alive.
        main="import os\nanswer(main())\nos._exit(0)",
    ),
    Report,
    max_answer=1 << 18,
)


def plan(attack: str, *, seed: int, quick: bool, settings: Settings, folder: str) -> str:
    """Return the script's argument for one class."""
    password_rates = (settings.password_rates.new, settings.password_rates.common)  # the third is for who has logged in
    return json.dumps(
        {
            "attack": attack,
            "seed": seed,
            "full": not quick,
            "address": settings.address,
            "port": settings.port,
            "name": BACKEND_NAME,
            "folder": folder,
            "max_line": MAX_LINE,
            "connections": settings.connections,
            "line_s": settings.line_s,
            "handshake_s": settings.handshake_s,
            "idle_s": settings.idle_s,
            "request_rate": settings.request_rate,
            "request_burst": settings.request_burst,
            "password_rate": sum(rate for rate, _ in password_rates),
            "password_burst": sum(burst for _, burst in password_rates),
            "margin": MARGIN,
            "recovery": RECOVERY,
            "budget": BUDGET_QUICK if quick else BUDGET,
            "mutants": 400 if quick else 4000,
            "pipelined": 300 if quick else 2000,
            "crowd": 600 if quick else 4000,
        }
    )


def judge(report: Report) -> tuple[Verdict, str]:
    """Return verdict and evidence of one class."""
    counts = ", ".join(f"{number} x {what}" for what, number in sorted(report.counts.items(), key=lambda i: -i[1])[:8])
    evidence = "; ".join([f"{report.tried} tried: {counts}", *report.notes[:6]])
    if report.wrong:
        return Verdict.HOLE, f"{'; '.join(report.wrong[:4])} ({evidence})"
    if report.before is None:
        return Verdict.NOT_TESTED, f"{evidence}; before the attack: {report.trouble}"
    if report.after is None:
        return Verdict.HOLE, f"the backend did not recover: {report.trouble} ({evidence})"
    if report.trouble or not report.tried:
        return Verdict.NOT_TESTED, f"{evidence}; {report.trouble or 'nothing was tried'}"
    return Verdict.SEALED, evidence


def _seen(report: Report) -> str:
    """Return the two controls in words."""
    times = [f"{'not ' if one is None else ''}answered{'' if one is None else f' in {one:.2f} s'}" for one in
             (report.before, report.after)]  # fmt: skip
    return f"heartbeat and denied status on a fresh connection: {times[0]} before, {times[1]} after"


def run_misuse(
    run_vm: RunInVm,
    *,
    seed: int,
    quick: bool,
    settings: Settings | None = None,
    folder: str = FRONT_END,
    attacks: Collection[str] = tuple(ATTACKS),
) -> list[Result]:
    """Attack the backend from the VM, class by class; one result each.

    Args:
        run_vm: the VM's root shell.
        seed: of every random choice.
        quick: a sample of what is big.
        settings: where the backend is and which limits it declares; the appliance's if None.
        folder: where the VM's keys are.
        attacks: names out of `ATTACKS`.
    """
    rng, results, lost = random.Random(seed), [], ""
    for attack, tried in ATTACKS.items():
        chosen = rng.getrandbits(32)  # the same for each class, whichever others run
        if attack not in attacks:
            continue
        began = time.monotonic()
        frames: tuple[str, ...] = ()
        try:
            if lost:
                raise RemoteScriptError(f"not started: {lost}")
            argument = plan(attack, seed=chosen, quick=quick, settings=settings or Settings(), folder=folder)
            limit = (BUDGET_QUICK if quick else BUDGET) + 3 * RECOVERY + 60.0
            report = SCRIPT.run_in_vm(run_vm, limit, argument)
            verdict, evidence = judge(report)
            control, frames = _seen(report), tuple(report.wrong)
        except (RemoteScriptError, SallyportError, OSError) as error:
            verdict, evidence, control = Verdict.NOT_TESTED, str(error), "none seen"
            if isinstance(error, SallyportError):
                # The VM itself did not stand it. Whether the next ones would be its fault cannot be told apart.
                lost = lost or f"the VM's shell was lost in {attack!r}"
        results.append(Result(GROUP, attack, tried, verdict, evidence, control, time.monotonic() - began, frames))
    return results
