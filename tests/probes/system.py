"""The running host, as its root sees it: mounts, processes, kernel settings, networks, rules, programs, sockets, files.

Theory of operation. `system_script` only tells; everything is judged here, against tables of what is declared, which
stand at the top as plain data. What is there and not declared is a hole. A check is believed only if it saw what must
be there (its ``wanted``): the services under their own users, the port in its namespace, a writable file that the
script planted. The packet rules are compared with the image's own files, which the script loads in empty namespaces of
the same kernel, so that both texts come from one printer; `tree` says what those files must be.

The script's answer is hostile like everything else from there: it is decoded into types, bounded, and never trusted to
be whole. (A kernel that lies to its root cannot be caught from within; the probes at the port and on the link can.)
"""

from __future__ import annotations

import ast
import base64
import functools
import hashlib
import json
import re
import shlex
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from backend import instructions as link
from rootfs.profile import Forwarder
from tests.probes.result import Result, Verdict
from tests.probes.tree import HOST_RULES, LINK_RULES, SYSCTL, port_rules, words

GROUP = "system"
Run = Callable[[str], tuple[int, str]]
"""Runs one command line in the host's root shell; returns its exit code and what it printed."""
SCRIPT = Path(__file__).with_name("system_script.py")
MAX_LINE = 4095
"""Bytes of a line to a terminal in canonical mode (termios(3))."""
MAX_REPORT = 1 << 22
"""Bytes of one answer, unpacked."""
TRIES = 3
SHOWN = 8

# ---------------------------------------------------------------------------------------------------- what is declared

_NUMBERED = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES: Mapping[str, int] = {name: number for number, name in enumerate(_NUMBERED.split())}
"""linux/capability.h"""
ALL = _NUMBERED
JOURNAL = (
    "SYS_ADMIN DAC_OVERRIDE SYS_PTRACE SYSLOG AUDIT_CONTROL AUDIT_READ CHOWN DAC_READ_SEARCH FOWNER SETUID SETGID "
    "MAC_OVERRIDE"
)


@dataclass(frozen=True)
class Program:
    """A process that may run, and the most that it may have.

    Args:
        name: for the report.
        exe: pattern of its executable.
        words: pattern of its command line, words joined by spaces.
        uid: its user, real, effective, saved and of files; its group has the same number.
        groups: further groups.
        caps: the most in its effective, permitted, inheritable and ambient sets.
        bound: the most in its bounding set.
        confined: it has NoNewPrivs and a system-call filter (proc_pid_status(5)).
        port: it lives in the port's network namespace, not in the host's.
        wanted: it must be seen.
    """

    name: str
    exe: str
    words: str
    uid: int = 0
    groups: frozenset[int] = frozenset()
    caps: str = ""
    bound: str = ""
    confined: bool = True
    port: bool = False
    wanted: bool = True


_PYTHON = r"/usr/bin/python3(\.\d+)?"
_QEMU = r"/usr/bin/qemu-system-x86_64(-microvm)?"
_OPENS = {"ring": "NET_RAW NET_ADMIN", "kernel": "BPF PERFMON NET_ADMIN"}


def programs(forwarder: Forwarder) -> tuple[Program, ...]:
    """Every process of the host but the kernel's own and the test shell's."""
    opens = _OPENS.get(forwarder.port, "NET_ADMIN")
    # On way `bridge` the process reads the counters of the kernel's rules for as long as it lives.
    keeps = "NET_ADMIN" if forwarder.port == "bridge" else ""
    system = "/usr/lib/systemd/systemd"
    forward = Program(
        "forwarder",
        _PYTHON,
        "/usr/bin/python3 -I -m backend.forwarder",
        902,
        groups=frozenset({900, 901}),
        caps=keeps,
        bound=opens,
        port=True,
    )
    found = [
        Program("systemd", system, rf"({system}|/sbin/init)( .*)?", caps=ALL, bound=ALL, confined=False),
        # It starts each service; what it is before that lasts a moment.
        Program("executor", f"{system}-executor", ".*", caps=ALL, bound=ALL, confined=False, wanted=False),
        Program("journal", f"{system}-journald", f"{system}-journald", caps=JOURNAL, bound=JOURNAL),
        Program("backend", _PYTHON, "/usr/bin/python3 -I -m backend.daemon", 900, groups=frozenset({903})),
        Program("supervisor", _PYTHON, "/usr/bin/python3 -I -m backend.supervisor", 901, groups=frozenset({104, 903})),
        Program("VM", _QEMU, rf"{_QEMU} -name frontend .*", 901, groups=frozenset({104, 903})),
        forward,
    ]
    if forwarder.port == "bridge":
        asks = "(ip|nft) -json .*"
        found.append(
            Program("counters", "/usr/s?bin/(ip|nft)", asks, 902, forward.groups, keeps, opens, port=True, wanted=False)
        )
    return tuple(found)


SHELL = "/usr/bin/busybox"
"""The test shell of a test image: the script's own ancestors, and the ``cat`` at the end of their pipe."""
TERMINAL = re.compile(r"/dev/(tty|console|hvc|pts/|ptmx|vcs)")

LIVE: Mapping[str, frozenset[str]] = {
    "kernel/modules_disabled": frozenset({"1"}),
    # systemd's own at the start; and no core of anything that is not dumpable (core(5)).
    "kernel/core_pattern": frozenset({"|/bin/false", ""}),
    "kernel/tainted": frozenset({"0"}),
}
"""Settings of the kernel beside `tree.SYSCTL`, with what they may be."""
PER_INTERFACE = (
    "forwarding",
    "mc_forwarding",
    "proxy_arp",
    "proxy_arp_pvlan",
    "accept_local",
    "route_localnet",
    "bootp_relay",
)
"""Settings of each IPv4 interface in each namespace that are 0 (kernel: Documentation/networking/ip-sysctl.rst)."""

VERITY = re.compile(
    r"root: 0 \d+ verity 1 (\d+:\d+) \1 4096 4096 \d+ \d+ sha256 (?P<hash>[0-9a-f]{64}) [0-9a-f]{64} "
    r"1 restart_on_corruption\s*"
)
"""``dmsetup table`` (kernel: Documentation/admin-guide/device-mapper/verity.rst)."""
EXECUTABLE: Mapping[str, str] = {}
"""Mount points that are writable and may hold programs, and why. There is no reason for any."""
ONE_FILE: Mapping[str, str] = {
    "/etc/machine-id": "systemd mounts this boot's over the image's empty one (machine-id(5))"
}
"""Mounts of one read-only file, which may lack ``nosuid``: the file is no program."""
FILE_SYSTEMS = words(
    "squashfs ext4 tmpfs ramfs devtmpfs devpts proc sysfs cgroup2 securityfs bpf debugfs tracefs configfs fusectl "
    "mqueue hugetlbfs efivarfs pstore nsfs binfmt_misc"
)

POLICIES = frozenset({(0, "local"), (32766, "main"), (32767, "default")})
"""Routing policy rules: the kernel's own three (ip-rule(8))."""
DISCIPLINES = words("noqueue pfifo_fast pfifo fq_codel fq mq")
"""Queueing disciplines without a place for a filter; ``clsact`` and ``ingress`` are such places (tc(8))."""
SCHED_CLS, CGROUP_SKB, CGROUP_DEVICE, LSM = 3, 8, 15, 29
"""``enum bpf_prog_type`` (linux/bpf.h): way ``kernel``; systemd's IPAddressDeny=, DevicePolicy=, RestrictFileSystems=.

systemd loads the last one whether a unit asks for it or not (src/core/bpf-restrict-fs.c).
"""

SOCKETS: Mapping[str, tuple[int, int]] = {
    "/run/systemd/notify": (0o777, 0),
    "/run/systemd/private": (0o777, 0),
    "/run/systemd/io.systemd.ManagedOOM": (0o777, 0),
    "/run/systemd/io.systemd.Manager": (0o777, 0),
    "/run/systemd/userdb/io.systemd.DynamicUser": (0o777, 0),
    "/run/systemd/journal/dev-log": (0o666, 0),
    "/run/systemd/journal/socket": (0o666, 0),
    "/run/systemd/journal/stdout": (0o666, 0),
    "/run/systemd/journal/syslog": (0o666, 0),
    "/run/systemd/journal/io.systemd.journal": (0o600, 0),
    "/run/sallyport/port/status.sock": (0o660, 902),
    "/run/sallyport/port/control.sock": (0o600, 902),
    "/run/sallyport/port/taps.sock": (0o660, 902),
    "/run/sallyport/port/vhost-user.sock": (0o660, 902),
    "/run/sallyport/vm/heartbeat.sock": (0o660, 901),
}
"""Unix sockets that take what nobody asked for: the most of their mode, and their owner."""
WRITABLE = re.compile(
    r"/dev/(null|zero|full|random|urandom|tty|ptmx|pts/ptmx|net/tun|fuse)|(/tmp|/dev/shm|/dev/mqueue)(?=\Z)"
)
"""What everybody may write. The directories are sticky."""
PLANTED = ("/run", "/data", "/tmp", "/dev")
"""Where the script must have found its own file."""

_FRONTEND = re.escape("/usr/share/sallyport/frontend/")
_GUEST = re.escape("/run/sallyport/guest/")
_MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
HANDED = words("backend.crt link.crt link.key settings.json ssh.key web.crt web.key")
"""Files that the VM is handed."""
QEMU_FLAGS = ("-nodefaults", "-no-user-config", "-no-reboot")


def qemu_words(forwarder: Forwarder) -> Mapping[str, tuple[str, ...]]:
    """QEMU's options but `QEMU_FLAGS`, each with one pattern for each time that it stands on the command line, once."""
    user = forwarder.vm == "vhost-user"
    memory = ",memory-backend=memory" if user else ""
    common = {
        "-name": ("frontend",),
        "-M": (
            "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off,pcie=off,mem-merge=off,dump-guest-core=off"
            + memory,
        ),
        "-global": (r"virtio-mmio\.force-legacy=false",),
        "-accel": ("kvm|tcg,thread=multi,tb-size=64",),
        "-cpu": ("host,svm=off,vmx=off,pmu=off|max,svm=off",),
        "-m": (r"\d+",),
        "-smp": (r"\d+",),
        "-display": ("none",),
        "-kernel": (f"{_FRONTEND}vmlinuz",),
        "-initrd": (f"{_FRONTEND}initrd",),
        "-append": (r"console=ttyS0 (?!.*\b(init|rdinit|root)=).*",),
        "-serial": ("chardev:console",),
        "-drive": (f"id=root,if=none,format=raw,readonly=on,file={_FRONTEND}root.squashfs",),
        "-device": (
            "virtio-blk-device,drive=root",
            f"virtio-net-device,netdev=access,mac={_MAC}",
            f"virtio-net-device,netdev=link,mac={link.FRONTEND_MAC}",
            "virtio-rng-device",
        ),
        "-sandbox": ("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",),
        "-fw_cfg": tuple(f"name=opt/sallyport/{re.escape(n)},file={_GUEST}{re.escape(n)}" for n in sorted(HANDED)),
        "-chardev": ("stdio,id=console,signal=off",),
        "-netdev": (r"tap,id=access,fd=\d+", r"tap,id=link,fd=\d+"),
    }
    if user:
        common |= {
            "-object": (r"memory-backend-memfd,id=memory,size=\d+M,share=on,seal=on",),
            "-chardev": (
                "stdio,id=console,signal=off",
                r"socket,id=forwarder,path=/run/sallyport/port/vhost-user\.sock,reconnect-ms=\d+",
            ),
            "-netdev": ("vhost-user,id=access,chardev=forwarder", r"tap,id=link,fd=\d+"),
        }
    return common


QEMU_FILES = re.compile(
    rf"(socket|pipe):\[\d+\]|anon_inode:.*|/memfd:.*|/dev/(null|kvm|net/tun|u?random)|{_FRONTEND}.*|{_GUEST}.*"
)
"""What QEMU has open."""

# -------------------------------------------------------------------------------------------------- what the host tells


class AnswerError(Exception):
    """The host's answer cannot be relied on."""


class Process(Struct, frozen=True):
    """See ``part_processes`` of the script; ``files`` are pairs (where to, access mode of open(2))."""

    pid: int
    parent: int
    terminal: int
    flags: int
    exe: str
    words: list[str]
    status: dict[str, str]
    threads: list[str]
    files: list[tuple[str, int]]
    net: str
    group: str


class Processes(Struct, frozen=True):
    """Every process, and which of them is the script."""

    me: int = msgspec.field(name="self")
    processes: list[Process]


class Kernel(Struct, frozen=True):
    """See ``part_kernel``."""

    mounts: str
    line: str
    tables: tuple[int, str]
    states: tuple[int, str]
    readonly: dict[str, str]
    settings: dict[str, str]
    inet6: bool


class Space(Struct, frozen=True):
    """A network namespace of ``part_network``; ``error`` if it could not be entered."""

    path: str
    error: str = ""
    links: tuple[int, str] = (1, "")
    routes: tuple[int, str] = (1, "")
    policies: tuple[int, str] = (1, "")
    proxies: tuple[int, str] = (1, "")
    neighbours: tuple[int, str] = (1, "")
    rules: tuple[int, str] = (1, "")
    settings: dict[str, str] = {}


class Reference(Struct, frozen=True):
    """Rules of an empty namespace after the image's files were loaded; ``failed`` is what nft(8) said."""

    error: str = ""
    failed: list[str] = []
    rules: tuple[int, str] = (1, "")


class Attached(Struct, frozen=True):
    """See ``part_programs``: pairs (interface, discipline); how many programs at which interface and direction."""

    path: str
    error: str = ""
    disciplines: list[tuple[str, str]] = []
    attached: dict[str, int] = {}


class Programs(Struct, frozen=True):
    """BPF programs as (type, user, name); ``end`` is the error that ended their list: ENOENT."""

    loaded: list[tuple[int, int, str]]
    end: int
    spaces: dict[str, Attached]


class UnixTable(Struct, frozen=True):
    """/proc/net/unix of a namespace."""

    path: str
    error: str = ""
    unix: str = ""


class Files(Struct, frozen=True):
    """See ``part_files``; ``owners`` are (mode, user, group) of sockets, ``writable`` (path, mode, user)."""

    spaces: dict[str, UnixTable]
    owners: dict[str, tuple[int, int, int]]
    planted: list[str]
    writable: list[tuple[str, int, int]]


class _Strip(ast.NodeTransformer):
    """Takes out what only people and type checkers read."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def source(part: str) -> str:
    """The script's source with one part and what that uses; without docstrings, comments and types."""
    top: dict[str, ast.stmt] = {}
    for node in ast.parse(SCRIPT.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.Import(names=[ast.alias(name=name)]):
                top[name] = _Strip().visit(node)
            case ast.Assign(targets=[ast.Name(id=name)]):
                top[name] = node
    used: set[str] = set()
    wanted = [f"part_{part}", "main"]
    while wanted:
        name = wanted.pop()
        if name in top and name not in used:
            used.add(name)
            wanted += [inner.id for inner in ast.walk(top[name]) if isinstance(inner, ast.Name)]
    module = ast.Module([node for name, node in top.items() if name in used], [])
    return f"{ast.unparse(ast.fix_missing_locations(module))}\nmain(part_{part})\n"


@functools.cache
def command(part: str) -> str:
    """The command line that runs one part of the script; short enough for a terminal's line."""
    packed = base64.b64encode(zlib.compress(source(part).encode(), 9)).decode()
    code = f"import zlib,base64;exec(zlib.decompress(base64.b64decode('{packed}')))"
    return f"python3 -I -c {shlex.quote(code)}"


_LINE = re.compile(r"SALLYPORT-SYSTEM ([0-9a-f]{8}) ([A-Za-z0-9+/=]+)")


def unpack(output: str) -> bytes:
    """The JSON of an answer; `AnswerError` if it is absent or damaged."""
    match = _LINE.search(output.replace("\r", ""))
    if match is None:
        raise AnswerError(f"the script printed no answer: {output[-200:]!r}")
    try:
        packed = base64.b64decode(match[2], validate=True)
        if zlib.crc32(packed) != int(match[1], 16):
            raise AnswerError("the script's answer was damaged on its way")
        inflate = zlib.decompressobj()
        data = inflate.decompress(packed, MAX_REPORT)
    except (ValueError, zlib.error) as error:
        raise AnswerError(f"the script's answer cannot be read: {error}") from error
    if inflate.unconsumed_tail:
        raise AnswerError(f"the script's answer is longer than {MAX_REPORT} bytes")
    return data


T = TypeVar("T")


def ask(run: Run, part: str, kind: type[T]) -> T:
    """Have the host run a part; `AnswerError` if it gives no usable answer in `TRIES`."""
    trouble = ""
    for _ in range(TRIES):
        try:
            code, output = run(command(part))
            if code == 0:
                return msgspec.json.decode(unpack(output), type=kind)
            trouble = f"the script ended with code {code}: {output[-200:]!r}"
        except (AnswerError, OSError, msgspec.MsgspecError, RecursionError) as error:
            trouble = str(error)
    raise AnswerError(trouble)


def said(name: str, answer: tuple[int, str]) -> list[dict[str, Any]]:
    """The JSON list of objects that a program of the host printed; nothing is an empty list.

    Raises:
        AnswerError: it failed, or printed something else.
    """
    status, text = answer
    if status != 0:
        raise AnswerError(f"{name} failed: {text[:160]!r}")
    try:
        return msgspec.json.decode(text.strip() or "[]", type=list[dict[str, Any]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise AnswerError(f"{name}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ judgement


@dataclass
class Finding:
    """What a check found: ``holes``; ``blind`` is what it could not see; of ``wanted`` it must have ``seen`` all."""

    wanted: tuple[str, ...]
    holes: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    counted: str = ""

    def result(self, name: str, tried: str, began: float) -> Result:
        """As the report shows it."""
        missing = [want for want in self.wanted if want not in self.seen]
        if self.holes:
            verdict, text = Verdict.HOLE, "; ".join(self.holes[:SHOWN])
        elif self.blind or missing or not self.wanted:
            verdict, text = Verdict.NOT_TESTED, "; ".join(self.blind[:SHOWN]) or "a control was not seen"
        else:
            verdict, text = Verdict.SEALED, "nothing else"
        control = f"{len(self.wanted) - len(missing)} of {len(self.wanted)} seen: {', '.join(sorted(self.seen))}"
        if missing:
            control += f"; not seen: {', '.join(missing)}"
        evidence = "; ".join(filter(None, (self.counted, text)))
        frames = tuple(self.holes[:20])
        return Result(GROUP, name, tried, verdict, evidence, control, time.monotonic() - began, frames)


def mask(names: str) -> int:
    """A capability set as a number."""
    return sum(1 << CAPABILITIES[name] for name in names.split())


def _number(text: str, base: int = 16) -> int:
    """A number of /proc, -1 for what is none: more than any set allows."""
    try:
        return int(text, base)
    except ValueError:
        return -1


def _too_much(process: Process, program: Program) -> Iterator[str]:
    """What a process has beyond its declaration."""
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


def shell(told: Processes) -> frozenset[int]:
    """The test shell's processes: the script, its ancestors below init, the ``cat`` that all output goes through."""
    by_pid = {process.pid: process for process in told.processes}
    found: list[int] = []
    at = by_pid.get(told.me)
    while at is not None and at.pid > 1 and at.pid not in found:
        if found and at.exe != SHELL:
            break
        found.append(at.pid)
        at = by_pid.get(at.parent)
    last = found[-1] if found else 0
    found += [p.pid for p in told.processes if p.parent == last and p.exe == SHELL and p.words == ["cat"]]
    return frozenset(found)


_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of linux/sched.h."""


def judge_processes(told: Processes, forwarder: Forwarder) -> Finding:
    """Each process against the declared ones."""
    declared = programs(forwarder)
    finding = Finding(tuple(program.name for program in declared if program.wanted))
    mine = shell(told)
    host = next((process.net for process in told.processes if process.pid == 1), "")
    count = 0
    for process in told.processes:
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
        if (process.net == host) == fits[0].port:
            excess.append("another network namespace than declared")
        finding.holes += [f"{fits[0].name}, {who}: {what}" for what in excess]
        finding.seen.add(fits[0].name)
    names = [p.name for p in declared if p.name not in ("VM", "executor", "counters")]
    for name in names:
        program = next(p for p in declared if p.name == name)
        same = [
            p for p in told.processes if p.pid not in mine and " ".join(p.words) and re.fullmatch(program.exe, p.exe)
        ]
        if sum(1 for p in same if re.fullmatch(program.words, " ".join(p.words))) > 1:
            finding.holes.append(f"more than one {name}")
    finding.counted = f"{count} processes, {len(mine)} of the test shell besides"
    return finding


def judge_terminals(told: Processes) -> Finding:
    """Who has a terminal, or reads from one."""
    finding = Finding(("the test shell's terminal",))
    mine = shell(told)
    for process in told.processes:
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
    finding.counted = f"{len(told.processes)} processes"
    return finding


def judge_vm(told: Processes, forwarder: Forwarder) -> Finding:
    """QEMU's command line, word by word, and its open files."""
    finding = Finding(("the VM's QEMU", "its disk", "its two NICs", "its sandbox"))
    for process in told.processes:
        if not re.fullmatch(_QEMU, process.exe):
            continue
        finding.seen.add("the VM's QEMU")
        left = {option: list(patterns) for option, patterns in qemu_words(forwarder).items()}
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
    return finding


@dataclass(frozen=True)
class Mount:
    """A line of proc_pid_mountinfo(5)."""

    point: str
    options: frozenset[str]
    kind: str
    source: str
    device: str

    @property
    def writable(self) -> bool:
        """Whether files can be made there."""
        return "ro" not in self.options and self.kind not in ("nsfs", "proc", "sysfs", "cgroup2", "autofs")


def mounts(text: str) -> Iterator[Mount]:
    """The lines of mountinfo; `ValueError` for one that is none."""
    for line in filter(None, text.split("\n")):
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if not separator or len(fields) < 6 or len(rest) < 3:
            raise ValueError(f"no line of mountinfo: {line[:120]!r}")
        options = {*fields[5].split(","), *(["ro"] if "ro" in rest[2].split(",") else [])}
        yield Mount(fields[4], frozenset(options), rest[0], rest[1], fields[2])


def judge_mounts(told: Kernel) -> Finding:
    """No place is both written and run; the root is read-only."""
    finding = Finding(("/", "/data", "/run", "/tmp", "/dev", "/dev/shm"))
    try:
        found = list(mounts(told.mounts))
    except ValueError as error:
        finding.blind.append(str(error))
        return finding
    for mount in found:
        finding.seen.add(mount.point)
        if mount.kind not in FILE_SYSTEMS:
            finding.holes.append(f"{mount.point} is a {mount.kind}")
        if mount.writable and "noexec" not in mount.options and mount.point not in EXECUTABLE:
            finding.holes.append(f"{mount.point} ({mount.kind}) can be written, and programs there can be run")
        if "nosuid" not in mount.options and mount.kind != "nsfs" and (mount.writable or mount.point not in ONE_FILE):
            finding.holes.append(f"{mount.point} ({mount.kind}) lets setuid programs run")
    roots = [mount for mount in found if mount.point == "/"]
    if any(mount.writable or mount.kind != "squashfs" for mount in roots):
        finding.holes.append("the root file system is not a read-only squashfs")
    finding.seen &= set(finding.wanted)
    finding.counted = f"{len(found)} mounts"
    return finding


def judge_root(told: Kernel) -> Finding:
    """The root is the verified device that the kernel's command line names."""
    finding = Finding(("verity table", "device reports valid blocks", "root is that device"))
    status, text = told.tables
    table = VERITY.fullmatch(text.strip() + "\n") or VERITY.fullmatch(text.strip())
    named = re.findall(r"(?:\A|\s)sallyport\.roothash=(\S*)", told.line)
    if status != 0:
        finding.blind.append(f"dmsetup failed: {text[:160]!r}")
    elif table is None:
        finding.holes.append(f"not one verity device: {text[:200]!r}")
    elif named != [table["hash"]]:
        finding.holes.append(f"root hash {table['hash']} and command line {named} differ")
    else:
        finding.seen.add("verity table")
    # "V": every block that was read was right; "C": one was not (verity.rst).
    if told.states[0] == 0 and re.fullmatch(r"root: 0 \d+ verity V\s*", told.states[1]):
        finding.seen.add("device reports valid blocks")
    elif told.states[0] == 0:
        finding.holes.append(f"state of the device: {told.states[1][:120]!r}")
    if told.readonly != {"dm-0": "1"}:
        finding.holes.append(f"devices and whether they are read-only: {told.readonly}")
    try:
        roots = [mount for mount in mounts(told.mounts) if mount.point == "/"]
    except ValueError as error:
        finding.blind.append(str(error))
        return finding
    if [mount.source for mount in roots] in (["/dev/mapper/root"], ["/dev/dm-0"]):
        finding.seen.add("root is that device")
    elif roots:
        finding.holes.append(f"root is {', '.join(mount.source for mount in roots)}")
    return finding


def judge_settings(told: Kernel, spaces: Mapping[str, Space]) -> Finding:
    """Settings of the kernel, and of every network namespace."""
    wanted = {key.replace(".", "/"): frozenset({value}) for key, value in SYSCTL.items()} | dict(LIVE)
    host = spaces["host"].settings if "host" in spaces else {}
    finding = Finding(tuple(sorted(wanted)))
    everything = {**told.settings, **host}
    for key, allowed in wanted.items():
        if (value := everything.get(key)) is None:
            continue
        finding.seen.add(key)
        if value not in allowed:
            finding.holes.append(f"{key} is {value!r}, not {' or '.join(sorted(allowed))}")
    for name, space in spaces.items():
        if not space.settings:
            finding.blind.append(f"{name}: no settings: {space.error}")
        for key, value in space.settings.items():
            last = key.rpartition("/")[2]
            zero = (key.startswith("net/ipv4/conf/") and last in PER_INTERFACE) or key == "net/ipv4/ip_forward"
            if zero and value != "0":
                finding.holes.append(f"{name}: {key} is {value!r}")
    finding.counted = f"{len(everything)} settings, {len(spaces)} network namespaces"
    return finding


def judge_ipv6(told: Kernel, spaces: Mapping[str, Space]) -> Finding:
    """The kernel has no IPv6."""
    finding = Finding(("IPv4 in every namespace", "ipv6.disable=1"))
    if told.inet6 or any(key.startswith("net/ipv6/conf") for space in spaces.values() for key in space.settings):
        finding.holes.append("the kernel's IPv6 is there")
    for name, space in spaces.items():
        if "inet6" in space.links[1]:
            finding.holes.append(f"{name} has an IPv6 address")
    if spaces and all("net/ipv4/ip_forward" in space.settings for space in spaces.values()):
        finding.seen.add("IPv4 in every namespace")
    if "ipv6.disable=1" in told.line.split():
        finding.seen.add("ipv6.disable=1")
    else:
        finding.holes.append("the kernel's command line leaves IPv6 on")
    return finding


def _addresses(interface: Mapping[str, Any]) -> list[str]:
    infos = interface.get("addr_info") or []
    return [f"{info.get('local')}/{info.get('prefixlen')}" for info in infos if isinstance(info, dict)]


def _flags(interface: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(flag) for flag in interface.get("flags") or [])


def _host_interface(interface: Mapping[str, Any]) -> Iterator[str]:
    name, addresses = interface.get("ifname"), _addresses(interface)
    if name == "lo":
        expected = [["127.0.0.1/8"]]
    elif name == "link0":
        expected = [[f"{link.BACKEND_ADDRESS}/{link.LINK_PREFIX}"]]
        if interface.get("address") != link.BACKEND_MAC:
            yield f"link0 has the MAC {interface.get('address')}"
    else:
        # A NIC that is not the management port is not the host's business either.
        expected = [[]]
        if "UP" in _flags(interface):
            yield f"{name} is up"
    if addresses not in expected:
        yield f"{name} has {', '.join(addresses) or 'no address'}"


def _port_interface(interface: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    name = str(interface.get("ifname"))
    if name not in known:
        yield f"{name} is not declared"
    if addresses := _addresses(interface):
        yield f"{name} has {', '.join(addresses)}"
    if name == "lo" and "UP" in _flags(interface):
        yield "lo is up"
    if name != "lo" and "NOARP" not in _flags(interface):
        yield f"{name} answers ARP"
    if name != "lo" and "MULTICAST" in _flags(interface):
        yield f"{name} does multicast"


def port_space(spaces: Mapping[str, Space]) -> str:
    """The namespace that the management port is in; empty if it is in none, or in the host's."""
    names = [name for name, space in spaces.items() if name != "host" and '"mgmt0"' in space.links[1]]
    return names[0] if len(names) == 1 else ""


def judge_interfaces(spaces: Mapping[str, Space], forwarder: Forwarder) -> Finding:
    """Interfaces and addresses of every namespace."""
    finding = Finding(("link0 of the host", "mgmt0 in a namespace of its own"))
    known = frozenset({"lo", "mgmt0"} | ({"access0"} if forwarder.vm == "tap" else set()))
    known |= {"br0"} if forwarder.port == "bridge" else set()
    port, count = port_space(spaces), 0
    for name, space in spaces.items():
        try:
            found = said(f"{name}: ip address", space.links)
        except AnswerError as error:
            finding.blind.append(f"{error} {space.error}")
            continue
        for interface in found:
            count += 1
            if interface.get("xdp"):
                finding.holes.append(f"{name}: {interface.get('ifname')} has an XDP program")
            if name == "host":
                finding.holes += [f"host: {what}" for what in _host_interface(interface)]
                finding.seen |= {"link0 of the host"} if interface.get("ifname") == "link0" else set()
            elif name == port:
                finding.holes += [f"port: {what}" for what in _port_interface(interface, known)]
                finding.seen |= {"mgmt0 in a namespace of its own"} if interface.get("ifname") == "mgmt0" else set()
            elif interface.get("ifname") != "lo":
                finding.holes.append(f"{name} is not declared and has {interface.get('ifname')}")
    finding.counted = f"{len(spaces)} network namespaces, {count} interfaces"
    return finding


def _host_route(route: Mapping[str, Any]) -> str:
    kind, where = str(route.get("type", "unicast")), str(route.get("dst"))
    text = f"{kind} {where} by {route.get('gateway', 'nobody')} at {route.get('dev')}"
    if "gateway" in route or "via" in route or "nexthops" in route or route.get("dev") not in ("lo", "link0"):
        return text
    local = {"127.0.0.0/8", "127.0.0.1", link.BACKEND_ADDRESS}
    if (kind == "local" and where not in local) or (kind == "unicast" and where != link.LINK_NETWORK):
        return text
    return "" if kind in ("local", "unicast", "broadcast") else text


def judge_routes(spaces: Mapping[str, Space]) -> Finding:
    """Routes, routing policy, neighbour proxies, neighbours set by hand."""
    finding = Finding(("the route to the VM", "the kernel's own policy"))
    count, port = 0, port_space(spaces)
    for name, space in spaces.items():
        try:
            routes = said(f"{name}: ip route", space.routes)
            policies = said(f"{name}: ip rule", space.policies)
            proxies = said(f"{name}: ip neigh", space.proxies) + said(f"{name}: ip neigh", space.neighbours)
        except AnswerError as error:
            finding.blind.append(f"{error} {space.error}")
            continue
        count += len(routes)
        for route in routes:
            wrong = _host_route(route)
            if name == port or (name != "host" and route.get("dev") != "lo"):
                wrong = wrong or f"{route.get('dst')} at {route.get('dev')}"
            if wrong:
                finding.holes.append(f"{name}: route {wrong}")
            if name == "host" and route.get("dst") == link.LINK_NETWORK:
                finding.seen.add("the route to the VM")
        found = {(rule.get("priority"), rule.get("table")) for rule in policies}
        if found - POLICIES or len(policies) > len(POLICIES):
            finding.holes.append(f"{name}: routing policy {sorted(map(str, found - POLICIES))}")
        elif found:
            finding.seen.add("the kernel's own policy")
        finding.holes += [f"{name}: neighbour {proxy.get('dst')} at {proxy.get('dev')}" for proxy in proxies]
    finding.counted = f"{count} routes"
    return finding


def _volatile(key: str, within: str, value: Mapping[str, Any]) -> bool:
    """Whether a field differs from one time to the next: handles, counts, and the VM's address in the set for it."""
    if within == "counter":
        return key in ("handle", "packets", "bytes")
    if within == "set" and key == "elem" and "table" in value:
        elements = value["elem"]
        return isinstance(elements, list) and all(str(e).startswith(link.ACCESS_MAC_PREFIX) for e in elements[:2])
    return key == "handle"


def _normal(value: Any, within: str = "") -> Any:
    """A piece of a rule set without what is `_volatile`."""
    if isinstance(value, dict):
        return {key: _normal(inner, key) for key, inner in value.items() if not _volatile(key, within, value)}
    return [_normal(inner) for inner in value] if isinstance(value, list) else value


def ruleset(name: str, answer: tuple[int, str]) -> dict[str, list[str]]:
    """Rules by table, each piece as canonical text in the order of the kernel.

    Raises:
        AnswerError: nft(8) failed, or printed something else.
    """
    status, text = answer
    if status != 0:
        raise AnswerError(f"{name}: nft failed: {text[:160]!r}")
    try:
        pieces = msgspec.json.decode(text, type=dict[str, list[dict[str, Any]]]).get("nftables", [])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise AnswerError(f"{name}: nft: {error}") from error
    found: dict[str, list[str]] = {}
    for piece in pieces:
        for kind, what in piece.items():
            if kind != "metainfo" and isinstance(what, dict):
                table = f"{what.get('family')} {what.get('name') if kind == 'table' else what.get('table')}"
                found.setdefault(table, []).append(json.dumps(_normal({kind: what}), sort_keys=True))
    return found


_HEAD = re.compile(r'type filter hook (?P<hook>\w+) (?:device "(?P<dev>\w+)" )?priority filter; policy drop;')


def _base_chains(declared: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """The base chains of a declaration: ``family table chain`` to (hook, device)."""
    matches = {name: _HEAD.fullmatch(lines[0]) for name, lines in declared.items() if lines}
    return {name: (match["hook"], match["dev"] or "") for name, match in matches.items() if match}


def _hooks(name: str, rules: Mapping[str, Sequence[str]], declared: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Base chains that are missing, elsewhere, or do not drop by default."""
    want = _base_chains(declared)
    for pieces in rules.values():
        for piece in pieces:
            chain = json.loads(piece).get("chain")
            if not chain or "hook" not in chain:
                continue
            full = f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
            if chain.get("policy") != "drop":
                yield f"{name}: {full} has the policy {chain.get('policy')}"
            if want.pop(full, None) != (chain.get("hook"), chain.get("dev") or ""):
                yield f"{name}: {full} is not declared, or hooked elsewhere"
    yield from (f"{name}: {full} is missing" for full in want)


def judge_rules(spaces: Mapping[str, Space], references: Mapping[str, Reference], forwarder: Forwarder) -> Finding:
    """Packet rules of each namespace against the image's own files, and their base chains against the declared ones."""
    finding = Finding(("rules of the host", "rules of the port", "reference of the host", "reference of the port"))
    declared = {
        "host": {**HOST_RULES, **LINK_RULES},
        "port": port_rules(forwarder.port, forwarder.vm),
    }
    where = {"host": "host", "port": port_space(spaces)}
    digests: list[str] = []
    for name, place in where.items():
        reference = references.get("host" if name == "host" else "mgmt", Reference(error="it is missing"))
        try:
            if reference.error or reference.failed:
                raise AnswerError(f"reference of the {name}: {reference.error} {reference.failed}")
            if place not in spaces:
                raise AnswerError(f"the {name}'s namespace is missing")
            want, have = ruleset("reference", reference.rules), ruleset(name, spaces[place].rules)
        except AnswerError as error:
            finding.blind.append(str(error))
            continue
        finding.seen |= {f"reference of the {name}"} if want else set()
        finding.seen |= {f"rules of the {name}"} if have else set()
        for table in sorted(want.keys() | have.keys()):
            if want.get(table) != have.get(table):
                more = [piece for piece in have.get(table, []) if piece not in want.get(table, [])]
                gone = [piece for piece in want.get(table, []) if piece not in have.get(table, [])]
                finding.holes.append(
                    f"{name}: table {table} is not the image's: more {more[:3]}, missing {gone[:3]}, or order"
                )
        finding.holes += _hooks(name, have, declared[name])
        digests.append(f"{name} {hashlib.sha256(json.dumps(have, sort_keys=True).encode()).hexdigest()[:16]}")
    for name, space in spaces.items():
        if name not in where.values():
            try:
                if ruleset(name, space.rules):
                    finding.holes.append(f"{name} is not declared and has rules")
            except AnswerError as error:
                finding.blind.append(str(error))
    finding.counted = f"digests of the rules: {', '.join(digests)}"
    return finding


def judge_programs(told: Programs, forwarder: Forwarder) -> Finding:
    """BPF programs, and places in which programs could be."""
    finding = Finding(("systemd's programs for devices", "a queueing discipline of link0", "programs at mgmt0 counted"))
    kernel_way = forwarder.port == "kernel"
    allowed = {(CGROUP_SKB, 0), (CGROUP_DEVICE, 0), (LSM, 0)} | ({(SCHED_CLS, 902)} if kernel_way else set())
    for kind, user, called in told.loaded:
        if (kind, user) not in allowed:
            finding.holes.append(f"a BPF program of type {kind}, {called[:16]!r}, of user {user}")
        finding.seen |= {"systemd's programs for devices"} if kind == CGROUP_DEVICE else set()
    if told.end != _ENOENT:
        finding.blind.append(f"the list of BPF programs ended with error {told.end}")
    for name, space in told.spaces.items():
        if space.error:
            finding.blind.append(f"{name}: {space.error}")
        for interface, discipline in space.disciplines:
            if discipline not in DISCIPLINES:
                finding.holes.append(f"{name}: {interface} has the queueing discipline {discipline[:32]!r}")
            finding.seen |= {"a queueing discipline of link0"} if interface == "link0" else set()
        for place, count in space.attached.items():
            expected = 1 if kernel_way and place in ("mgmt0 ingress", "access0 ingress") else 0
            if count < 0:
                finding.blind.append(f"{name}: programs at {place} cannot be counted")
            elif count > expected:
                finding.holes.append(f"{name}: {count} programs at {place}, not {expected}")
            elif place == "mgmt0 ingress" and count == expected:
                finding.seen.add("programs at mgmt0 counted")
    finding.counted = (
        f"{len(told.loaded)} BPF programs, {sum(len(s.disciplines) for s in told.spaces.values())} disciplines"
    )
    return finding


_ENOENT = 2
_LISTENS = 0x10000
"""__SO_ACCEPTCON of linux/net.h, in the column Flags of /proc/net/unix."""
_STREAMS = (1, 5)


def unix_sockets(text: str) -> Iterator[str]:
    """Addresses of sockets that take what nobody asked for; `ValueError` for a line not understood."""
    for line in text.split("\n")[1:]:
        # Num RefCount Protocol Flags Type St Inode Path
        fields = line.split(None, 7)
        if not fields:
            continue
        if len(fields) < 7:
            raise ValueError(f"no line of /proc/net/unix: {line[:80]!r}")
        if len(fields) == 8 and (int(fields[4], 16) not in _STREAMS or int(fields[3], 16) & _LISTENS):
            yield fields[7]


def judge_sockets(told: Files) -> Finding:
    """Unix sockets of every namespace."""
    finding = Finding(("/run/systemd/notify", "/run/systemd/journal/socket", "/run/sallyport/port/status.sock"))
    count = 0
    for name, space in told.spaces.items():
        try:
            found = set(unix_sockets(space.unix))
        except ValueError as error:
            finding.blind.append(f"{name}: {error}")
            continue
        if not space.unix or space.error:
            finding.blind.append(f"{name}: no table of sockets: {space.error}")
        for path in sorted(found):
            count += 1
            if path not in SOCKETS:
                finding.holes.append(f"{name}: not declared: {path[:120]!r}")
                continue
            finding.seen |= {path} & set(finding.wanted)
            most, owner = SOCKETS[path]
            if path not in told.owners:
                finding.blind.append(f"{path} cannot be seen")
                continue
            mode, user, _ = told.owners[path]
            if user != owner or mode & 0o777 & ~most:
                finding.holes.append(f"{path} is of user {user} with mode {mode & 0o777:o}")
    finding.counted = f"{count} unix sockets"
    return finding


def judge_writable(told: Files) -> Finding:
    """Files and directories that everybody may write."""
    finding = Finding(PLANTED)
    planted = {path: path.rpartition("/")[0] for path in told.planted}
    for path, mode, user in told.writable:
        if path in planted:
            finding.seen.add(planted[path])
        elif mode & 0o170000 == 0o040000 and mode & 0o1000:
            continue  # sticky: nobody removes or replaces what is another's
        elif not WRITABLE.fullmatch(path):
            finding.holes.append(f"{path[:160]!r} (mode {mode & 0o7777:o}, user {user})")
    finding.seen &= set(PLANTED)
    finding.counted = f"{len(told.writable)} looked at"
    return finding


_TRIED = {
    "root": "the device of the root file system, its hash tree and its hash against the kernel's command line",
    "mounts": "every mount: what can be written must not be run, and nothing is setuid",
    "settings": "settings of the kernel and of every interface in every network namespace",
    "ipv6": "traces of an IPv6 stack in the kernel and every network namespace",
    "processes": "every process and thread: user, groups, capabilities, system-call filter, network namespace",
    "terminals": "every process for a terminal that it has or reads",
    "vm": "each word of the VM's QEMU and each file that it has open",
    "interfaces": "interfaces, addresses and XDP programs of every network namespace",
    "routes": "routes, routing policies, neighbour proxies of every network namespace",
    "rules": "packet rules of every network namespace against the image's own, loaded beside them",
    "programs": "every BPF program, what is attached to interfaces, queueing disciplines",
    "sockets": "unix sockets of every network namespace: path, owner, mode",
    "writable": "files and directories in /run, /data, /tmp, /dev that everybody may write",
}


def run_system(run: Run, forwarder: Forwarder | None = None) -> list[Result]:
    """Look at the whole running host; never raises for what it tells.

    Args:
        run: runs a command line in the host's root shell; what it raises passes through.
        forwarder: the way of forwarding that the image's profile names.
    """
    way = forwarder or Forwarder()
    told: dict[str, Any] = {}
    trouble: dict[str, str] = {}
    parts: Mapping[str, Any] = {
        "kernel": Kernel,
        "processes": Processes,
        "network": dict[str, Space],
        "reference": dict[str, Reference],
        "programs": Programs,
        "files": Files,
    }
    for part, kind in parts.items():
        try:
            told[part] = ask(run, part, kind)
        except AnswerError as error:
            trouble[part] = str(error)
    judges: Mapping[str, tuple[tuple[str, ...], Callable[..., Finding]]] = {
        "root": (("kernel",), judge_root),
        "mounts": (("kernel",), judge_mounts),
        "settings": (("kernel", "network"), judge_settings),
        "ipv6": (("kernel", "network"), judge_ipv6),
        "processes": (("processes",), lambda p: judge_processes(p, way)),
        "terminals": (("processes",), judge_terminals),
        "vm": (("processes",), lambda p: judge_vm(p, way)),
        "interfaces": (("network",), lambda n: judge_interfaces(n, way)),
        "routes": (("network",), judge_routes),
        "rules": (("network", "reference"), lambda n, r: judge_rules(n, r, way)),
        "programs": (("programs",), lambda p: judge_programs(p, way)),
        "sockets": (("files",), judge_sockets),
        "writable": (("files",), judge_writable),
    }
    results: list[Result] = []
    for name, (needs, judge) in judges.items():
        began = time.monotonic()
        blind = [f"{part}: {trouble[part]}" for part in needs if part in trouble]
        finding = Finding(("the host's answer",), blind=blind) if blind else judge(*(told[part] for part in needs))
        results.append(finding.result(name, _TRIED[name], began))
    return results
