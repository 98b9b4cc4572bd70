"""The instruction protocol attacked by root in the VM, with the link's own keys: nothing is accepted that must not be.

`misuse_script` runs in the VM, one class of attacks at a time, each between two controls: a fresh connection on which a
heartbeat is carried out and ``status.get`` without a session is denied. What is judged here is its report. The limits
are those that the backend declares (`backend.daemon.settings`), with room for a slow machine.
"""

from __future__ import annotations

import base64
import json
import random
import re
import shlex
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.daemon.settings import Settings
from backend.protocol.codec import MAX_LINE
from backend.protocol.link_plan import BACKEND_NAME
from proof.result import Result, Verdict
from rootfs.base.errors import SallyportError

GROUP = "instructions"
RunVm = Callable[[str, float], tuple[int, str]]
"""Runs a command line as root in the VM, for so many seconds at most; returns exit code and output."""
FRONT_END = "/run/frontend"
"""Where the VM keeps what the host handed to it: overlays/frontend_vm/etc/init.d/setup.j2."""
MARGIN = 12.0
"""Seconds that a slow machine may take beyond what the backend declares."""
RECOVERY = 30.0
"""Seconds after an attack within which a fresh connection must be answered."""
BUDGET_QUICK, BUDGET = 90.0, 400.0
"""Seconds for one class."""
MAX_REPORT = 1 << 18
"""Bytes of a script's report, unpacked."""


class ReportError(Exception):
    """What a script printed cannot be relied on."""


@dataclass(frozen=True)
class Script:
    """A program that runs elsewhere as ``python3 -c`` and prints ``MARK <crc32 hex> <base64 of zlib of JSON>``."""

    source: str
    mark: str

    def command(self, *arguments: str) -> str:
        """Return the command line."""
        packed = base64.b64encode(zlib.compress(self.source.encode(), 9)).decode()
        code = f"import zlib,base64;exec(zlib.decompress(base64.b64decode('{packed}')))"
        return shlex.join(["python3", "-I", "-c", code, *arguments])

    def report(self, output: str) -> bytes:
        """Return the JSON in what the script printed; `ReportError` if it is absent or damaged."""
        match = re.search(rf"{self.mark} ([0-9a-f]{{8}}) ([A-Za-z0-9+/=]+)", output.replace("\r", ""))
        if match is None:
            raise ReportError(f"the script printed no report: {output[-200:]!r}")
        try:
            packed = base64.b64decode(match[2], validate=True)
            if zlib.crc32(packed) != int(match[1], 16):
                raise ReportError("the script's report was damaged on its way")
            inflate = zlib.decompressobj()
            data = inflate.decompress(packed, MAX_REPORT)
        except (ValueError, zlib.error) as error:
            raise ReportError(f"the script's report cannot be read: {error}") from error
        if inflate.unconsumed_tail or not inflate.eof:
            raise ReportError(f"the script's report is longer than {MAX_REPORT} bytes, or cut off")
        return data


SCRIPT = Script(Path(__file__).with_name("misuse_script.py").read_text(), "SALLYPORT-MISUSE")
ATTACKS: Mapping[str, str] = {
    "malformed": "lines that are not JSON or not a request: types, fields, names, numbers, UTF-8, NUL, deep nesting",
    "oversized": "lines of one byte above the limit up to 16 MiB, with an end and without",
    "slow": "lines and handshakes of a byte a second, handshakes that do not begin, connections that say nothing",
    "tls": "no TLS, TLS 1.2, no certificate, and certificates that are not the pinned one",
    "records": "after the handshake: another one, open records, changed records, a record twice",
    "cut": "connections that end within handshake, record and line, in good order and by a reset",
    "sequence": "replays, numbers out of order and far ahead, versions that nobody speaks",
    "connections": "more connections than are taken, then hundreds to thousands that are only begun",
    "approval": "every instruction without an operator's session or with a made-up one; guesses at the password",
    "mutants": "requests after random accidents",
    "pipelined": "hundreds to thousands of requests in one go",
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
    """What must not have happened."""
    notes: Annotated[list[_Text], Meta(max_length=64)]
    trouble: _Text
    """Why not everything was tried, empty if it was."""


def plan(attack: str, *, seed: int, quick: bool, settings: Settings, folder: str) -> str:
    """Return the script's argument for one class."""
    looks = (settings.looks.new, settings.looks.common)  # the third is for who has logged in
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
            "look_rate": sum(rate for rate, _ in looks),
            "look_burst": sum(burst for _, burst in looks),
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
    run_vm: RunVm,
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
                raise ReportError(f"not begun: {lost}")
            argument = plan(attack, seed=chosen, quick=quick, settings=settings or Settings(), folder=folder)
            limit = (BUDGET_QUICK if quick else BUDGET) + 3 * RECOVERY + 60.0
            _, output = run_vm(SCRIPT.command(argument), limit)
            report = msgspec.json.decode(SCRIPT.report(output), type=Report)
            verdict, evidence = judge(report)
            control, frames = _seen(report), tuple(report.wrong)
        except (ReportError, SallyportError, OSError, msgspec.MsgspecError) as error:
            verdict, evidence, control = Verdict.NOT_TESTED, str(error), "none seen"
            if isinstance(error, SallyportError):
                # The VM itself did not stand it. Whether the next ones would be its fault cannot be told apart.
                lost = lost or f"the VM's shell was lost in {attack!r}"
        results.append(Result(GROUP, attack, tried, verdict, evidence, control, time.monotonic() - began, frames))
    return results
