"""The passive result: every frame that left the port since power-on, judged as it was received."""

from __future__ import annotations

import time

from proof.result import Result, Verdict
from proof.wire.target import Target
from proof.wire.wire import Wire


def passive(wire: Wire, target: Target) -> Result:
    """Return the result of every frame received since power-on: each must come from the VM, in its own name.

    The result is "not-tested" if the wire was not connected before power-on, or frames were lost.
    """
    tried = f"every frame that left the port since power-on carries {target.vm_mac} and speaks for the VM alone"
    frame_log = wire.frame_log
    if frame_log is None:
        return Result("passive", "frames-since-power-on", tried, Verdict.NOT_TESTED, "no frame log was kept", "none", 0)
    offences = frame_log.offences()
    early = wire.connected_at is not None and wire.powered_on_at is not None and wire.connected_at <= wire.powered_on_at
    control = f"{frame_log.accepted} frames of the VM seen; "
    control += "the wire was up before power-on" if early else "it is unknown whether the wire was up before power-on"
    first = frame_log.first_accepted
    if early and first is not None and wire.powered_on_at is not None:
        control += f", first frame after {first.time - wire.powered_on_at:.1f} s"
    evidence = f"{frame_log.frames} frames judged"
    if offences:
        verdict, evidence = Verdict.HOLE, f"{evidence}; {offences.reasons()}"
    elif not frame_log.accepted or not early or wire.lost:
        verdict = Verdict.NOT_TESTED
    else:
        verdict, evidence = Verdict.SEALED, f"{evidence}, all sent by the VM"
    took = time.monotonic() - (wire.powered_on_at or wire.connected_at or time.monotonic())
    return Result("passive", "frames-since-power-on", tried, verdict, evidence, control, took, offences.summaries())
