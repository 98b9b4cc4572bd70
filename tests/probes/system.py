"""The running host, as its root sees it: mounts, processes, kernel settings, networks, rules, programs, sockets, files.

Theory of operation. `system_script` only tells; everything is judged here, against tables of what is declared, which
stand at the top as plain data. What is there and not declared is a hole. A check is believed only if it saw what must
be there (its ``wanted``): the services under their own users, the port in its namespace, a writable file that the script
planted. The packet rules are compared with the image's own files, which the script loads in empty namespaces of the
same kernel, so that both texts come from one printer; `tree` says what those files must be.

The script's answer is hostile like everything else from there: it is decoded into types, bounded, and never trusted to
be whole. (A kernel that lies to its root cannot be caught from within; the probes at the port and on the link can.)
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import shlex
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from backend import instructions as link
from rootfs.profile import Forwarder
from tests.probes.result import Result, Verdict
from tests.probes.tree import HOST_RULES, LINK_RULES, SYSCTL, port_rules

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

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
"""By number (linux/capability.h)."""
ALL = " ".join(CAPABILITIES)
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
    "kernel/ftrace_enabled": frozenset({"0", "1"}),
}
"""Settings of the kernel beside `tree.SYSCTL`, with what they may be."""
PER_INTERFACE = ("forwarding", "mc_forwarding", "proxy_arp", "proxy_arp_pvlan", "accept_local", "route_localnet", "bootp_relay")
"""Settings of each IPv4 interface in each namespace that are 0 (kernel: Documentation/networking/ip-sysctl.rst)."""

VERITY = re.compile(
    r"root: 0 \d+ verity 1 (\d+:\d+) \1 4096 4096 \d+ \d+ sha256 (?P<hash>[0-9a-f]{64}) [0-9a-f]{64} 1 restart_on_corruption\s*"
)
"""``dmsetup table`` (kernel: Documentation/admin-guide/device-mapper/verity.rst)."""
EXECUTABLE: Mapping[str, str] = {}
"""Mount points that are writable and may hold programs, and why. There is no reason for any."""
FILE_SYSTEMS = frozenset(
    "squashfs ext4 tmpfs ramfs devtmpfs devpts proc sysfs cgroup2 securityfs bpf debugfs tracefs configfs fusectl "
    "mqueue hugetlbfs efivarfs pstore nsfs binfmt_misc".split()
)

POLICIES = frozenset({(0, "local"), (32766, "main"), (32767, "default")})
"""Routing policy rules: the kernel's own three (ip-rule(8))."""
DISCIPLINES = frozenset("noqueue pfifo_fast pfifo fq_codel fq mq".split())
"""Queueing disciplines without a place for a filter; ``clsact`` and ``ingress`` are such places (tc(8))."""
SCHED_CLS, CGROUP_SKB, CGROUP_DEVICE = 3, 8, 15
"""``enum bpf_prog_type`` (linux/bpf.h): systemd's DevicePolicy= and IPAddressDeny=, and way ``kernel``."""

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
HANDED = "backend.crt link.crt link.key settings.json ssh.key web.crt web.key".split()
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
        "-cpu": ("host,svm=off,vmx=off,pmu=off|max",),
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
        "-fw_cfg": tuple(f"name=opt/sallyport/{re.escape(n)},file={_GUEST}{re.escape(n)}" for n in HANDED),
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

# --------------------------------------------------------------------------------------------------- what the host tells


class SystemError_(Exception):
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


def command(part: str) -> str:
    """The command line that runs one part of the script; short enough for a terminal's line."""
    packed = base64.b64encode(zlib.compress(source(part).encode(), 9)).decode()
    code = f"import zlib,base64;exec(zlib.decompress(base64.b64decode('{packed}')))"
    return f"python3 -I -c {shlex.quote(code)}"


_LINE = re.compile(r"SALLYPORT-SYSTEM ([0-9a-f]{8}) ([A-Za-z0-9+/=]+)")


def unpack(output: str) -> bytes:
    """The JSON of an answer; `SystemError_` if it is absent or damaged."""
    match = _LINE.search(output.replace("\r", ""))
    if match is None:
        raise SystemError_(f"the script printed no answer: {output[-200:]!r}")
    try:
        packed = base64.b64decode(match[2], validate=True)
        if zlib.crc32(packed) != int(match[1], 16):
            raise SystemError_("the script's answer was damaged on its way")
        inflate = zlib.decompressobj()
        data = inflate.decompress(packed, MAX_REPORT)
    except (ValueError, zlib.error) as error:
        raise SystemError_(f"the script's answer cannot be read: {error}") from error
    if inflate.unconsumed_tail:
        raise SystemError_(f"the script's answer is longer than {MAX_REPORT} bytes")
    return data


def ask[T](run: Run, part: str, kind: Callable[[bytes], T]) -> T:
    """Have the host run a part; `SystemError_` if it gives no usable answer in `TRIES`."""
    trouble = ""
    for _ in range(TRIES):
        try:
            code, output = run(command(part))
            if code == 0:
                return kind(unpack(output))
            trouble = f"the script ended with code {code}: {output[-200:]!r}"
        except (SystemError_, OSError, msgspec.MsgspecError, RecursionError) as error:
            trouble = str(error)
    raise SystemError_(trouble)
