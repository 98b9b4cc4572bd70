"""Declared for the host: processes, mounts, kernel settings, sockets, writable files, and QEMU's command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backend.protocol import link_plan
from proof.declared.words import words
from rootfs.spec.profile import Forwarder

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
        lives: in which network namespace: ``host``, ``port`` (the port's), or ``own``, where there is nothing but lo.
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
    netns: Literal["host", "port", "own"] = "host"
    wanted: bool = True


_PYTHON = r"/usr/bin/python3(\.\d+)?"
QEMU = r"/usr/bin/qemu-system-(x86_64(-microvm)?|aarch64)"
_OPENS = {"ring": "NET_RAW NET_ADMIN", "kernel": "BPF PERFMON NET_ADMIN"}


def programs(forwarder: Forwarder) -> tuple[Program, ...]:
    """Return every process that the host may run, but for the kernel's own and the test shell's."""
    opens = _OPENS.get(forwarder.port, "NET_ADMIN")
    # On way `bridge` the process reads the counters of the kernel's rules for as long as it lives.
    keeps = "NET_ADMIN" if forwarder.port == "bridge" else ""
    system, vm = "/usr/lib/systemd/systemd", frozenset({104, 903})
    forward = Program(
        "forwarder",
        _PYTHON,
        "/usr/bin/python3 -I -m backend.forwarder",
        902,
        groups=frozenset({900, 901}),
        caps=keeps,
        bound=opens,
        netns="port",
    )
    found = [
        Program("systemd", system, rf"({system}|/sbin/init)( .*)?", caps=ALL, bound=ALL, confined=False),
        # systemd starts each service through it, so it exists only for a moment.
        Program("executor", f"{system}-executor", ".*", caps=ALL, bound=ALL, confined=False, wanted=False),
        Program("journal", f"{system}-journald", f"{system}-journald", caps=JOURNAL, bound=JOURNAL),
        Program("backend", _PYTHON, "/usr/bin/python3 -I -m backend.daemon.main", 900, groups=frozenset({903})),
        Program("supervisor", _PYTHON, "/usr/bin/python3 -I -m backend.guests.supervisor", 901, groups=vm, netns="own"),
        Program("VM", QEMU, rf"{QEMU} -name frontend .*", 901, groups=vm, netns="own"),
        forward,
    ]
    if forwarder.port == "bridge":
        asks = "(ip|nft) -json .*"
        found.append(
            Program(
                "counters", "/usr/s?bin/(ip|nft)", asks, 902, forward.groups, keeps, opens, netns="port", wanted=False
            )
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
    # /sys/devices/system/cpu/smt/active: no processor has a sibling that runs.
    "cpu/smt": frozenset({"0"}),
}
"""Settings of the kernel beside `proof.declared.kernel_settings.SYSCTL`, with what they may be."""
UNBUILT: Mapping[str, str] = {
    "kernel/core_pattern": "core dumps",
    "kernel/kexec_load_disabled": "kexec",
    "kernel/perf_event_paranoid": "performance counters",
    "kernel/sysrq": "the magic SysRq key",
    "vm/unprivileged_userfaultfd": "userfaultfd",
}
"""Settings that a kernel without that feature does not have."""
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
"""Mount points that may be writable and executable, with the reason: none."""
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
"""Unix sockets that accept unsolicited data: the bits that their mode may have, and their owner."""
WRITABLE = re.compile(
    r"/dev/(null|zero|full|random|urandom|tty|ptmx|pts/ptmx|net/tun|fuse)|(/tmp|/dev/shm|/dev/mqueue)(?=\Z)"
)
"""Paths that everybody may write. The directories are sticky."""
PLANTED = ("/run", "/data", "/tmp", "/dev")
"""Where the script must have found its own file."""

_FRONTEND = re.escape("/usr/share/sallyport/frontend/")
_GUEST = re.escape("/run/sallyport/guest/")
_MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
HANDED = words("backend.crt link.crt link.key settings.json ssh.key web.crt web.key")
"""Files that the VM gets by fw_cfg."""
QEMU_FLAGS = ("-nodefaults", "-no-user-config", "-no-reboot")


_PLAIN = "usb=off,mem-merge=off,dump-guest-core=off"
_MACHINES: Mapping[str, tuple[str, str, str]] = {
    "x86_64": (
        f"microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,pcie=off,{_PLAIN}",
        "host,svm=off,vmx=off,pmu=off|max,svm=off",
        "ttyS0",
    ),
    "aarch64": (f"virt,acpi=off,gic-version=(host|3),its=off,{_PLAIN}", "host(,pmu=off)?|cortex-a72", "ttyAMA0"),
}
"""What ``-M`` and ``-cpu`` may say, and where the VM's console is, by the host's architecture."""


def qemu_words(forwarder: Forwarder, arch: str) -> Mapping[str, tuple[str, ...]]:
    """Return QEMU's options but for `QEMU_FLAGS`, each with a pattern for each of its occurrences."""
    machine, cpu, console = _MACHINES[arch]
    user = forwarder.vm == "vhost-user"
    memory = ",memory-backend=memory" if user else ""
    common = {
        "-name": ("frontend",),
        "-M": (machine + memory,),
        "-global": (r"virtio-mmio\.force-legacy=false",),
        "-accel": ("kvm|tcg,thread=multi,tb-size=64",),
        "-cpu": (cpu,),
        "-m": (r"\d+",),
        "-smp": (r"\d+",),
        "-display": ("none",),
        "-kernel": (f"{_FRONTEND}vmlinuz",),
        "-initrd": (f"{_FRONTEND}initrd",),
        "-append": (rf"console={console} (?!.*\b(init|rdinit|root)=).*",),
        "-serial": ("chardev:console",),
        "-drive": (f"id=root,if=none,format=raw,readonly=on,file={_FRONTEND}root.squashfs",),
        "-device": (
            "virtio-blk-device,drive=root",
            f"virtio-net-device,netdev=access,mac={_MAC},ctrl_vlan=off",
            f"virtio-net-device,netdev=link,mac={link_plan.FRONTEND_MAC}",
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
"""Files that QEMU may have open."""
