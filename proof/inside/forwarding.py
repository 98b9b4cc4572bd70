"""Nothing passes between the VM's two NICs: what is not for the VM ends in it, whichever side it came from.

The evidence is the VM's own statistics (RFC 4293: ipIfStatsInAddrErrors, ipIfStatsOutForwDatagrams), read by its root
shell: packets for somebody else must be counted as received for nobody, and none as forwarded.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from proof.result import Result, Verdict
from proof.wire.craft import Path, udp
from proof.wire.target import LinkTarget, Target
from proof.wire.wire import Wire

GROUP = "forwarding"
FRAMES = 24
"""Packets for each address."""
DEADLINE = 8.0
_SPORT = 19007
RunVm = Callable[[str, float], tuple[int, str]]
RunHost = Callable[[str], tuple[int, str]]

_READ = """
import glob, json
def table(path):
    lines = open(path).read().splitlines()
    return {h: dict(zip(n.split()[1:], map(int, v.split()[1:]))) for n, v in zip(lines[::2], lines[1::2])
            for h in [n.split(":")[0]]}
six = {k: int(v) for k, v in (line.split() for line in open("/proc/net/snmp6"))}
four = table("/proc/net/snmp")["Ip"]
on = [p for p in glob.glob("/proc/sys/net/ipv*/conf/*/*forwarding") if open(p).read().strip() != "0"]
print(json.dumps({"refused4": four["InAddrErrors"], "forwarded4": four["ForwDatagrams"],
    "refused6": six["Ip6InAddrErrors"] + six["Ip6InNoRoutes"], "forwarded6": six["Ip6OutForwDatagrams"], "on": on}))
"""
_SEND = """
import socket, sys
nic = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
nic.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    nic.send(bytes.fromhex(frame))
"""


class _Counters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refused4: int
    forwarded4: int
    refused6: int
    forwarded6: int
    on: list[str]


@dataclass(frozen=True)
class _Attempt:
    name: str
    tried: str
    frames: tuple[bytes, ...]
    is_ipv6: bool
    send: Callable[[tuple[bytes, ...]], None]


def _read(run_vm: RunVm) -> _Counters:
    code, said = run_vm(f"python3 -I -c {shlex.quote(_READ)}", 30.0)
    if code != 0:
        raise OSError(f"the VM's statistics cannot be read (code {code}): {said[-200:]}")
    return msgspec.json.decode(said.strip().splitlines()[-1], type=_Counters)


def _attempts(
    wire: Wire, run_host: RunHost, target: Target, link: LinkTarget, link_macs: tuple[str, str], rng: random.Random
) -> Iterator[_Attempt]:
    """Yield what is tried; ``link_macs`` are the host's and the VM's MAC on the link."""
    v4 = Path(target.tester_mac, target.vm_mac, target.tester_ipv4, target.vm_ipv4)
    v6 = Path(target.tester_mac, target.vm_mac, target.tester_ipv6, target.vm_ipv6)
    others4 = ["10.9.8.7", f"{target.prefix.rsplit('.', 1)[0]}.77"]
    others6 = ["fd00::7", "2001:db8::7"]

    def from_port(frames: tuple[bytes, ...]) -> None:
        wire.send_many(frames)

    def from_host(frames: tuple[bytes, ...]) -> None:
        words = ["python3", "-I", "-c", _SEND, "link0", *(frame.hex() for frame in frames)]
        code, said = run_host(shlex.join(words))
        if code != 0:
            raise OSError(f"the host cannot send on the link (code {code}): {said[-200:]}")

    def payload() -> bytes:
        return b"sallyport-" + rng.randbytes(4).hex().encode()

    for name, path, others, six in (("port-ipv4", v4, others4, False), ("port-ipv6", v6, others6, True)):
        frames = tuple(udp(path.to(ip=ip), _SPORT, 9, payload()) for ip in others for _ in range(FRAMES // len(others)))
        yield _Attempt(name, f"UDP at the VM's MAC for {', '.join(others)}, from the port", frames, six, from_port)
    back = Path(link_macs[0], link_macs[1], link.host_ipv4, target.tester_ipv4)
    # Few: they go in one line of a serial console.
    frames = tuple(udp(back, _SPORT, 9, b"back") for _ in range(6))
    tried = f"UDP at the VM's MAC for {target.tester_ipv4}, from the link"
    yield _Attempt("link-ipv4", tried, frames, False, from_host)


def run_forwarding(
    wire: Wire,
    run_vm: RunVm,
    run_host: RunHost,
    target: Target,
    link: LinkTarget,
    *,
    link_macs: tuple[str, str],
    seed: int,
) -> list[Result]:
    """Send packets for others through the VM, from both sides; its own counters must say that all ended in it."""
    rng, results = random.Random(seed), []
    for attempt in _attempts(wire, run_host, target, link, link_macs, rng):
        began = time.monotonic()
        refused = forwarded = 0
        switches: list[str] = []
        trouble = ""
        try:
            before = _read(run_vm)
            attempt.send(attempt.frames)
            deadline = time.monotonic() + DEADLINE
            while time.monotonic() < deadline and not forwarded and refused < len(attempt.frames):
                after = _read(run_vm)
                old, new = _pair(before, attempt.is_ipv6), _pair(after, attempt.is_ipv6)
                refused, forwarded, switches = new[0] - old[0], new[1] - old[1], after.on
        except (OSError, ValueError, IndexError) as error:
            trouble = str(error)
        evidence = f"{forwarded} of {len(attempt.frames)} forwarded"
        evidence += f"; on: {', '.join(switches)}" if switches else ""
        if forwarded or switches:
            verdict = Verdict.HOLE
        elif trouble or refused < len(attempt.frames):
            verdict, evidence = Verdict.NOT_TESTED, trouble or f"{evidence}, but only {refused} arrived"
        else:
            verdict = Verdict.SEALED
        control = f"{refused} counted by the VM as for nobody here"
        took = time.monotonic() - began
        results.append(Result(GROUP, attempt.name, attempt.tried, verdict, evidence, control, took))
    return results


def _pair(counters: _Counters, is_ipv6: bool) -> tuple[int, int]:
    if is_ipv6:
        return counters.refused6, counters.forwarded6
    return counters.refused4, counters.forwarded4
