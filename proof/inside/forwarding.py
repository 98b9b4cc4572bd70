"""The VM forwards nothing between its two NICs: a packet for somebody else ends in the VM, from either side.

The evidence is the VM's own statistics (RFC 4293: ipIfStatsInAddrErrors, ipIfStatsOutForwDatagrams), read by its root
shell: packets for somebody else must be counted as received for nobody, and none as forwarded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proof.remote_script import RemoteScript, RemoteScriptError, RunInVm, RunOnHost, assemble
from proof.result import Result, Verdict
from proof.wire.craft import FramePath, udp
from proof.wire.target import LinkTarget, Target
from proof.wire.wire import Wire

GROUP = "forwarding"
FRAMES = 24
"""Packets of one attempt."""
DEADLINE = 8.0
"""Seconds within which the VM must have counted the packets."""
READ_TIMEOUT = 30.0
_SPORT = 19007


class _Counters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refused4: int
    forwarded4: int
    refused6: int
    forwarded6: int
    on: list[str]


_SCRIPT = Path(__file__).with_name("forwarding_script.py")
READ = RemoteScript(assemble(_SCRIPT, main="answer(statistics())"), _Counters)
SEND: RemoteScript[int] = RemoteScript(assemble(_SCRIPT, main="answer(send())"), int)


@dataclass(frozen=True)
class _Attempt:
    name: str
    tried: str
    frames: tuple[bytes, ...]
    is_ipv6: bool
    send: Callable[[tuple[bytes, ...]], None]


def _attempts(
    wire: Wire, run_host: RunOnHost, target: Target, link: LinkTarget, link_macs: tuple[str, str], rng: random.Random
) -> Iterator[_Attempt]:
    """Yield what is tried; ``link_macs`` are the host's and the VM's MAC on the link."""
    v4 = FramePath(target.tester_mac, target.vm_mac, target.tester_ipv4, target.vm_ipv4)
    v6 = FramePath(target.tester_mac, target.vm_mac, target.tester_ipv6, target.vm_ipv6)
    others4 = ["10.9.8.7", f"{target.prefix.rsplit('.', 1)[0]}.77"]
    others6 = ["fd00::7", "2001:db8::7"]

    def from_port(frames: tuple[bytes, ...]) -> None:
        wire.send_many(frames)

    def from_host(frames: tuple[bytes, ...]) -> None:
        # Once: to send again could hide a loss.
        SEND.run_on_host(run_host, "link0", *(frame.hex() for frame in frames), tries=1)

    def payload() -> bytes:
        return b"sallyport-" + rng.randbytes(4).hex().encode()

    for name, path, others, six in (("port-ipv4", v4, others4, False), ("port-ipv6", v6, others6, True)):
        frames = tuple(udp(path.to(ip=ip), _SPORT, 9, payload()) for ip in others for _ in range(FRAMES // len(others)))
        yield _Attempt(name, f"UDP at the VM's MAC for {', '.join(others)}, from the port", frames, six, from_port)
    back = FramePath(link_macs[0], link_macs[1], link.host_ipv4, target.tester_ipv4)
    # Few: they go in one line of a serial console.
    frames = tuple(udp(back, _SPORT, 9, b"back") for _ in range(6))
    tried = f"UDP at the VM's MAC for {target.tester_ipv4}, from the link"
    yield _Attempt("link-ipv4", tried, frames, False, from_host)


def run_forwarding(
    wire: Wire,
    run_vm: RunInVm,
    run_host: RunOnHost,
    target: Target,
    link: LinkTarget,
    *,
    link_macs: tuple[str, str],
    seed: int,
) -> list[Result]:
    """Send packets for other addresses to the VM from both sides; its counters must show that none was forwarded."""
    rng, results = random.Random(seed), []
    for attempt in _attempts(wire, run_host, target, link, link_macs, rng):
        began = time.monotonic()
        refused = forwarded = 0
        switches: list[str] = []
        trouble = ""
        try:
            before = READ.run_in_vm(run_vm, READ_TIMEOUT)
            attempt.send(attempt.frames)
            deadline = time.monotonic() + DEADLINE
            while time.monotonic() < deadline and not forwarded and refused < len(attempt.frames):
                after = READ.run_in_vm(run_vm, READ_TIMEOUT)
                old, new = _pair(before, attempt.is_ipv6), _pair(after, attempt.is_ipv6)
                refused, forwarded, switches = new[0] - old[0], new[1] - old[1], after.on
        except (RemoteScriptError, OSError) as error:
            trouble = str(error)
        evidence = f"{forwarded} of {len(attempt.frames)} forwarded"
        evidence += f"; on: {', '.join(switches)}" if switches else ""
        if forwarded or switches:
            verdict = Verdict.HOLE
        elif trouble or refused < len(attempt.frames):
            verdict, evidence = Verdict.NOT_TESTED, trouble or f"{evidence}, but only {refused} arrived"
        else:
            verdict = Verdict.SEALED
        control = f"the VM counted {refused} of them as addressed to somebody else"
        took = time.monotonic() - began
        results.append(Result(GROUP, attempt.name, attempt.tried, verdict, evidence, control, took))
    return results


def _pair(counters: _Counters, is_ipv6: bool) -> tuple[int, int]:
    if is_ipv6:
        return counters.refused6, counters.forwarded6
    return counters.refused4, counters.forwarded4
