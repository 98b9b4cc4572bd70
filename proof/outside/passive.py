"""The passive result: every frame that left the port since power-on, judged as it was received."""

from __future__ import annotations

import time

from proof.result import Result, Verdict
from proof.wire.target import Target
from proof.wire.wire import Wire


def passive(wire: Wire, target: Target) -> Result:
    """Judge every frame that was received since power-on: all must be the VM's and speak for it alone."""
    tried = f"every frame that left the port since power-on carries {target.vm_mac} and speaks for the VM alone"
    ledger = wire.ledger
    if ledger is None:
        return Result("passive", "frames-since-power-on", tried, Verdict.NOT_TESTED, "no ledger was kept", "none", 0)
    offences = ledger.offences()
    early = wire.connected_at is not None and wire.powered_on_at is not None and wire.connected_at <= wire.powered_on_at
    control = f"{ledger.honest} frames of the VM seen; "
    control += "the wire was up before power-on" if early else "it is unknown whether the wire was up before power-on"
    first = ledger.first_honest
    if early and first is not None and wire.powered_on_at is not None:
        control += f", first frame after {first.time - wire.powered_on_at:.1f} s"
    evidence = f"{ledger.frames} frames judged"
    if offences:
        verdict, evidence = Verdict.HOLE, f"{evidence}; {offences.reasons()}"
    elif not ledger.honest or not early or wire.lost:
        verdict = Verdict.NOT_TESTED
    else:
        verdict, evidence = Verdict.SEALED, f"{evidence}, none by anyone else"
    took = time.monotonic() - (wire.powered_on_at or wire.connected_at or time.monotonic())
    return Result("passive", "frames-since-power-on", tried, verdict, evidence, control, took, offences.summaries())
