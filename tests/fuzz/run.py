"""Builds the fuzz targets and runs them for a time: ``run()``; ``replay()`` gives each input of `seeds` to them once.

Programs are built and run by a `Start`, `on_tree()`: in the tools tree, whose compiler and C library belong together,
so that what it builds must run there as well. It sees one directory as its working directory, into which sources,
inputs and results go.

A target is one file ``fuzz_<name>.c``, a row of `TARGETS`, and a function of that name in seeds.py.
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import BUILD, Tools
from rootfs.tree.extension import COMPILER
from tests.fuzz import seeds

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
SOURCES = {name: PROJECT / name for name in ("backend/forwarder/core", "backend/lan/core", "tests/unit/forwarder/c")}
"""Folders of C that targets are linked with, by their path in the working directory."""
OUT = PROJECT / "out/fuzz"
_FUZZ = "tests/fuzz"

Start = Callable[[Sequence[str], Path], "subprocess.Popen[bytes]"]
"""Starts a program with the directory as its working directory and both its outputs in one pipe."""

FLAGS = (
    "-std=c11 -D_GNU_SOURCE -g -O1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unused-result "
    "-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
)
INPUT_SECONDS = 25
"""One input may take as long before it counts as a hang; all of them take milliseconds."""
MEMORY_MB = 2048
GRACE = 60
"""Seconds beyond its time after which a target is ended: the last input, and the report on a crash."""


@dataclass(frozen=True)
class Target:
    """One fuzz target."""

    name: str
    sources: tuple[str, ...]
    """Files below the project's root that it is linked with."""
    helpers: tuple[str, ...] = ()
    """Files of tests/fuzz beside its own."""
    longest: int = 4096
    """Bytes of an input."""
    link: tuple[str, ...] = ()

    @property
    def binary(self) -> str:
        """The program, in the working directory."""
        return f"./fuzz_{self.name}"


def _core(*names: str) -> tuple[str, ...]:
    return tuple(f"backend/forwarder/core/{name}" for name in names)


_VHOST = _core(
    *(f"vhost_{name}.c" for name in ("fault", "message", "net", "put", "request", "ring", "user")),
    "virtqueue.c",
    "guest_memory.c",
    "offload.c",
)
_LAN = tuple(f"backend/lan/core/{name}" for name in ("lan.c", "lan_frame.c", "table.c"))
_FRONT_END = ("front_end.c", "records.c")
_GUARD = ("-Wl,--wrap=mmap,--wrap=munmap",)  # the pages around guest memory, see front_end.h

TARGETS = (
    Target("vhost_user", _VHOST, (*_FRONT_END, "files.c", "say_any.c"), 2048, _GUARD),
    Target("virtqueue", _VHOST, _FRONT_END, 1536, _GUARD),
    Target("offload", _core("offload.c"), longest=400),
    Target("policy", (), longest=160),
    Target("lan", (*_LAN, "tests/unit/forwarder/c/memory.c", *_core("loop.c")), longest=4096),
)


@dataclass
class Result:
    """What became of a target."""

    target: Target
    executions: int = 0
    per_second: int = 0
    coverage: int = 0
    """Edges of the code that some input reached."""
    inputs: int = 0
    """In the corpus at the beginning."""
    found: int = 0
    """New ones that reached more, kept under ``out/fuzz/corpus``."""
    seconds: float = 0.0
    crashes: list[Path] = field(default_factory=list)
    message: str = ""
    """What the target said of its crash."""


@dataclass
class Report:
    """All results, in the order of the targets."""

    results: list[Result]
    reproduce: str
    """Command that gives one input to its target, ``{target}`` and ``{input}`` to be filled in."""

    @property
    def ok(self) -> bool:
        """Did nothing crash?"""
        return not any(result.crashes or result.message for result in self.results)

    @property
    def exit_code(self) -> int:
        """1 if something crashed, else 0."""
        return 0 if self.ok else 1

    def show(self, console: Console) -> None:
        """Print the table, and for each crash where it is kept and how to see it again."""
        table = Table("target", "inputs/s", "inputs run", "coverage", "corpus", "new", "time", "crashes")
        for column in table.columns[1:]:
            column.justify = "right"
        for result in self.results:
            crashes = len(result.crashes) or int(bool(result.message))
            table.add_row(
                result.target.name,
                f"{result.per_second:,}",
                f"{result.executions:,}",
                f"{result.coverage:,}",
                f"{result.inputs:,}",
                f"{result.found:,}",
                f"{result.seconds:.0f} s",
                f"[red]{crashes}[/red]" if crashes else "0",
            )
        console.print(table)
        for result in self.results:
            if result.message:
                console.print(f"{result.target.name}: {result.message}", style="red", markup=False)
            for crash in result.crashes:
                console.print(f"  kept: {crash}", markup=False, soft_wrap=True)
                again = self.reproduce.format(target=result.target.name, input=shlex.quote(str(crash)))
                console.print(f"  to see it again: {again}", markup=False, soft_wrap=True)


def on_tree(tools: Tools) -> Start:
    """Programs of the tools tree, in its sandbox."""

    def start(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
        return tools.start(
            [*COMPILER, *command[1:]] if command[0] == "clang" else command,
            binds=[(directory, BUILD)],
            cwd=BUILD,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


def _follow(
    start: Start, command: Sequence[str], directory: Path, on_line: Callable[[str], None], seconds: float
) -> int:
    """Run a program to its end, at most ``seconds``; returns its exit status."""
    child = start(command, directory)
    alarm = threading.Timer(seconds, child.kill)
    alarm.start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            on_line(line.decode(errors="replace").rstrip())
        return child.wait()
    finally:
        alarm.cancel()
        if child.poll() is None:
            child.kill()
            child.wait()


def _lay_out(work: Path, targets: Sequence[Target]) -> None:
    """Copy sources and inputs to where programs see them."""
    for name, source in (SOURCES | {_FUZZ: HERE}).items():
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
        for path in sorted(source.glob("*.[ch]")):
            shutil.copy2(path, work / name)
    for target in targets:
        for name in ("seeds", "crashes"):
            shutil.rmtree(work / name / target.name, ignore_errors=True)
        seeds.write(target.name, work / "seeds" / target.name)
        (work / "crashes" / target.name).mkdir(parents=True)
        (work / "corpus" / target.name).mkdir(parents=True, exist_ok=True)


def build(start: Start, work: Path, target: Target) -> None:
    """Build a target in ``work``.

    Raises:
        SallyportError: the compiler refused; with what it said.
    """
    sources = [f"{_FUZZ}/{name}" for name in (f"fuzz_{target.name}.c", *target.helpers)]
    sources += target.sources
    command = ["clang", *FLAGS.split(), *sources, *target.link, "-o", target.binary]
    lines: list[str] = []
    if _follow(start, command, work, lines.append, 600) != 0:
        raise SallyportError(
            f"cannot build the fuzz target {target.name}: " + "\n".join(lines[-15:]), shlex.join(command)
        )


def _read_line(line: str, result: Result) -> None:
    """Take in what libFuzzer says (https://llvm.org/docs/LibFuzzer.html, "Output")."""
    numbers = dict(re.findall(r"\b(cov|exec/s): (\d+)", line))
    if (counted := re.match(r"#(\d+)\s", line)) is not None:
        result.executions = int(counted[1])
    result.coverage = int(numbers.get("cov", result.coverage))
    if re.match(r"(\S+: does not hold: |.*\bruntime error: |==\d+==\s*ERROR: |SUMMARY: )", line) and not result.message:
        result.message = line


def _run_target(
    start: Start, work: Path, result: Result, seconds: float, seed: int, progress: Callable[[], None]
) -> None:
    target = result.target
    kept = work / "corpus" / target.name
    before = len(list(kept.iterdir()))
    result.inputs = before + len(list((work / "seeds" / target.name).iterdir()))
    command = [
        target.binary,
        f"-seed={seed}",
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={target.longest}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix=crashes/{target.name}/",
        "-print_final_stats=0",
        f"corpus/{target.name}",
        f"seeds/{target.name}",
    ]
    last: list[str] = []

    def on_line(line: str) -> None:
        last[:] = [*last[-3:], line]
        _read_line(line, result)
        progress()

    began = time.monotonic()
    status = _follow(start, command, work, on_line, seconds + GRACE)
    _finish(work, result, status, time.monotonic() - began, last)
    result.found = len(list(kept.iterdir())) - before


def _finish(work: Path, result: Result, status: int, seconds: float, last: Sequence[str]) -> None:
    result.seconds = seconds
    result.per_second = round(result.executions / max(seconds, 0.001))
    result.crashes = sorted((work / "crashes" / result.target.name).iterdir())
    if status == 0 and not result.crashes:
        result.message = ""
    elif not result.message:
        result.message = f"ended with status {status}: " + " / ".join(last)


def _each(
    targets: Sequence[Target],
    console: Console,
    words: str,
    seconds: float,
    work: Callable[[Result, Callable[[], None]], None],
) -> list[Result]:
    """Let ``work`` go over the targets, as many at a time as there are processors, and show how far it is."""
    results = [Result(target) for target in targets]
    waiting: queue.SimpleQueue[tuple[Result, TaskID]] = queue.SimpleQueue()
    errors: list[BaseException] = []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for result in results:
            name = f"{words} {result.target.name}"
            waiting.put((result, progress.add_task(name, total=max(seconds, 1), start=False, state="")))

        def worker() -> None:
            while not errors:
                try:
                    result, task = waiting.get_nowait()
                except queue.Empty:
                    return
                progress.start_task(task)
                began = time.monotonic()

                def show(result: Result = result, task: TaskID = task, began: float = began) -> None:
                    state = f"{result.executions:,} inputs, coverage {result.coverage:,}"
                    progress.update(task, completed=time.monotonic() - began, state=state)

                try:
                    work(result, show)
                except BaseException as error:  # handed on to the caller's thread
                    errors.append(error)
                show()
                progress.update(task, completed=max(seconds, 1))

        # Daemons: Ctrl-C must not wait for them.
        threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(len(targets), os.cpu_count() or 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results


_REPRODUCE = "invoke fuzz --target {target} --replay {input}"


def run(
    compiler: Start,
    minutes: float,
    targets: Sequence[str],
    console: Console,
    *,
    seed: int,
    work: Path = OUT,
    reproduce: str = _REPRODUCE,
) -> Report:
    """Fuzz for ``minutes`` in all, split evenly among ``targets`` and run as many at a time as there are processors.

    Args:
        compiler: starts clang, and what it builds.
        minutes: from the first target's start to the last one's end, building aside.
        targets: names of `TARGETS`; none: all.
        console: gets progress, and the seed.
        seed: of libFuzzer's random numbers; the same one repeats a run as far as time allows.
        work: what is found stays under ``corpus`` there, for the next time, and crashes under ``crashes``.
        reproduce: command of the caller that calls `replay()`.

    Raises:
        SallyportError: no such target, or one that cannot be built.
    """
    chosen = _chosen(targets)
    _lay_out(work, chosen)
    jobs = min(len(chosen), os.cpu_count() or 1)
    turns = -(-len(chosen) // jobs)
    seconds = minutes * 60 / turns
    console.print(f"fuzzing {len(chosen)} targets, {seconds:.0f} s each, {jobs} at a time, seed {seed}")
    _each(chosen, console, "build", 0, lambda result, _show: build(compiler, work, result.target))
    results = _each(
        chosen,
        console,
        "fuzz",
        seconds,
        lambda result, show: _run_target(compiler, work, result, seconds, seed, show),
    )
    return Report(results, reproduce)


def replay(
    compiler: Start,
    targets: Sequence[str],
    console: Console,
    *,
    inputs: Sequence[Path] = (),
    work: Path = OUT,
    reproduce: str = _REPRODUCE,
) -> Report:
    """Give each input that `seeds` has to its target once, or only ``inputs``; no random numbers, seconds of time.

    Raises:
        SallyportError: no such target, or one that cannot be built.
    """
    chosen = _chosen(targets)
    given = [(path, path.read_bytes()) for path in inputs]  # before crashes are cleared away
    _lay_out(work, chosen)

    def one(result: Result, show: Callable[[], None]) -> None:
        target = result.target
        build(compiler, work, target)
        folder = work / "seeds" / target.name
        if given:
            shutil.rmtree(folder)
            folder.mkdir()
            for path, content in given:
                (folder / path.name).write_bytes(content)
        result.inputs = len(list(folder.iterdir()))
        last: list[str] = []

        def on_line(line: str) -> None:
            last[:] = [*last[-3:], line]
            _read_line(line, result)
            if given and len(given) == 1:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            show()

        command = [target.binary, "-runs=0", f"-timeout={INPUT_SECONDS}", f"-artifact_prefix=crashes/{target.name}/"]
        began = time.monotonic()
        # A folder is loaded up to its longest input: the length must be told.
        longest = max((path.stat().st_size for path in folder.iterdir()), default=1)
        status = _follow(compiler, [*command, f"-max_len={longest}", f"seeds/{target.name}"], work, on_line, 600)
        _finish(work, result, status, time.monotonic() - began, last)

    return Report(_each(chosen, console, "replay", 0, one), reproduce)


def _chosen(names: Sequence[str]) -> list[Target]:
    known = {target.name: target for target in TARGETS}
    for name in names:
        if name not in known:
            raise SallyportError(f"no fuzz target {name!r}", f"there are {', '.join(known)}")
    return [known[name] for name in names] or list(TARGETS)
