"""Root in the VM floods both NICs; the host's own work goes on, and the backend answers again when the flood is over.

The host's work is a loop of a fixed job (`host_work_script`) that runs through all floods, one after the other, and
notes every half second how many jobs were done. The rest between two floods is the "after" of one and the "before" of
the next; so rest and flood are compared within one process of one run. The clocks of host, VM and tester differ:
`attribute_work` counts an interval to a phase only if it lies there whatever the latency of the shells was.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from backend.daemon.settings import Settings
from backend.protocol.link_plan import BACKEND_ADDRESS, BACKEND_MAC, BACKEND_NAME
from proof.inside.host_work import HostWork, Seconds, Window, Work, attribute_work
from proof.inside.misuse import FRONT_END
from proof.remote_script import RemoteScript, RemoteScriptError, RunInVm, RunOnHost, assemble
from proof.result import Result, Verdict
from rootfs.base.errors import SallyportError

GROUP = "flood"
SHARE = 0.25
"""The host must do at least this share of its work at rest during a flood.

The appliance's two processors serve one thread of this work, the VM's one processor, QEMU's thread for the NICs, the
softirqs that they cause, and the forwarder. systemd's weights (30 for the VM, 300 for forwarder and backend, 100 for
the rest) leave the loop at least half a processor; the other half of that is for the testing machine, whose two
processors emulate the appliance's and do other work besides.
"""
FLOOD_S = 6.0
"""Seconds of one flood: short, as a flood silences the VM's own link, and the supervisor restarts a VM after 20 s."""
REST_S = 4.0
"""Seconds before a flood and after it."""
RECOVERY = 20.0
"""Seconds after a flood within which the backend must answer on a fresh connection."""
FRAMES = 1000
"""Frames, at least, that must have left the VM and been counted by the host; else there was no flood."""
TRIES = 2
"""How often a flood is tried until it gives a verdict."""

COUNTERS = "cat /sys/class/net/link0/statistics/rx_packets; nft list counters; python3 -I -m backend.forwarder status"
"""What the host counts: frames from the VM at the link, its rules, the forwarder's verdicts."""


@dataclass(frozen=True)
class Flood:
    """One kind of flood. ``counters`` are the host's: one of them must have risen; ``tx_*`` are the forwarder's."""

    name: str
    interface: str
    kind: str
    tried: str
    counters: tuple[str, ...]


FLOODS: tuple[Flood, ...] = (
    Flood("link-small", "link", "small", "shortest frames of a foreign EtherType to the backend's MAC", ("other",)),
    Flood("link-syn", "link", "syn", "SYNs to the backend's port", ("link_limited", "link0")),
    Flood("access-syn", "access", "syn", "SYNs to an address beyond the port", ("tx_",)),
    Flood("access-small", "access", "small", "shortest frames of a foreign EtherType out of the port", ("tx_",)),
    Flood("link-arp", "link", "arp", "ARP requests for the backend", ("link0",)),
    Flood("link-broadcast", "link", "broadcast", "UDP broadcasts on the link", ("other",)),
    Flood("link-spoofed", "link", "spoofed", "frames from random MACs on the link", ("spoofed",)),
    Flood("access-arp", "access", "arp", "ARP requests out of the port", ("tx_",)),
    Flood("access-broadcast", "access", "broadcast", "UDP broadcasts out of the port", ("tx_",)),
)
PEERS = {"link": (BACKEND_MAC, BACKEND_ADDRESS), "access": ("00:00:5e:00:53:01", "198.51.100.1")}
"""MAC and address that are flooded behind each NIC; at the port nobody's (RFC 7042 section 2.1.2, RFC 5737)."""
QUICK = 3
"""A quick run tries so many kinds, the first ones."""


class Answers(Struct, frozen=True, forbid_unknown_fields=True):
    """Answer times of the backend in seconds, and the failures instead of answers."""

    times: Annotated[list[Seconds], Meta(max_length=1000)]
    failed: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=20)]

    def __str__(self) -> str:
        if not self.times:
            return "none" + (f" ({self.failed[0]})" if self.failed else "")
        times = sorted(self.times)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{times[len(times) // 2] * 1e3:.0f} ms (slowest {times[-1] * 1e3:.0f} ms of {len(times)}{failed})"


class Report(Struct, frozen=True, forbid_unknown_fields=True):
    """What `flood_script` tells at the end. ``sent``: frames by the NIC's counter; ``after`` seconds, None: never."""

    rest: Answers
    during: Answers
    tried: int
    sent: int
    delay: Seconds
    """Between the return of ``begin``, or a little earlier, and the flood."""
    seconds: Seconds
    after: Seconds | None


class _Begun(Struct, frozen=True):
    """Whether the flooding process started, and why not."""

    begun: bool
    trouble: str


_FLOOD = Path(__file__).with_name("flood_script.py")
BEGIN = RemoteScript(assemble(_FLOOD, main="answer(begin())"), _Begun)
END = RemoteScript(assemble(_FLOOD, main="answer(end())"), Report)


def counters(text: str) -> dict[str, int]:
    """Read what `COUNTERS` printed: ``link0``, nftables' names, and ``tx_`` for all the forwarder's from the VM."""
    found: dict[str, int] = {}
    if match := re.match(r"\s*(\d{1,20})\s", text):
        found["link0"] = int(match[1])
    for name, number in re.findall(r"counter (\w+) \{\s*packets (\d{1,20}) ", text):
        found[name] = found.get(name, 0) + int(number)
    verdicts = re.findall(r"^\s+(tx_\w+)\s+(\d{1,20}) frames", text, re.MULTILINE)
    found["tx_"] = sum(int(number) for _, number in verdicts)
    return found


def judge(flood: Flood, report: Report, work: Work, risen: Mapping[str, int]) -> tuple[Verdict, str, str]:
    """Return verdict, evidence and control of one flood."""
    counted = {name: risen.get(name, 0) for name in flood.counters}
    rate = report.sent / max(report.seconds, 0.001)
    control = f"{report.sent} frames left the NIC ({rate:.0f}/s); the host counted " + ", ".join(
        f"{number} at {name if name != 'tx_' else 'the forwarder'}" for name, number in counted.items()
    )
    rests = "/".join(f"{one:.0f}" for one in work.rests) or "not measured"
    low, high = (min(work.rests), max(work.rests)) if work.rests else (0.0, 0.0)
    seen = [one for one in (work.during, work.most) if one is not None]
    during = min(seen, default=0.0)
    evidence = (
        f"host's work {rests} jobs/s at rest, {during:.0f} in the flood ({during / high if high else 0:.2f}); backend "
        f"answers in {report.rest} at rest, {report.during} in the flood, "
        + (f"{report.after:.2f} s after it" if report.after is not None else f"not within {RECOVERY:.0f} s after it")
    )
    if report.sent < FRAMES or max(counted.values()) < FRAMES:
        return Verdict.NOT_TESTED, f"too few frames for a flood: {evidence}", control
    if report.after is None:
        return Verdict.HOLE, f"the backend does not answer after the flood: {evidence}", control
    if len(work.rests) < 2 or not report.rest.times:
        return Verdict.NOT_TESTED, f"nothing to compare with, as nothing was measured at rest: {evidence}", control
    if seen and during < SHARE * low:
        return Verdict.HOLE, f"the host's own work is starved: {evidence}", control
    if work.during is None or work.during < SHARE * high:
        return Verdict.NOT_TESTED, f"the measurement varies too much for a verdict: {evidence}", control
    return Verdict.SEALED, evidence, control


@dataclass
class FloodRun:
    """What became of one flood; times as in `Window`."""

    flood: Flood
    seconds: float = 0.0
    asked: float = 0.0
    """The flood did not begin before."""
    begun: float = 0.0
    over: float = 0.0
    """The flood had ended, and the counters had been read."""
    report: Report | None = None
    risen: Mapping[str, int] = field(default_factory=dict)
    """By how much the host's counters rose."""
    trouble: str = ""

    @property
    def first(self) -> float:
        """The earliest moment at which the flood can have begun; its process was started after ``asked``."""
        return self.asked + (self.report.delay if self.report else 0.0)


class Flooder:
    """Runs floods on one appliance."""

    def __init__(
        self, run_vm: RunInVm, run_host: RunOnHost, plan: Mapping[str, object], names: Mapping[str, str]
    ) -> None:
        self._run_vm, self._run_host, self._plan, self._names = run_vm, run_host, plan, names

    def all(self, floods: Sequence[tuple[Flood, int]]) -> list[tuple[FloodRun, Work]]:
        """Flood once by each kind, with its seed, while the host works.

        Raises:
            RemoteScriptError, SallyportError, OSError: the host's work could not be run or read.
        """
        before = counters(self._run_host(COUNTERS)[1])
        done: list[FloodRun] = []
        with HostWork(self._run_host) as work:
            since = time.monotonic()
            for flood, seed in floods:
                began = time.monotonic()
                done.append(FloodRun(flood, asked=began))
                try:
                    before = self._once(done[-1], seed, before)
                except (RemoteScriptError, SallyportError, OSError) as error:
                    done[-1].trouble = str(error)
                    # It may still run, and its frames must not count for the next one.
                    time.sleep(FLOOD_S + REST_S)
                    before = counters(self._run_host(COUNTERS)[1])
                done[-1].over = time.monotonic()
                done[-1].seconds = done[-1].over - began
            time.sleep(REST_S)
            until = time.monotonic()
            series = work.series()
        attributed = []
        for number, one in enumerate(done):
            last = number + 1 == len(done)
            window = Window(
                called=work.called,
                started=work.started,
                since=done[number - 1].over if number else since,
                begins=one.first,
                on=one.begun + (one.report.delay if one.report else 0.0),
                off=one.first + (one.report.seconds if one.report else 0.0),
                over=one.over,
                until=until if last else done[number + 1].first,
            )
            attributed.append((one, attribute_work(series, window)))
        return attributed

    def _once(self, flood_run: FloodRun, seed: int, before: Mapping[str, int]) -> dict[str, int]:
        """Flood once; returns the host's counters after it."""
        flood = flood_run.flood
        mac, ip = PEERS[flood.interface]
        plan = {**self._plan, "kind": flood.kind, "interface": self._names.get(flood.interface, flood.interface)}
        plan |= {"peer_mac": mac, "peer_ip": ip, "seed": seed, "seconds": FLOOD_S, "rest": REST_S, "recovery": RECOVERY}
        answer = BEGIN.run_in_vm(self._run_vm, 60.0, json.dumps(plan))
        flood_run.begun = time.monotonic()
        if not answer.begun:
            raise RemoteScriptError(f"the flood did not start: {answer.trouble[:200]}")
        report = END.run_in_vm(self._run_vm, 90.0 + FLOOD_S + RECOVERY, json.dumps(plan))
        after = counters(self._run_host(COUNTERS)[1])
        flood_run.report = report
        flood_run.risen = {name: number - before.get(name, 0) for name, number in after.items()}
        return after


def run_flood(
    run_vm: RunInVm,
    run_host: RunOnHost,
    *,
    seed: int = 0,
    quick: bool = False,
    settings: Settings | None = None,
    folder: str = FRONT_END,
    floods: Collection[Flood] = FLOODS,
    names: Mapping[str, str] | None = None,
) -> list[Result]:
    """Flood from the VM, kind by kind; one result each. What could not be tested is tried once more.

    Args:
        run_vm: the VM's root shell.
        run_host: the host's root shell.
        seed: of every random choice.
        quick: only the first `QUICK` kinds.
        settings: where the backend is; the appliance's if None.
        folder: where the VM's keys are.
        floods: which.
        names: other names of the VM's interfaces ``access`` and ``link``, for tests.
    """
    place = settings or Settings()
    plan = {
        "address": place.address,
        "port": place.port,
        "name": BACKEND_NAME,
        "folder": folder,
        "file": f"{'/tmp' if settings is None else folder}/sallyport-flood.json",
    }
    flooder, rng = Flooder(run_vm, run_host, plan, names or {}), random.Random(seed)
    chosen = [(flood, rng.getrandbits(32)) for flood in list(floods)[: QUICK if quick else None]]
    results: dict[str, Result] = {}
    for _ in range(TRIES):
        tested = {name for name, result in results.items() if result.verdict is not Verdict.NOT_TESTED}
        left = [one for one in chosen if one[0].name not in tested]
        results |= {result.name: result for result in _judged(flooder, left)}
    return [results[flood.name] for flood, _ in chosen]


def _judged(flooder: Flooder, floods: Sequence[tuple[Flood, int]]) -> list[Result]:
    """Flood by some kinds, and judge."""
    if not floods:
        return []
    try:
        done = flooder.all(floods)
    except (RemoteScriptError, SallyportError, OSError) as error:
        done = [(FloodRun(flood, trouble=str(error)), Work((), None, None)) for flood, _ in floods]
    results = []
    for one, work in done:
        verdict, evidence, control = Verdict.NOT_TESTED, one.trouble, "none seen"
        if one.report is not None:
            verdict, evidence, control = judge(one.flood, one.report, work, one.risen)
        tried = f"{one.flood.tried}, as fast as the VM can for {FLOOD_S:.0f} s"
        results.append(Result(GROUP, one.flood.name, tried, verdict, evidence, control, one.seconds))
    return results
