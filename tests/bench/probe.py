"""`invoke bench.probe`: the proof's sweeps beside nmap and masscan, at the same VM of the same booted image.

All of them reach the VM through the same tap, one after the other, each on the machine as it was right after its boot.
The VM has a mix of ports that is known: open ones, UDP services that answer and such that never do. What a peer says of
them is compared with that: a sweep that is quick and wrong is no sweep.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from backend.common.tap import open_tap
from driver.errors import MachineError
from proof import verify
from proof.rig import Rig
from proof.scan.controls import ipv4_path
from proof.scan.numbered import TcpPorts, UdpPorts
from proof.scan.pace import Pace, RefusalControl, SynControl
from proof.scan.sweep import find_closed_udp, run_sweep
from proof.stages import STAGES, Effort
from proof.wire.craft import arp_request
from proof.wire.interface import PacketWire
from proof.wire.neighbour import answering
from proof.wire.target import Target
from rootfs import build as images
from rootfs.artifact.imagefile import open_image
from rootfs.base.cache import Cache
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.base.process import environment
from rootfs.base.tools_tree import Tools
from rootfs.build import Built
from tests.bench import figures
from tests.bench.figures import Figure
from tests.bench.forwarder_bed import Space
from tests.mutants.plants import background

TAP = "probe0"
NMAP_IP, MASSCAN_IP = "192.168.42.2", "192.168.42.3"
MASSCAN_MAC = "02:74:65:73:74:03"
NMAP = ("-n", "-Pn", "--send-eth", "-sS", "-sU", "-p", "0-65535", "-T4", "--min-rate", "{rate}", "--max-retries", "2")
"""nmap waits up to a second for each of its retries; without them it called open ports filtered. At the task's default
rate it was right about every port of the nested VM in each run, at twice that not; left to itself it needed twice the
time. It is a least rate: where the VM answers faster, nmap sends faster. masscan keeps to its own, whatever is lost."""
MASSCAN = ("-p0-65535,U:0-65535", "--wait", "3", "--rate", "{rate}", "--retries", "0")
LIBRARIES = {"LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu/blas"}
"""nmap needs libblas.so.3, of which Debian's alternatives make a link when a package is set up; here none ever is."""
DEADLINE = 900.0
FULL_S, QUICK_S, NMAP_RATIO, MASSCAN_RATIO = 120.0, 60.0, 0.2, 1.0
_Value = TypeVar("_Value")
_SERVE = """
import select, socket
kept, polled = [], []
for port in {tcp}:
    s = socket.socket(); s.bind(("0.0.0.0", port)); s.listen(64); kept.append(s)
for port in {silent} + {echo}:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", port)); kept.append(s)
    if port in {echo}: polled.append(s)
"""
_ECHO = """
while True:
    for s in select.select(polled, [], [])[0]:
        data, where = s.recvfrom(2048); s.sendto(data, where)"""


@dataclass(frozen=True)
class Mix:
    """What the VM's ports are."""

    tcp: frozenset[int]
    echo: frozenset[int]
    silent: frozenset[int]

    @classmethod
    def planted(cls, rig: Rig, rng: random.Random) -> Mix:
        """Open random ports in the VM."""
        ports = rng.sample(range(3000, 60000), 36)
        mix = cls(frozenset(ports[:12]), frozenset(ports[12:24]), frozenset(ports[24:]))
        code = _SERVE.format(tcp=sorted(mix.tcp), echo=sorted(mix.echo), silent=sorted(mix.silent))
        for line in background(code, ready=_ECHO):
            status, said = rig.run_vm(line)
            if status != 0:
                raise MachineError(f"the mix of ports cannot be opened: {said[-200:]}")
        return mix


@dataclass(frozen=True)
class Said:
    """What a sweep said: TCP and UDP ports that are open, and UDP ports that it could not tell from open ones."""

    tcp: frozenset[int]
    udp: frozenset[int]
    unsure: frozenset[int]

    def wrong(self, mix: Mix, target: Target) -> int:
        """Ports that are open and were not found, or were called open and are not."""
        tcp = self.tcp ^ (mix.tcp | target.tcp_open)
        return len(tcp) + len(self.udp ^ mix.echo) + len(self.unsure - mix.silent)

    @classmethod
    def of_nmap(cls, text: str) -> Said:
        """Read what ``nmap -oX -`` printed; a filtered TCP port is one that it takes for more than closed."""
        ports: dict[tuple[str, str], set[int]] = {}
        for port in ElementTree.fromstring(text).iter("port"):
            state = port.find("state")
            key = str(port.get("protocol")), "" if state is None else str(state.get("state"))
            ports.setdefault(key, set()).add(int(str(port.get("portid"))))
        tcp = ports.get(("tcp", "open"), set()) | ports.get(("tcp", "filtered"), set())
        unsure = ports.get(("udp", "open|filtered"), set())
        return cls(frozenset(tcp), frozenset(ports.get(("udp", "open"), set())), frozenset(unsure))

    @classmethod
    def of_masscan(cls, text: str) -> Said:
        """Read what ``masscan -oJ -`` printed."""
        found: dict[str, set[int]] = {"tcp": set(), "udp": set()}
        for item in json.loads(text.strip() or "[]"):
            for port in item["ports"]:
                if port["status"] == "open":
                    found[port["proto"]].add(int(port["port"]))
        return cls(frozenset(found["tcp"]), frozenset(found["udp"]), frozenset())


def in_space(space: Space, work: Callable[[], _Value]) -> _Value:
    """Do ``work`` in a network namespace, in a thread that ends with it (setns(2))."""
    found: list[_Value] = []
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            descriptor = os.open(space.file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000):  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


class Scanner:
    """Runs the three of them through one tap."""

    def __init__(self, space: Space, target: Target, peers: Tools, rates: dict[str, int]) -> None:
        self._space, self._target, self._peers, self._rates = space, target, peers, rates

    def own_files(self, seed: int) -> Said:
        """The proof's own sweeps of one family."""
        path, rng, pace = ipv4_path(self._target), random.Random(seed), Pace()
        with (
            in_space(self._space, lambda: PacketWire(TAP)) as wire,
            answering(wire, self._target),
            wire.tap() as tap,
        ):
            syn = SynControl(path, self._target.control_port, rng)
            tcp = run_sweep(wire, tap, TcpPorts(path, rng), range(65536), control=syn, rng=rng, pace=pace)
            closed = find_closed_udp(wire, tap, path, rng)
            if closed is None:
                raise MachineError("no UDP port of the VM says that it is closed")
            refusal = RefusalControl(path, closed, rng)
            udp = run_sweep(wire, tap, UdpPorts(path, rng), range(65536), control=refusal, rng=rng, pace=pace)
        unknown = tcp.untested | tcp.silent
        return Said(frozenset(tcp.open | unknown), frozenset(udp.open), frozenset(udp.silent | udp.untested))

    def nmap(self, seed: int) -> Said:
        """nmap(1)."""
        del seed
        return Said.of_nmap(self._peer("nmap", *NMAP, "-e", TAP, "-oX", "-", self._target.vm_ipv4))

    def masscan(self, seed: int) -> Said:
        """masscan(8); it does not say what is silent."""
        ends = ("--adapter-ip", MASSCAN_IP, "--adapter-mac", MASSCAN_MAC, "--router-mac", self._target.vm_mac)
        words = (*MASSCAN, "--adapter", TAP, *ends, "--seed", str(seed), "-oJ", "-", self._target.vm_ipv4)
        with self._ticking():
            return Said.of_masscan(self._peer("masscan", *words))

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        """Have the VM say something twice a second: masscan ends only when it has received one more frame."""
        ended = threading.Event()
        with in_space(self._space, lambda: PacketWire(TAP)) as wire:

            def tick() -> None:
                while not ended.wait(0.5):
                    wire.send(arp_request(ipv4_path(self._target)))

            ticker = threading.Thread(target=tick, name="tick", daemon=True)
            ticker.start()
            try:
                yield
            finally:
                ended.set()
                ticker.join()

    def _peer(self, name: str, *words: str) -> str:
        filled = [word.format(rate=self._rates[name]) for word in words]
        argv = self._space.inside(*self._peers.argv([name, *filled], cwd=Path("/tmp")))
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environment(LIBRARIES), timeout=DEADLINE, check=False
        )
        if done.returncode != 0:
            raise SallyportError(f"{name} ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout


@contextmanager
def bed() -> Iterator[tuple[Space, int]]:
    """A network namespace with a tap; returns both."""
    with ExitStack() as stack:
        space = Space()
        stack.callback(space.close)
        descriptor = in_space(space, lambda: open_tap(TAP))
        stack.callback(os.close, descriptor)
        space.run("ip", "address", "add", f"{NMAP_IP}/24", "dev", TAP)
        space.run("ip", "link", "set", TAP, "up")
        yield space, descriptor


def run(runs: int, output: Path, console: Console, built: Built, *, rates: dict[str, int], sweeps: bool = True) -> None:
    """Measure everything and write the figures.

    Args:
        runs: how often each is measured.
        output: for the figures.
        console: where to tell.
        built: the test image.
        rates: packets per second of each peer.
        sweeps: measure the whole sweep outside, too, full and quick.

    Raises:
        SallyportError: the image does not come up, or a peer fails.
    """
    bench = figures.begin(runs, output, console)
    sets = PackageSets(Cache(images.CACHE, Console(quiet=True)))
    image = open_image(built.image)
    target = verify.target(image)
    seconds: dict[str, list[float]] = {}
    wrong: dict[str, list[int]] = {}
    with bed() as (space, tap), tempfile.TemporaryDirectory() as folder, console.status("") as status:
        scanner = Scanner(space, target, sets.peers, rates)
        with Rig(sets.tools, image, target, Path(folder), say=status.update, tap=tap) as rig:
            for number in range(runs):
                for name, scan in (("ours", scanner.own_files), ("nmap", scanner.nmap), ("masscan", scanner.masscan)):
                    status.update(f"{name}, {number + 1} of {runs}")
                    rig.restore(name)
                    mix = Mix.planted(rig, random.Random(number))
                    with rig.alone():
                        rig.machine.connect("hub-wire", up=False)
                        took, said = figures.timed(lambda scan=scan, number=number: scan(number))  # type: ignore[misc]
                    seconds.setdefault(name, []).append(took)
                    wrong.setdefault(name, []).append(said.wrong(mix, target))
                    console.print(f"{name}: {took:.1f} s, {wrong[name][-1]} wrong", highlight=False)
                for name, quick in (("full", False), ("quick", True)) if sweeps else ():
                    status.update(f"{name} sweep from outside, {number + 1} of {runs}")
                    rig.restore(name)
                    began = time.monotonic()
                    STAGES["outside"](rig, Effort(seed=number, quick=quick), lambda what, done, of: None)
                    seconds.setdefault(name, []).append(time.monotonic() - began)
    console.print(_comparison(seconds, wrong))
    found = [
        Figure(f"TCP and UDP, all ports: {name}", "s", None, tuple(seconds[name]))
        for name in ("ours", "nmap", "masscan")
    ]
    for name, most in (("nmap", NMAP_RATIO), ("masscan", MASSCAN_RATIO)):
        ratios = tuple(own_files / theirs for own_files, theirs in zip(seconds["ours"], seconds[name], strict=True))
        found.append(Figure(f"ours to {name}", "x", most, ratios))
    found.append(Figure("false results of ours", "ports", 0, tuple(float(count) for count in wrong["ours"])))
    if sweeps:
        found.append(Figure("whole sweep from outside", "s", FULL_S, tuple(seconds["full"])))
        found.append(Figure("quick sweep from outside", "s", QUICK_S, tuple(seconds["quick"])))
    bench.finish(found)


def _comparison(seconds: dict[str, list[float]], wrong: dict[str, list[int]]) -> Table:
    table = Table(title="TCP and UDP, all 65,536 ports of the VM, IPv4", title_justify="left")
    for column in ("", "s", "false results"):
        table.add_column(column, justify="right" if column else "left")
    for name, counts in wrong.items():
        table.add_row(name, ", ".join(f"{s:.1f}" for s in seconds[name]), ", ".join(map(str, counts)))
    return table
