"""A root shell in the VM sends frames under false source MACs from the NIC ``access``; none may leave the port."""

from __future__ import annotations

import random
import time

from proof.result import Result, Verdict
from proof.wire.craft import FramePath, udp
from proof.wire.frame import Frame, summary
from proof.wire.target import BROADCAST, Target
from proof.wire.wire import Tap, Wire, WireError

ROUNDS = 4
DEADLINE = 5.0
LISTEN = 0.5


def _marked(target: Target, src: str, dst: str, mark: bytes) -> bytes:
    # From the VM's own address to the tester's discard port, so that the MAC is all that is false about it.
    return udp(FramePath(src, dst, target.vm_ipv4, target.tester_ipv4), 9, 9, mark.ljust(32, b"\0"))


def _wait(tap: Tap, marks: dict[bytes, str], seconds: float, until: bytes | None) -> dict[bytes, Frame]:
    seen: dict[bytes, Frame] = {}
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and until not in seen:
        for frame in tap.take(min(left, 0.1)):
            for mark in marks:
                if mark in frame.raw:
                    seen.setdefault(mark, frame)
    return seen


def run_spoof(access: Wire, outside: Wire, target: Target, *, seed: int) -> list[Result]:
    """Send frames from ``access`` (inside) under false MACs and listen for them on ``outside`` (the port).

    The control is a frame under the VM's own MAC, before and after in every round: it must come out.
    """
    began, rng = time.monotonic(), random.Random(seed)
    false = {**target.host_macs, "tester": target.tester_mac, "random": "02:" + rng.randbytes(5).hex(":")}
    group = bytearray(bytes.fromhex(target.vm_mac.replace(":", "")))
    group[0] |= 1
    false["group"] = bytes(group).hex(":")
    sent, controls, seen_controls = 0, 0, 0
    leaked: dict[bytes, Frame] = {}
    names: dict[bytes, str] = {}
    trouble = ""
    try:
        with outside.tap() as tap:
            for _ in range(ROUNDS):
                marks = {rng.randbytes(16): name for name in false}
                names |= marks
                for first in (True, False):
                    control = rng.randbytes(16)
                    # Broadcast: a bridge that learnt the tester's MAC from a false frame would misdirect the control.
                    frames = [_marked(target, target.vm_mac, BROADCAST, control)]
                    if first:
                        frames += [_marked(target, false[name], dst, mark) for mark, name in marks.items()
                                   for dst in (target.tester_mac, BROADCAST)]  # fmt: skip
                        sent += len(frames) - 1
                    access.send_many(frames)
                    controls += 1
                    seen = _wait(tap, {**names, control: "control"}, DEADLINE, control)
                    seen_controls += control in seen
                    leaked |= {mark: frame for mark, frame in seen.items() if mark in names}
                if seen_controls < controls:
                    break
            leaked |= _wait(tap, names, LISTEN, None)
    except WireError as error:
        trouble = f"wire failed: {error}"
    tried = f"the VM's root sends from access under {len(false)} other MACs: {', '.join(false)}"
    control_text = f"{seen_controls} of {controls} frames under the VM's own MAC came out"
    if leaked:
        verdict, evidence = Verdict.HOLE, f"came out: {', '.join(sorted({names[mark] for mark in leaked}))}"
    elif trouble or not controls or seen_controls < controls:
        verdict, evidence = Verdict.NOT_TESTED, trouble or "not every control came out"
    else:
        verdict, evidence = Verdict.SEALED, f"{sent} frames sent, none came out"
    frames_text = tuple(summary(frame.raw) for frame in list(leaked.values())[:12])
    took = time.monotonic() - began
    return [Result("spoof", "source-mac", tried, verdict, evidence, control_text, took, frames_text)]
