"""Runs the traffic program in a test bed and reads what came through, and what it cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootfs.base.errors import SallyportError
from rootfs.base.process import environment, run
from rootfs.base.version import PROJECT
from tests.bench.forwarder_bed import FAR, FAR_IP, FAR_MAC, OUT, OUT_MAC, Bed, Space

SOURCES = PROJECT / "tests/bench/c"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")
_WARM_S = 0.3
_SETTLE_S = 0.1
_TCP_PORT = 5001


def compile_program(name: str, directory: Path, sources: Sequence[str] = (), *, static: bool = False) -> Path:
    """Compile ``tests/bench/c/<name>.c`` with this machine's compiler, together with other sources of the project.

    Raises:
        SallyportError: there is no compiler.
        CommandError: it refused.
    """
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SallyportError("this machine has no C compiler for the benchmark's programs", "apt-get install gcc")
    program = directory / name
    words: list[str | Path] = [SOURCES / f"{name}.c", *(PROJECT / source for source in sources), "-pthread"]
    run([compiler, *_FLAGS, *(["-static"] if static else []), *words, "-o", program])
    return program


@dataclass(frozen=True)
class Processors:
    """Where the threads of a measurement run."""

    sender: int
    datapath: int

    @staticmethod
    def here() -> Processors:
        """The first two processors that we may use; on a machine with one all share it."""
        cpus = sorted(os.sched_getaffinity(0))
        return Processors(cpus[0], cpus[min(1, len(cpus) - 1)])


def busy_seconds(before: str, after: str, elapsed: float) -> float:
    """Seconds of processor time that were used between two readings of ``/proc/stat``, all processors together.

    What was not idle, waiting for a disk, or taken away by a hypervisor, is busy: idle time is measured by the kernel's
    clock, but user, system and softirq time are sampled by its tick, which a sender that sleeps by a timer beats with.
    """
    total = 0.0
    rows = [
        {w[0]: w for w in (line.split() for line in text.splitlines()) if w and w[0] != "cpu"}
        for text in (before, after)
    ]
    for name, old in rows[0].items():
        if name.startswith("cpu"):
            # proc_stat(5): user nice system idle iowait irq softirq steal, in hundredths of a second
            rest = sum(int(rows[1][name][column]) - int(old[column]) for column in (4, 5, 8))
            total += elapsed - rest / os.sysconf("SC_CLK_TCK")
    return max(total, 0.0)


def softnet_drops(text: str) -> int:
    """Frames that no processor's backlog had room for: second column of ``/proc/net/softnet_stat``."""
    return sum(int(line.split()[1], 16) for line in text.splitlines() if line.strip())


def _tasks_clock(pids: Sequence[int]) -> float:
    """Seconds of processor time that processes have used so far, by the scheduler's clock (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def _ksoftirqds() -> list[int]:
    """The kernel threads that process frames when there are too many for a borrowed context."""
    names = ((int(path.parent.name), path) for path in Path("/proc").glob("[0-9]*/comm"))
    found = []
    for pid, path in names:
        with suppress(OSError):
            if path.read_text().startswith("ksoftirqd/"):
                found.append(pid)
    return found


@dataclass(frozen=True)
class Passage:
    """What came of one stretch of traffic. Frames and seconds of the window; ``sent`` and ``lost`` of all of it.

    ``busy`` is processor time of the whole machine, ``tasks`` that of sender, datapath and ksoftirqd alone: on a
    machine with nothing else to do they agree, on another one only the latter says something.
    """

    frames: int
    seconds: float
    busy: float
    tasks: float
    sent: int
    lost: int
    backlog_drops: int

    @property
    def others(self) -> float:
        """Processors that everything else on this machine kept busy."""
        return max(0.0, (self.busy - self.tasks) / self.seconds)

    @property
    def rate(self) -> float:
        """Delivered frames per second."""
        return self.frames / self.seconds

    @property
    def cpu_machine(self) -> float:
        """Seconds of the machine's processors per million delivered frames, sender included."""
        return self.busy / self.frames * 1e6 if self.frames else 0.0

    @property
    def cpu_tasks(self) -> float:
        """The same of those concerned."""
        return self.tasks / self.frames * 1e6 if self.frames else 0.0


@dataclass(frozen=True)
class Traffic:
    """The traffic program. Directions: ``one`` (port to VM), ``both``."""

    program: Path
    processors: Processors

    @staticmethod
    def _senders(bed: Bed, direction: str) -> list[tuple[Space, str, str, str]]:
        forth = (bed.sender, OUT, FAR_MAC, OUT_MAC)
        back = (bed.receiver, FAR, OUT_MAC, FAR_MAC)
        return [forth] if direction == "one" else [forth, back]

    def flow(
        self, bed: Bed, size: int, direction: str, rate: float, seconds: int, *, process: int | None = None
    ) -> Passage:
        """Send for so many seconds, ``rate`` frames per second of all senders together, 0: flat out.

        ``process`` is the datapath's, if it has one.

        Raises:
            SallyportError: the sender failed.
        """
        senders = self._senders(bed, direction)
        share = max(1, round(rate / len(senders))) if rate else 0
        cpu = str(self.processors.sender)
        before, dropped = bed.delivered(), softnet_drops(Path("/proc/net/softnet_stat").read_text())
        children = [
            subprocess.Popen(
                [self.program, "send", space.file, name, to, source, str(size), str(share), str(seconds), cpu],
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for space, name, to, source in senders
        ]
        tasks = [*(child.pid for child in children), *([process] if process else []), *_ksoftirqds()]

        def look() -> tuple[float, str, int, float]:
            return time.monotonic(), Path("/proc/stat").read_text(), bed.delivered(), _tasks_clock(tasks)

        try:
            time.sleep(_WARM_S)
            first = look()
            time.sleep(seconds - 2 * _WARM_S)
            last = look()
            sent = sum(_answer(child)["sent"] for child in children)
        finally:
            for child in children:
                child.kill()
                child.wait()
        time.sleep(_SETTLE_S)
        elapsed = last[0] - first[0]
        return Passage(
            frames=last[2] - first[2],
            seconds=elapsed,
            busy=busy_seconds(first[1], last[1], elapsed),
            tasks=last[3] - first[3],
            sent=sent,
            lost=sent - (bed.delivered() - before),
            backlog_drops=softnet_drops(Path("/proc/net/softnet_stat").read_text()) - dropped,
        )

    def latency(self, bed: Bed, size: int, rate: int, seconds: int) -> dict[str, float]:
        """One-way latency in microseconds from port to VM: p50, p90, p99, max; and frames sent and received.

        Raises:
            CommandError: the program failed.
        """
        words: list[str | Path] = [bed.sender.file, OUT, bed.receiver.file, FAR, FAR_MAC, OUT_MAC]
        cpu = str(self.processors.sender)
        found = json.loads(run([self.program, "latency", *words, str(size), str(rate), str(seconds), cpu]))
        return {k: v if k in ("sent", "received") else v / 1000 for k, v in found.items()}


def _answer(child: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = child.communicate(timeout=60)
    if child.returncode != 0:
        raise SallyportError("the benchmark's sender failed; its message stands above", "run it as root")
    found: dict[str, int] = json.loads(output)
    return found


def stream(program: Path, bed: Bed, seconds: int) -> float:
    """One TCP connection from port to VM; gigabits per second.

    Raises:
        CommandError: it did not get through.
    """
    drain = subprocess.Popen(bed.receiver.inside(program, "drain", str(_TCP_PORT)), env=environment())
    try:
        deadline = time.monotonic() + 5
        while f":{_TCP_PORT}" not in bed.receiver.run("ss", "-Htln"):
            if time.monotonic() > deadline:
                raise SallyportError("the TCP receiver does not listen", "try again")
        words: list[str | Path] = ["timeout", str(seconds + 20), program, "pour", FAR_IP, str(_TCP_PORT), str(seconds)]
        found: dict[str, Any] = json.loads(bed.sender.run(*words))
    finally:
        drain.kill()
        drain.wait()
    return float(found["bytes"] * 8 / found["ns"])
