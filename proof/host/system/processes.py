"""Judges of processes: their rights, their terminals, and the VM's QEMU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from proof.host.system.answers import Process, Processes, Space, port_space
from proof.host.system.declaration import (
    CAPABILITIES,
    QEMU,
    QEMU_FILES,
    QEMU_FLAGS,
    SHELL,
    TERMINAL,
    Program,
    programs,
    qemu_words,
)
from proof.host.system.finding import Finding
from rootfs.spec.profile import Forwarder


def mask(names: str) -> int:
    """Return a capability set as the bit mask of /proc (capabilities(7))."""
    return sum(1 << CAPABILITIES[name] for name in names.split())


def _number(text: str, base: int = 16) -> int:
    """Return a number of /proc; -1, which is more than any set allows, if the text is none."""
    try:
        return int(text, base)
    except ValueError:
        return -1


def _too_much(process: Process, program: Program) -> Iterator[str]:
    """Yield the rights that a process has beyond its declaration."""
    status = process.status
    for key in ("Uid", "Gid"):
        if status.get(key, "").split() != [str(program.uid)] * 4:
            yield f"{key} {status.get(key, '')!r}"
    if more := {_number(group, 10) for group in status.get("Groups", "").split()} - program.groups - {program.uid}:
        yield f"groups {sorted(more)}"
    for key in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
        if _number(status.get(key, "")) & ~mask(program.bound if key == "CapBnd" else program.caps):
            yield f"{key} {status.get(key, '')}"
    if program.confined and (status.get("NoNewPrivs"), status.get("Seccomp")) != ("1", "2"):
        yield f"NoNewPrivs {status.get('NoNewPrivs')}, Seccomp {status.get('Seccomp')}"
    for thread in process.threads:
        words = thread.split()
        good = len(words) == 8 and words[:4] == [str(program.uid)] * 4
        good = good and not (_number(words[4]) | _number(words[5])) & ~mask(program.caps)
        if not good or (program.confined and words[6:] != ["1", "2"]):
            yield f"a thread with {thread!r}"


def shell(answer: Processes) -> frozenset[int]:
    """Return the test shell's processes: the script, its ancestors below init, the ``cat`` for all output."""
    by_pid = {process.pid: process for process in answer.processes}
    found: list[int] = []
    at = by_pid.get(answer.me)
    while at is not None and at.pid > 1 and at.pid not in found:
        if found and at.exe != SHELL:
            break
        found.append(at.pid)
        at = by_pid.get(at.parent)
    last = found[-1] if found else 0
    found += [p.pid for p in answer.processes if p.parent == last and p.exe == SHELL and p.words == ["cat"]]
    return frozenset(found)


_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of linux/sched.h."""


def judge_processes(answer: Processes, spaces: Mapping[str, Space], forwarder: Forwarder) -> Finding:
    """Judge each process against the declared ones; the namespaces that they are in: `judge_interfaces`."""
    declared = programs(forwarder)
    finding = Finding(tuple(program.name for program in declared if program.wanted))
    mine = shell(answer)
    places = {port_space(spaces): "port"}
    places |= {process.net: "host" for process in answer.processes if process.pid == 1}
    count = 0
    for process in answer.processes:
        if process.flags & _KERNEL_THREAD or process.pid in mine:
            continue
        count += 1
        line = " ".join(process.words)
        who = f"{process.exe or line or '?'} (process {process.pid}, user {process.status.get('Uid', '').split()[:1]})"
        fits = [p for p in declared if re.fullmatch(p.exe, process.exe) and re.fullmatch(p.words, line)]
        if not fits or (fits[0].name == "systemd" and process.pid != 1):
            finding.holes.append(f"not declared: {who}: {line[:160]}")
            continue
        excess = list(_too_much(process, fits[0]))
        if (netns := places.get(process.net, "own")) != fits[0].netns:
            excess.append(f"is in the network namespace {netns!r}, not {fits[0].netns!r}")
        finding.holes += [f"{fits[0].name}, {who}: {what}" for what in excess]
        finding.seen.add(fits[0].name)
    names = [p.name for p in declared if p.name not in ("VM", "executor", "counters")]
    for name in names:
        program = next(p for p in declared if p.name == name)
        same = [
            p for p in answer.processes if p.pid not in mine and " ".join(p.words) and re.fullmatch(program.exe, p.exe)
        ]
        if sum(1 for p in same if re.fullmatch(program.words, " ".join(p.words))) > 1:
            finding.holes.append(f"more than one {name}")
    finding.counted = f"{count} processes, {len(mine)} of the test shell besides"
    return finding


def judge_terminals(answer: Processes) -> Finding:
    """Judge which processes have a terminal, or read from one."""
    finding = Finding(("the test shell's terminal",))
    mine = shell(answer)
    for process in answer.processes:
        name = f"{process.exe} (process {process.pid})"
        if process.pid in mine:
            if any(TERMINAL.match(target) for target, _ in process.files):
                finding.seen.add("the test shell's terminal")
            continue
        if process.terminal:
            finding.holes.append(f"{name} has a controlling terminal")
        for target, mode in process.files:
            if TERMINAL.match(target) and mode != 1:
                finding.holes.append(f"{name} may read {target}")
    finding.counted = f"{len(answer.processes)} processes"
    return finding


def judge_vm(answer: Processes, forwarder: Forwarder, arch: str) -> Finding:
    """Judge the VM's QEMU: its command line word by word, and its open files."""
    finding = Finding(("the VM's QEMU", "its disk", "its two NICs", "its sandbox", "its console's pipe"))
    # The supervisor's own connections to the journal: QEMU must not share one, or it could log as the supervisor.
    own = {
        target
        for process in answer.processes
        if process.words[1:] == ["-I", "-m", "backend.guests.supervisor"]
        for target, _ in process.files
    }
    for process in answer.processes:
        if not re.fullmatch(QEMU, process.exe):
            continue
        finding.seen.add("the VM's QEMU")
        left = {option: list(patterns) for option, patterns in qemu_words(forwarder, arch).items()}
        flags = list(QEMU_FLAGS)
        words = iter(process.words[1:])
        for word in words:
            if word in flags:
                flags.remove(word)
                continue
            value = next(words, "")
            fit = next((pattern for pattern in left.get(word, []) if re.fullmatch(pattern, value)), None)
            if fit is None:
                finding.holes.append(f"not declared: {word} {value}"[:200])
            else:
                left[word].remove(fit)
        finding.holes += [f"missing: {flag}" for flag in flags]
        finding.holes += [f"missing: {option} {pattern}" for option, patterns in left.items() for pattern in patterns]
        for name, option in (("its disk", "-drive"), ("its two NICs", "-netdev"), ("its sandbox", "-sandbox")):
            if not left[option]:
                finding.seen.add(name)
        for target, _ in process.files:
            if not QEMU_FILES.fullmatch(target):
                finding.holes.append(f"has open: {target[:160]}")
            if target in own and target.startswith("socket:"):
                finding.holes.append(f"shares {target} with the supervisor, so it could log in the supervisor's name")
            if target in own and target.startswith("pipe:"):
                finding.seen.add("its console's pipe")
    return finding
