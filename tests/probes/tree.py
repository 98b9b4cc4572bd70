"""The files of an image, unpacked from the image itself: what is in them, and above all what is not.

Theory of operation. A `Check` looks through one `Tree` and returns what it objects to. Before its "nothing" is believed
it must object to the same thing planted: each check names what to plant, and `run_tree` does so, once for each plant,
in a scratch tree made of the few files that the check reads. What the host and the VM may contain is declared here,
path by path, and not learned from the build: a file that nobody declared is a hole.

The trees come from a file that somebody handed us. Nothing in them is followed, run or opened but regular files, each
by descriptors from the tree's root that refuse symbolic links (open(2): O_NOFOLLOW); numbers and sizes are bounded.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from backend import instructions as link
from tests.probes.result import Result, Verdict

GROUP = "tree"
MAX_ENTRIES = 50_000
MAX_DEPTH = 64
MAX_TEXT = 1 << 20
"""Bytes of a file that is read as text."""
MAX_FILE = 1 << 28
"""Bytes of a file that is searched."""
MAX_OFFENCES = 200
Analyze = Callable[[Sequence[str]], str]
"""Runs a command line, ``systemd-analyze`` and its arguments, and returns what it printed."""

# ---------------------------------------------------------------------------------------------------- what is declared

_MODULES = "usr/lib/modules/"


def words(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


HOST_PROGRAMS = words(
    "usr/bin/busybox usr/bin/ip usr/bin/journalctl usr/bin/openssl usr/bin/python3.* usr/bin/qemu-system-x86_64 "
    "usr/bin/qemu-system-x86_64-microvm usr/bin/systemctl usr/bin/systemd-tmpfiles usr/lib/sallyport/apply-hostname "
    "usr/lib/sallyport/link-keys usr/lib/sallyport/load-modules usr/lib/sallyport/port-setup usr/lib/systemd/systemd "
    "usr/lib/systemd/systemd-executor usr/lib/systemd/systemd-journald usr/lib/systemd/systemd-shutdown "
    "usr/lib/systemd/systemd-sysctl usr/lib/*/ld-linux-x86-64.so.2 usr/lib/*/libc.so.6 usr/sbin/dmsetup "
    "usr/sbin/nft"
)
"""Every executable file of the host."""
HOST_APPLETS = words(
    "cat chgrp chmod cp cut false grep head hostname ls mkdir mktemp modprobe mount mv readlink rm sed sh sleep sort "
    "stty sync sysctl test tr true umount"
)
"""Names under which BusyBox can be called on the host. The one shell is ``sh``, for what sets the port up."""
TEST_APPLETS = words(
    "awk base64 date dd dmesg env find id kill killall netstat nsenter pidof ps sha256sum stat tail timeout touch "
    "uname uptime wc xargs test head mktemp"
)
"""More of them in a test image, at either end."""
VM_PROGRAMS = words(
    "etc/init.d/setup usr/bin/busybox usr/bin/python3.* usr/lib/sallyport/front-end usr/lib/*/ld-linux-x86-64.so.2 "
    "usr/lib/*/libc.so.6"
)
VM_APPLETS = words(
    "cat chmod chown cp false grep hostname init ip kill ln ls mkdir mount ps rm sed setpriv sh sleep su sysctl true "
    "umount"
)
"""``su`` only lowers: no file of the VM has a setuid bit, and all its passwords are locked."""
TEST_PROGRAMS = frozenset({"usr/lib/sallyport/test-shell"})
_UNITS = "etc/systemd/system/"
_VENDOR = "usr/lib/systemd/system/"
_WANTS = {
    "local-fs": ("tmp.mount",),
    "sockets": ("systemd-journald-dev-log.socket", "systemd-journald.socket"),
    "sysinit": ("systemd-journald.service", "systemd-sysctl.service", "systemd-tmpfiles-setup.service"),
}
_TMP = f"{_UNITS}tmp.mount.d/sallyport.conf"
_OURS = words(
    "sallyport-backend.service sallyport-hostname.path sallyport-hostname.service sallyport-keys.service "
    "sallyport-modules-lock.service sallyport-modules.service sallyport-network.service sallyport-port.service "
    "sallyport-reboot.path sallyport-reboot.service sallyport-vm.service sallyport.target"
)
_THEIRS = words(
    "basic.target final.target local-fs-pre.target local-fs.target paths.target poweroff.target reboot.target "
    "shutdown.target slices.target sockets.target sysinit.target systemd-journald-dev-log.socket "
    "systemd-journald.service systemd-journald.socket systemd-poweroff.service systemd-reboot.service "
    "systemd-sysctl.service systemd-tmpfiles-setup.service timers.target tmp.mount umount.target"
)
SYSTEMD: Mapping[str, str] = {
    "etc/systemd/journald.conf.d/sallyport.conf": "",
    f"{_UNITS}ctrl-alt-del.target": "/dev/null",
    _TMP: "",
    f"{_UNITS}default.target": "sallyport.target",
    f"{_UNITS}sysinit.target.wants/sallyport-modules.service": "../sallyport-modules.service",
    **{f"{_UNITS}{t}.target.wants/{u}": f"/{_VENDOR}{u}" for t, units in _WANTS.items() for u in units},
    **{_UNITS + unit: "" for unit in _OURS},
    **{_VENDOR + unit: "" for unit in _THEIRS},
    **{f"usr/lib/systemd/{n}": "" for n in ("systemd", "systemd-executor", "systemd-journald", "systemd-shutdown")},
    "usr/lib/systemd/systemd-sysctl": "",
    "usr/lib/x86_64-linux-gnu/systemd/libsystemd-*.so": "",
}
"""All that may lie in a directory of systemd's, with the target of what is a symbolic link: so no generator, preset,
drop-in, login, getty or socket of anybody else's."""
TEST_SYSTEMD: Mapping[str, str] = {
    f"{_UNITS}test-shell.service": "",
    f"{_UNITS}sallyport.target.wants/test-shell.service": "../test-shell.service",
}
CONFIGURED = frozenset(
    f"etc/{name}"
    for name in words(
        "group hostname hosts machine-id nsswitch.conf os-release passwd sallyport/host.nft sallyport/image.json "
        "sallyport/link.nft sallyport/openssl.cnf sallyport/port.json sallyport/port.nft sallyport/vm.json "
        "sysctl.d/sallyport.conf tmpfiles.d/sallyport.conf"
    )
)
"""Files below /etc of the host, but for systemd's: no rule of udev's, no option of a module, no other setting."""
VM_CONFIGURED = frozenset(
    f"etc/{name}" for name in words("group hostname hosts init.d/setup inittab nsswitch.conf passwd")
)
TEST_VM_CONFIGURED = frozenset({"etc/test-access/authorized_keys"})
BANNED = words(
    "*getty* login sulogin nologin sshd* ssh dropbear* telnet* in.* rlogin* rsh* rexec* systemd-logind* "
    "dbus-daemon* dbus-broker* debug-shell* ttyd socat ncat netcat nc vncserver* gdbserver strace tcpdump sudo doas su "
    "pkexec polkit* crond cron atd at avahi* snmpd lldpd dhclient dhcpcd dnsmasq NetworkManager* wpa_supplicant "
    "udevadm systemd-udevd systemd-networkd systemd-resolved systemd-coredump bash dash zsh ksh ld.so.preload *.pth "
    "sitecustomize* usercustomize* shadow* gshadow* authorized_keys* id_rsa* id_ed25519* id_ecdsa* ssh_host_*_key "
    ".netrc .git-credentials .ssh *.jks *.p12 *.pfx"
)
"""Names that no file of either tree has: what gives a shell or a login, is loaded into others, or keeps keys."""
TEST_NAMES = frozenset({"authorized_keys"})

ACCOUNTS: Mapping[str, int] = {
    "root": 0,
    "sallyport": 900,
    "sallyport-vm": 901,
    "sallyport-port": 902,
    "nobody": 65534,
}
VM_ACCOUNTS: Mapping[str, int] = {"root": 0, "frontend": 900, "nobody": 65534}
NO_SHELL = "/usr/bin/false"

SYSCTL: Mapping[str, str] = {
    "fs.protected_fifos": "2",
    "fs.protected_hardlinks": "1",
    "fs.protected_regular": "2",
    "fs.protected_symlinks": "1",
    "fs.suid_dumpable": "0",
    "kernel.dmesg_restrict": "1",
    "kernel.kexec_load_disabled": "1",
    "kernel.kptr_restrict": "2",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.perf_event_paranoid": "3",
    "kernel.sysrq": "0",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.yama.ptrace_scope": "3",
    "net.core.bpf_jit_harden": "2",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv4.conf.all.arp_filter": "1",
    "net.ipv4.conf.all.arp_ignore": "2",
    "net.ipv4.conf.all.rp_filter": "1",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.rp_filter": "1",
    "net.ipv4.icmp_echo_ignore_all": "1",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.tcp_syncookies": "1",
    "user.max_user_namespaces": "0",
    "vm.unprivileged_userfaultfd": "0",
}
"""Kernel settings of the host (kernel: Documentation/admin-guide/sysctl), in its one file for them."""
VM_SYSCTL: Mapping[str, str] = {
    "net.ipv4.ip_forward": "0",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv4.conf.all.arp_ignore": "2",
    "net.ipv4.conf.all.arp_announce": "2",
    "net.ipv4.conf.all.rp_filter": "1",
    "net.ipv4.conf.default.rp_filter": "1",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.link.disable_ipv6": "1",
    "kernel.kptr_restrict": "2",
    "kernel.dmesg_restrict": "1",
    "kernel.sysrq": "0",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.modules_disabled": "1",
    "user.max_user_namespaces": "0",
}
INITTAB = (
    "::sysinit:/etc/init.d/setup",
    "::respawn:/usr/lib/sallyport/front-end",
    "::ctrlaltdel:/usr/bin/true",
)
TEST_INITTAB = (
    "::respawn:/usr/bin/env CRYPTOGRAPHY_OPENSSL_NO_LEGACY=1 /usr/bin/python3 -I /usr/lib/sallyport/test_shell.py",
)

COMMAND_LINE = (
    r"console=tty[A-Z]*[0-9]+(,[0-9]+)?",
    r"sallyport\.roothash=[0-9a-f]{64}",
    r"sallyport\.verity=[1-9][0-9]*,[0-9a-f]{64}",
    r"ipv6\.disable=1",
    "panic=10",
    "quiet",
    "loglevel=3",
    r"rcupdate\.rcu_expedited=1",
    "audit=0",
    "mitigations=auto,nosmt",
    r"systemd\.import_credentials=no",
    r"systemd\.show_status=yes",
    r"systemd\.gpt_auto=no",
    r"systemd\.firstboot=no",
    r"rd\.systemd\.gpt_auto=no",
)
"""Each word of the host kernel's command line, once; no other, so none that gives a shell or another root."""

_SEALED_OFF = words(
    """
NoNewPrivileges=yes PrivateTmp=disconnected PrivateMounts=yes ProtectSystem=strict ProtectHome=yes ProtectClock=yes
ProtectControlGroups=yes ProtectKernelLogs=yes ProtectKernelModules=yes ProtectProc=invisible RestrictNamespaces=yes
RestrictRealtime=yes RestrictSUIDSGID=yes LockPersonality=yes SystemCallArchitectures=native UMask=0077
"""
)
FREE_KEYS = words(
    "Type NotifyAccess Restart RestartSec RestartSteps RestartMaxDelaySec WatchdogSec TimeoutStartSec TimeoutStopSec "
    "KillMode MemoryMax CPUWeight TasksMax RemainAfterExit LimitCORE StandardError"
)
"""Of a service's section what may be anything: nothing of it gives a right. All other lines are declared."""


def services(port: str, vm: str) -> Mapping[str, tuple[str, ...]]:
    """Lines of ``[Service]`` of each of our units, for a way of forwarding (`rootfs.profile.Forwarder`)."""
    python = "ExecStart=/usr/bin/python3 -I -m backend."
    caps = {"ring": "CAP_NET_RAW CAP_NET_ADMIN", "kernel": "CAP_BPF CAP_PERFMON CAP_NET_ADMIN"}
    may = caps.get(port, "CAP_NET_ADMIN")
    families = {"ring": "AF_PACKET", "kernel": "AF_NETLINK"}.get(port, "AF_NETLINK AF_INET")
    return {
        "sallyport-backend.service": (
            *_SEALED_OFF,
            python + "daemon",
            "User=sallyport",
            "SupplementaryGroups=sallyport-beat",
            *("CapabilityBoundingSet=", "AmbientCapabilities="),
            # Write only: the first password goes there. Standard input stays /dev/null.
            *("StandardOutput=tty", "TTYPath=/dev/console"),
            *("DevicePolicy=closed", "DeviceAllow=/dev/console rw"),
            "ReadWritePaths=/data/sallyport /run/sallyport/request",
            "InaccessiblePaths=/data/identity /run/sallyport/guest",
            "RestrictAddressFamilies=AF_UNIX AF_INET",
            *("MemoryDenyWriteExecute=yes", "ProtectKernelTunables=yes"),
            *("SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources"),
        ),
        "sallyport-vm.service": (
            *_SEALED_OFF,
            # As root, for the VM's user may use KVM.
            *("ExecStartPre=-+/usr/bin/chgrp kvm /dev/kvm", "ExecStartPre=-+/usr/bin/chmod 0660 /dev/kvm"),
            python + "supervisor",
            "User=sallyport-vm",
            "SupplementaryGroups=kvm sallyport-beat",
            *("CapabilityBoundingSet=", "AmbientCapabilities="),
            *("DevicePolicy=closed", "DeviceAllow=/dev/kvm rw", "DeviceAllow=/dev/net/tun rw"),
            "ReadWritePaths=/run/sallyport/vm",
            "InaccessiblePaths=/data /run/sallyport/link /run/sallyport/request",
            *("RestrictAddressFamilies=AF_UNIX AF_INET", "IPAddressDeny=any", "ProtectHostname=yes"),
        ),
        "sallyport-port.service": (
            *_SEALED_OFF,
            python + "forwarder",
            "User=sallyport-port",
            "SupplementaryGroups=sallyport sallyport-vm",
            "NetworkNamespacePath=/run/netns/mgmt",
            *(f"AmbientCapabilities={may}", f"CapabilityBoundingSet={may}"),
            *("DevicePolicy=closed", *(["DeviceAllow=/dev/net/tun rw"] if vm == "tap" else [])),
            "ReadWritePaths=/run/sallyport/port",
            "InaccessiblePaths=/data /run/sallyport/link /run/sallyport/guest /run/sallyport/vm",
            f"RestrictAddressFamilies=AF_UNIX {families}",
            *("MemoryDenyWriteExecute=yes", "ProtectHostname=yes", "ProtectKernelTunables=yes"),
        ),
        "sallyport-hostname.service": (
            *_SEALED_OFF,
            "ExecStart=/usr/lib/sallyport/apply-hostname",
            "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_READ_SEARCH",
            *("PrivateNetwork=yes", "ReadOnlyPaths=/data", "RestrictAddressFamilies=none"),
            "ProtectKernelTunables=yes",
        ),
        "sallyport-keys.service": (
            "ExecStart=/usr/lib/sallyport/link-keys",
            "CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER",
            *("NoNewPrivileges=yes", "PrivateNetwork=yes", "PrivateTmp=disconnected", "ProtectSystem=strict"),
            "ReadWritePaths=/data/identity /run/sallyport/link /run/sallyport/guest",
            *("ProtectKernelTunables=yes", "ProtectKernelModules=yes", "RestrictAddressFamilies=none"),
            "SystemCallArchitectures=native",
        ),
        "sallyport-network.service": (
            "ExecStart=/usr/lib/sallyport/port-setup",
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_NET_RAW CAP_CHOWN CAP_DAC_OVERRIDE",
            "NoNewPrivileges=yes",
        ),
        "sallyport-modules.service": (
            "ExecStart=/usr/lib/sallyport/load-modules",
            *("CapabilityBoundingSet=CAP_SYS_MODULE", "NoNewPrivileges=yes"),
        ),
        "sallyport-modules-lock.service": ("ExecStart=/usr/bin/sysctl -q -w kernel.modules_disabled=1",),
        "sallyport-reboot.service": ("ExecStart=/usr/bin/systemctl --no-block reboot",),
    }


VENDOR_LINES: Mapping[str, frozenset[str]] = {
    "systemd-journald.service": words(
        "LockPersonality=yes MemoryDenyWriteExecute=yes NoNewPrivileges=yes RestrictNamespaces=yes "
        "RestrictSUIDSGID=yes SystemCallFilter=@system-service"
    )
}
"""Lines that a unit of systemd's own must have, whatever else its version brings."""
EXPOSURE: Mapping[str, tuple[float, str]] = {
    "sallyport-backend.service": (2.0, "parses what the VM sends"),
    "sallyport-vm.service": (3.5, "QEMU needs devices, memory that it may run, and a network for its tap"),
    "sallyport-port.service": (3.8, "opens the port with two capabilities, which it gives up before the first frame"),
    "sallyport-hostname.service": (3.7, "root, for sethostname(2); without network"),
    "sallyport-keys.service": (5.7, "root, for the owners of keys; without network; reads nothing from outside"),
    "systemd-journald.service": (5.2, "systemd's own"),
    "sallyport-modules.service": (7.2, "loads modules once; reads nothing from outside"),
    "sallyport-network.service": (8.1, "makes the network once; reads nothing from outside"),
}
"""Most that ``systemd-analyze security`` may say (0 to 10, less is better), and why it is not less. The one-line units
that end in a moment (reboot, lock of modules) are not rated: they read nothing."""

_MANAGED = f"ip saddr {link.FRONTEND_ADDRESS} ip daddr {link.BACKEND_ADDRESS} tcp dport {link.BACKEND_PORT}"
HOST_RULES: Mapping[str, tuple[str, ...]] = {
    "inet host input_host": (
        "type filter hook input priority filter; policy drop;",
        'iif "lo" accept',
        f'iifname "link0" {_MANAGED} jump backend',
        "counter name input_dropped",
    ),
    "inet host backend": (
        "tcp flags & (syn | ack) == syn limit rate over 1000/second burst 2000 packets counter name link_limited drop",
        "counter name link_in accept",
    ),
    "inet host forward_host": ("type filter hook forward priority filter; policy drop;",),
    "inet host output_host": (
        "type filter hook output priority filter; policy drop;",
        'oif "lo" accept',
        f'oifname "link0" ip saddr {link.BACKEND_ADDRESS} ip daddr {link.FRONTEND_ADDRESS} tcp sport '
        f"{link.BACKEND_PORT} accept",
        "counter name output_dropped",
    ),
}
LINK_RULES: Mapping[str, tuple[str, ...]] = {
    "netdev link from_vm": (
        'type filter hook ingress device "link0" priority filter; policy drop;',
        f"ether saddr != {link.FRONTEND_MAC} counter name spoofed drop",
        f"ether type arp arp saddr ip {link.FRONTEND_ADDRESS} arp daddr ip {link.BACKEND_ADDRESS} accept",
        f"ether type ip ether daddr {link.BACKEND_MAC} ip hdrlength 5 ip frag-off & 0x3fff == 0 {_MANAGED} accept",
        "counter name other",
    ),
}


def port_rules(port: str, vm: str) -> Mapping[str, tuple[str, ...]]:
    """Chains of the management port, in order of their rules, for a way of forwarding."""
    if port != "bridge":
        devices = ["mgmt0", *(["access0"] if vm == "tap" else [])]
        chains: dict[str, tuple[str, ...]] = {}
        for device in devices:
            head = f'type filter hook {{}} device "{device}" priority filter; policy drop;'
            chains[f"netdev port in_{device}"] = (head.format("ingress"), "counter name to_host")
            mark = "meta mark 0x706f7274 accept"
            chains[f"netdev port out_{device}"] = (head.format("egress"), mark, "counter name from_host")
        return chains

    def way(direction: str) -> tuple[str, ...]:
        inside = link.LINK_NETWORK
        which = ("ip saddr", "ip daddr", "arp saddr ip", "arp daddr ip")
        return (
            *(f"{field} {inside} counter name {direction}_link_address drop" for field in which),
            f"ether type {{ ip, ip6, arp }} counter name {direction}_passed accept",
            f"counter name {direction}_ethertype drop",
        )

    return {
        "bridge port forward_port": (
            "type filter hook forward priority filter; policy drop;",
            'iifname "mgmt0" oifname "access0" jump from_port',
            'iifname "access0" oifname "mgmt0" jump from_vm',
            "counter name other drop",
        ),
        "bridge port from_port": way("rx"),
        "bridge port from_vm": ("ether saddr != @vm counter name tx_spoofed drop", *way("tx")),
        "bridge port input_port": ("type filter hook input priority filter; policy drop;", "counter name to_host"),
        "bridge port output_port": ("type filter hook output priority filter; policy drop;", "counter name from_host"),
    }


@dataclass(frozen=True)
class Secret:
    """What is searched for: any match of ``expression`` contains one of ``needles`` at most ``before`` bytes after its
    begin. Looking for the needles first makes the search ten times as fast."""

    needles: tuple[bytes, ...]
    before: int
    expression: re.Pattern[bytes]

    def find(self, data: bytes) -> Iterator[re.Match[bytes]]:
        """The matches; those that overlap may be left out."""
        for needle in self.needles:
            at = data.find(needle)
            while at >= 0:
                end = at
                match = self.expression.search(data, max(0, at - self.before), at + 24_000)
                if match is not None and match.start() <= at:
                    yield match
                    end = match.end() - 1
                at = data.find(needle, max(end, at) + 1)


_CRYPT = (
    rb"\$(?:1\$X{1,8}\$X{22}|5\$(?:rounds=\d{1,9}\$)?X{1,16}\$X{43}|6\$(?:rounds=\d{1,9}\$)?X{1,16}\$X{86}"
    rb"|g?y\$X{1,8}\$X{1,86}\$X{43}|2[aby]\$\d\d\$X{53}|argon2(?:id|i|d)\$v=\d+\$m=\d+)"
).replace(b"X", rb"[./A-Za-z0-9]")
SECRETS: Mapping[str, Secret] = {
    "private key (PEM)": Secret(
        (b"PRIVATE KEY",),
        48,
        re.compile(
            rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----\s{0,4}(?:[A-Za-z-]{1,40}: [^\n]{0,200}\n){0,4}"
            rb"\s{0,4}[A-Za-z0-9+/=]{16}[A-Za-z0-9+/=\s]{0,20000}"
        ),
    ),
    "private key (RFC 8410)": Secret(
        (b"\x06\x03\x2b\x65",),
        8,
        re.compile(rb"\x30[\x2e\x47]\x02\x01\x00\x30\x05\x06\x03\x2b\x65[\x6e-\x71]\x04[\x22\x3b]\x04.{16}", re.DOTALL),
    ),
    "private key (RFC 5915)": Secret(
        (b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",),
        8,
        re.compile(
            rb"\x02\x01\x00\x30[\x10-\x20]\x06\x07\x2a\x86\x48\xce\x3d\x02\x01.{7,12}\x04.{1,3}\x30.{1,3}\x02\x01\x01\x04.{16}",
            re.DOTALL,
        ),
    ),
    "private key (RFC 8017)": Secret(
        (b"\x02\x03\x01\x00\x01\x02\x82", b"\x02\x03\x01\x00\x01\x02\x81"),
        540,
        re.compile(
            rb"\x30\x82..\x02\x01\x00\x02\x82[\x01\x02][\x00\x01\x80\x81].{256,513}\x02\x03\x01\x00\x01\x02[\x81\x82]",
            re.DOTALL,
        ),
    ),
    "password hash (crypt(5))": Secret(
        (b"$1$", b"$5$", b"$6$", b"$y$", b"$gy$", b"$2a$", b"$2b$", b"$2y$", b"$argon2"), 0, re.compile(_CRYPT)
    ),
    "token": Secret(
        (b"AKIA", b"ghp_", b"xoxb-", b"glpat-", b"eyJ"),
        0,
        re.compile(
            # An access key has digits; a list of words in capitals has none.
            rb"(?<![A-Z])AKIA(?=[A-Z]{0,15}[0-9])[0-9A-Z]{16}|ghp_[A-Za-z0-9]{36}|xoxb-[0-9A-Za-z-]{20,80}|glpat-[0-9A-Za-z_-]{20}"
            rb"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{20,2000}"
        ),
    ),
    "authorized key": Secret(
        (b" AAAA",), 24, re.compile(rb"(?:ssh-(?:rsa|ed25519)|ecdsa-sha2-nistp\d{3}) AAAA[A-Za-z0-9+/]{40,2000}")
    ),
}
PUBLISHED: Mapping[str, frozenset[str]] = {
    "usr/lib/*/libgnutls.so.*": words(
        "ca6e3a8a6c23cb55 f8f37b68b2471039 6d36fd846dc5a9e2 65370a1062a231c1 f8beca4e6c327f34 348f40b8ca903c0a "
        "e5c643c952857f23 377b72ebaae43d90 23d51a270cb07113 c0500d8eb43b35b3 d593e683feea29f7 fdc8b254c9854bac"
    ),
    "usr/bin/openssl": words("18cf6b3e01d87f03 7be1e738b70160d9 54feb9d6f750b36d"),
}
"""Keys that anybody can read: by file, what `digest` makes of each. GnuTLS carries the vectors of its self-test (FIPS
140-3), ``openssl speed`` the RSA keys that it measures with."""
TEST_SECRETS = frozenset({"etc/test-access/authorized_keys", "usr/share/sallyport/frontend/root.squashfs"})
"""Where a test image has the key that may use the VM's test shell; the second holds the first, not compressed."""

# ------------------------------------------------------------------------------------------------------------ the tree


class TreeError(Exception):
    """A tree, or a file of it, is not what can be looked at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of any type, by lstat(2); ``target`` of a symbolic link."""

    path: str
    mode: int
    uid: int
    gid: int
    size: int
    target: str = ""

    def __str__(self) -> str:
        return f"{self.path!r} ({stat.filemode(self.mode)} {self.uid}:{self.gid})"


class Tree:
    """A root file system below ``root``; nothing outside of it is ever looked at."""

    def __init__(self, root: Path, *, test_access: bool = False) -> None:
        self.root, self.test_access = root, test_access

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Everything in the tree, by path.

        Raises:
            TreeError: too much, too deep, or it cannot be read.
        """
        found: list[Entry] = []
        try:
            for path, folders, files, descriptor in os.fwalk(self.root, follow_symlinks=False):
                here = os.path.relpath(path, self.root)
                if here.count("/") > MAX_DEPTH or len(found) > MAX_ENTRIES:
                    raise TreeError(f"{self.root}: more than {MAX_ENTRIES} files, or deeper than {MAX_DEPTH}")
                for name in (*folders, *files):
                    at = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    target = os.readlink(name, dir_fd=descriptor) if stat.S_ISLNK(at.st_mode) else ""
                    full = name if here == "." else f"{here}/{name}"
                    found.append(Entry(full, at.st_mode, at.st_uid, at.st_gid, at.st_size, target))
        except OSError as error:
            raise TreeError(f"{self.root}: {error}") from error
        return tuple(sorted(found, key=lambda entry: entry.path))

    @cached_property
    def by_path(self) -> Mapping[str, Entry]:
        """The entries by their path."""
        return {entry.path: entry for entry in self.entries}

    def files(self) -> Iterator[Entry]:
        """Regular files."""
        return (entry for entry in self.entries if stat.S_ISREG(entry.mode))

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes:
        """What is in a regular file.

        Raises:
            TreeError: it is none, is longer than ``limit`` bytes, or a part of its path is a symbolic link.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        *folders, name = parts = path.split("/")
        if {"", ".", ".."} & {*parts}:
            raise TreeError(f"{path!r} is no path below the root")
        at = -1
        try:
            at = os.open(self.root, flags | os.O_DIRECTORY)
            for folder in folders:
                at, above = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at), at
                os.close(above)
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise TreeError(f"{path!r} is no regular file")
            with os.fdopen(os.open(name, flags, dir_fd=at), "rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError) as error:
            raise TreeError(f"{path!r} cannot be read: {error}") from error
        finally:
            if at >= 0:
                os.close(at)
        if len(data) > limit:
            raise TreeError(f"{path!r} is longer than {limit} bytes")
        return data

    def text(self, path: str) -> str:
        """What is in a text file; what is no UTF-8 is replaced. See `read`."""
        return self.read(path).decode(errors="replace")

    def capability(self, entry: Entry) -> bool:
        """Whether a file has capabilities (capabilities(7), xattr(7)).

        Raises:
            TreeError: that cannot be asked.
        """
        try:
            return "security.capability" in os.listxattr(self.root / entry.path, follow_symlinks=False)
        except OSError as error:
            raise TreeError(f"{entry.path!r}: {error}") from error


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def way(tree: Tree) -> tuple[str, str]:
    """The way of forwarding that an image says it has: (port, vm).

    Raises:
        TreeError: it says none.
    """
    try:
        said = json.loads(tree.read("etc/sallyport/port.json"))
        port, vm = said["port"], said["vm"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TreeError(f"etc/sallyport/port.json: {error}") from error
    if (port, vm) not in {("ring", "vhost-user"), ("ring", "tap"), ("kernel", "tap"), ("bridge", "tap")}:
        raise TreeError(f"etc/sallyport/port.json names no way that there is: {port!r}, {vm!r}")
    return port, vm


# ---------------------------------------------------------------------------------------------------------- the checks

Find = Callable[[Tree], Iterator[str]]
Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Check:
    """One thing that is looked for.

    Args:
        name: of the result.
        tried: what is looked for, as a sentence.
        find: objections to a tree, one line each; raises `TreeError` where it cannot look.
        plants: what it must object to: by name, what makes it in a scratch tree.
        files: patterns of the files that the scratch tree is made of.
        as_root: the scratch tree, or the look itself, needs root.
    """

    name: str
    tried: str
    find: Find
    plants: Mapping[str, Plant]
    files: tuple[str, ...] = ()
    as_root: bool = False


def setuid(tree: Tree) -> Iterator[str]:
    """Files that run as somebody else."""
    for entry in tree.entries:
        if entry.mode & (stat.S_ISUID | stat.S_ISGID):
            yield f"setuid or setgid: {entry}"


def capabilities(tree: Tree) -> Iterator[str]:
    """Files with capabilities."""
    for entry in tree.files():
        if tree.capability(entry):
            yield f"has capabilities: {entry}"


def writable(tree: Tree) -> Iterator[str]:
    """What others than root may write."""
    for entry in tree.entries:
        if stat.S_ISLNK(entry.mode):
            continue
        sticky = stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX
        if (entry.mode & stat.S_IWOTH and not sticky) or (entry.mode & stat.S_IWGRP and entry.gid):
            yield f"others may write {entry}"


def owners(tree: Tree) -> Iterator[str]:
    """What is not root's: a service could change what it runs."""
    for entry in tree.entries:
        if entry.uid or entry.gid:
            yield f"not root's: {entry}"


def specials(tree: Tree) -> Iterator[str]:
    """Devices, pipes and sockets."""
    for entry in tree.entries:
        if stat.S_IFMT(entry.mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            yield f"neither file nor directory nor link: {entry}"


def programs(tree: Tree, *, allowed: frozenset[str], applets: frozenset[str]) -> Iterator[str]:
    """Executables and names for BusyBox that are not declared; symbolic links in a search path to anything else."""
    if tree.test_access:
        allowed, applets = allowed | TEST_PROGRAMS, applets | TEST_APPLETS
    for entry in tree.entries:
        name = entry.path.rpartition("/")[2]
        if stat.S_ISREG(entry.mode) and entry.mode & 0o111 and not _matches(entry.path, allowed):
            yield f"not declared, and executable: {entry}"
        elif stat.S_ISLNK(entry.mode) and re.match(r"usr/(local/)?s?bin/", entry.path):
            busybox = re.fullmatch(r"(\.\./bin/)?busybox", entry.target) and name in applets
            if not busybox and (name, entry.target.rstrip("0123456789.")) != ("python3", "python"):
                yield f"not declared: {entry.path!r} -> {entry.target!r}"


def names(tree: Tree) -> Iterator[str]:
    """Files called like something that has no place here."""
    for entry in tree.entries:
        name = entry.path.rpartition("/")[2]
        busybox = stat.S_ISLNK(entry.mode) and entry.target == "busybox"  # which of these: `programs`
        code = entry.path.startswith(("usr/lib/python3", _MODULES))
        test = tree.test_access and name in TEST_NAMES
        if not busybox and not test and not (code and not _matches(name, _PYTHON_HOOKS)) and _matches(name, BANNED):
            yield f"has no place here: {entry}"


_PYTHON_HOOKS = ("*.pth", "sitecustomize*", "usercustomize*")
"""What Python runs at every start (site module); other names in its library are its own."""


def systemd(tree: Tree) -> Iterator[str]:
    """What lies in systemd's directories and is not declared."""
    declared = {**SYSTEMD, **(TEST_SYSTEMD if tree.test_access else {})}
    for entry in tree.entries:
        if "systemd" not in entry.path.split("/")[:-1] or stat.S_ISDIR(entry.mode):
            continue
        pattern = next((p for p in declared if fnmatch.fnmatchcase(entry.path, p)), None)
        if pattern is None:
            yield f"not declared: {entry}"
        elif declared[pattern] != entry.target:
            yield f"{entry.path!r} -> {entry.target!r}, not {declared[pattern]!r}"


def configured(tree: Tree, *, allowed: frozenset[str], test: frozenset[str]) -> Iterator[str]:
    """Settings that are not declared: of udev, modprobe, the loader, PAM, anybody."""
    allowed = allowed | (test if tree.test_access else frozenset())
    places = (
        "usr/lib/udev/",
        "usr/lib/modprobe.d/",
        "usr/lib/modules-load.d/",
        "usr/lib/sysctl.d/",
        "usr/lib/tmpfiles.d/",
    )
    for entry in tree.entries:
        if stat.S_ISDIR(entry.mode) or entry.path.startswith("etc/systemd/"):
            continue
        if (entry.path.startswith("etc/") and entry.path not in allowed) or entry.path.startswith(places):
            yield f"not declared: {entry}"


_SECTION = re.compile(r"\[(.+)\]\s*\Z")


def unit_lines(text: str, section: str) -> list[str]:
    """The assignments of one section as ``Key=Value``, in order (systemd.syntax(7): comments, continued lines)."""
    inside, lines = False, []
    for raw in re.sub(r"\\\n", " ", text).split("\n"):
        line = raw.strip()
        if match := _SECTION.match(line):
            inside = match[1] == section
        elif inside and line and line[0] not in "#;":
            key, _, value = line.partition("=")
            lines.append(f"{key.strip()}={value.strip()}")
    return lines


def _difference(where: str, found: Iterable[str], declared: Iterable[str]) -> Iterator[str]:
    have, want = Counter(found), Counter(declared)
    yield from (f"{where}: not declared: {line!r}" for line in sorted((have - want).elements()))
    yield from (f"{where}: missing: {line!r}" for line in sorted((want - have).elements()))


def sandbox(tree: Tree) -> Iterator[str]:
    """Lines of our services that are not as declared, and lines that systemd's own must have."""
    for unit, declared in services(*way(tree)).items():
        lines = unit_lines(tree.text(_UNITS + unit), "Service")
        guarded = [line for line in lines if line.partition("=")[0] not in FREE_KEYS]
        yield from _difference(unit, guarded, declared)
        # The order of some lines has a meaning: what is started, and which filter takes out of which.
        for key in ("SystemCallFilter=", "ExecStart"):
            if [li for li in guarded if li.startswith(key)] != [li for li in declared if li.startswith(key)]:
                yield f"{unit}: {key} lines are not in the declared order"
    for line in unit_lines(tree.text(_TMP), "Mount"):
        if not {"nosuid", "nodev", "noexec"} <= {*line.removeprefix("Options=mode=1777,").split(",")}:
            yield f"tmp.mount: {line!r} is not the one line that forbids programs in /tmp"
    if not unit_lines(tree.text(_TMP), "Mount"):
        yield "tmp.mount: nothing forbids programs in /tmp"
    for unit, needed in VENDOR_LINES.items():
        lines = unit_lines(tree.text(_VENDOR + unit), "Service")
        yield from (f"{unit}: missing: {line!r}" for line in sorted(needed - set(lines)))


def terminals(tree: Tree) -> Iterator[str]:
    """Units that read from a terminal or start a shell, sockets that are not unix sockets in /run."""
    for entry in tree.entries:
        if not stat.S_ISREG(entry.mode) or "systemd" not in entry.path.split("/") or entry.path.endswith(".so"):
            continue
        name = entry.path.rpartition("/")[2]
        if tree.test_access and entry.path in TEST_SYSTEMD:
            continue
        if name.endswith(".service") or "/system/" in entry.path:
            for line in unit_lines(tree.text(entry.path), "Service"):
                if re.match(r"StandardInput=(?!null\Z)", line):
                    yield f"{name}: {line}"
                elif re.match(r"Exec\w+=[-@:+!|]*(/usr)?(/s?bin/)?\w*(sh|busybox sh|getty|login)(\s+-\w+)*\s*\Z", line):
                    yield f"{name} starts a shell or a login: {line}"
            for line in unit_lines(tree.text(entry.path), "Socket"):
                if line.startswith("Listen") and not re.match(r"Listen(Stream|Datagram)=/run/systemd/journal/", line):
                    yield f"{name} listens elsewhere: {line}"


def inittab(tree: Tree) -> Iterator[str]:
    """What BusyBox init runs in the VM, beyond what is declared."""
    lines = [line.strip() for line in tree.text("etc/inittab").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    yield from _difference("inittab", lines, (*INITTAB, *(TEST_INITTAB if tree.test_access else ())))


def accounts(tree: Tree, *, declared: Mapping[str, int]) -> Iterator[str]:
    """Accounts with a password or a shell, or that are not declared (passwd(5), shadow(5), group(5))."""
    seen: set[str] = set()
    for line in filter(None, tree.text("etc/passwd").split("\n")):
        fields = line.split(":")
        if len(fields) != 7 or fields[0] in seen or str(declared.get(fields[0])) != fields[2]:
            yield f"passwd: not declared: {line[:120]!r}"
        elif fields[1] not in ("x", "*", "!") or fields[6] != NO_SHELL:
            yield f"passwd: a password or a shell: {line[:120]!r}"
        seen.add(fields[0])
    yield from (f"passwd: missing: {name}" for name in sorted(declared.keys() - seen))
    for line in filter(None, tree.text("etc/group").split("\n")):
        fields = line.split(":")
        if len(fields) != 4 or fields[1] not in ("x", "*", "!") or fields[3]:
            yield f"group: a password or a member: {line[:120]!r}"
    for name in ("etc/shadow", "etc/gshadow", "etc/shadow-", "etc/passwd-"):
        if name in tree.by_path:
            # With "x" in passwd and no shadow nobody has a password at all.
            yield f"{name} has no place here"


def secrets(tree: Tree) -> Iterator[str]:
    """Keys, password hashes and tokens that are not published ones."""
    for entry in tree.files():
        known: set[str] = set()
        for pattern, digests in PUBLISHED.items():
            known |= digests if fnmatch.fnmatchcase(entry.path, pattern) else set()
        data = tree.read(entry.path, MAX_FILE)
        for kind, secret in SECRETS.items():
            if tree.test_access and kind == "authorized key" and entry.path in TEST_SECRETS:
                continue
            for match in secret.find(data):
                if digest(match[0]) not in known:
                    yield f"{kind} in {entry.path!r} at {match.start()}, digest {digest(match[0])}"


def digest(found: bytes) -> str:
    """What a published key is known by."""
    return hashlib.sha256(found.strip()).hexdigest()[:16]


def sysctl(tree: Tree) -> Iterator[str]:
    """Kernel settings of the host that are not as declared."""
    lines = [line.strip() for line in tree.text("etc/sysctl.d/sallyport.conf").split("\n")]
    found = [re.sub(r"\s*=\s*", "=", line, count=1) for line in lines if line and line[0] not in "#;"]
    yield from _difference("sysctl.d", found, (f"{key}={value}" for key, value in SYSCTL.items()))


def vm_sysctl(tree: Tree) -> Iterator[str]:
    """Kernel settings that the VM's start does not make, or makes and undoes."""
    text = "\n".join(line for line in tree.text("etc/init.d/setup").split("\n") if not line.lstrip().startswith("#"))
    commands = [command for command in re.sub(r"\\\n", " ", text).split("\n") if command.startswith("sysctl ")]
    last: dict[str, str] = {}
    for word in " ".join(commands).split():
        key, equals, value = word.partition("=")
        if equals:
            last[key] = value
    for key, value in VM_SYSCTL.items():
        if last.get(key) != value:
            yield f"setup: {key} is {last.get(key)!r}, not {value!r}"
    if re.search(r"/proc/sys/(?!kernel/modules_disabled)", text):
        yield "setup: writes to /proc/sys by another way"


def chains(text: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The chains of a rule file, ``family table chain`` to lines, and what stands outside of tables (nft(8)).

    Raises:
        TreeError: the braces do not match, or a block is in no table.
    """
    found: dict[str, tuple[str, ...]] = {}
    outside: list[str] = []
    table, chain, lines = "", "", list[str]()
    for raw in text.split("\n"):
        line = " ".join(raw.split())
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"table (\w+ \w+) \{", line):
            if table:
                raise TreeError(f"a table in a table: {line!r}")
            table = match[1]
        elif match := re.fullmatch(r"chain (\w+) \{", line):
            if not table or chain or f"{table} {match[1]}" in found:
                raise TreeError(f"a chain outside of a table, or twice: {line!r}")
            chain, lines = f"{table} {match[1]}", []
        elif line == "}":
            if chain:
                found[chain], chain = tuple(lines), ""
            elif table:
                table = ""
            else:
                raise TreeError("a brace too many")
        elif chain:
            lines.append(line)
        elif not (table and re.fullmatch(r"counter \w+ \{ \}|set vm \{ type ether_addr; \}", line)):
            outside.append(line)
    if table or chain:
        raise TreeError("a brace is missing")
    return found, outside


def rules(tree: Tree) -> Iterator[str]:
    """Packet rules that are not as declared, line by line and in order."""
    files = {"host": HOST_RULES, "link": LINK_RULES, "port": port_rules(*way(tree))}
    for file, declared in files.items():
        found, outside = chains(tree.text(f"etc/sallyport/{file}.nft"))
        tables = {name.rpartition(" ")[0] for name in declared}
        known = [f"{verb} {table}" for table in sorted(tables) for verb in ("table", "delete table")]
        yield from _difference(f"{file}.nft", outside, known)
        for name in sorted(found.keys() | declared.keys()):
            if name not in declared or name not in found:
                yield f"{file}.nft: chain {name!r} is {'missing' if name in declared else 'not declared'}"
            elif found[name] != declared[name]:
                more = [line for line in found[name] if line not in declared[name]]
                gone = [line for line in declared[name] if line not in found[name]]
                yield f"{file}.nft: chain {name!r}: not declared {more}, missing {gone}, or in another order"


def packages(tree: Tree, *, ours: str) -> Iterator[str]:
    """Code of the other end: the host runs nothing of the VM's, and the VM nothing of the host's."""
    for entry in tree.entries:
        if re.match(
            rf"usr/lib/python3[^/]*/(dist|site)-packages/(?!{ours}(/|\Z))(backend|frontend_vm|rootfs|tests|overlays)\b",
            entry.path,
        ):
            yield f"has no place here: {entry}"


def vm_packages(tree: Tree) -> Iterator[str]:
    """Code in the VM that is not the VM's, and systemd."""
    yield from packages(tree, ours="frontend_vm")
    yield from systemd(tree)


def manifest(tree: Tree, *, listed: Mapping[str, str]) -> Iterator[str]:
    """Files that the manifest does not list, or lists with another digest."""
    there = {entry.path for entry in tree.files()}
    yield from (f"not in the manifest: {path!r}" for path in sorted(there - listed.keys()))
    yield from (f"in the manifest only: {path!r}" for path in sorted(listed.keys() - there))
    for path in sorted(there & listed.keys()):
        if hashlib.sha256(tree.read(path, MAX_FILE)).hexdigest() != listed[path]:
            yield f"not the manifest's: {path!r}"


# ---------------------------------------------------------------------------------------------------------- the plants


def put(path: str, content: str | bytes = "x\n", mode: int = 0o644) -> Plant:
    """Plants a file."""

    def plant(root: Path) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    return plant


def ln(path: str, target: str) -> Plant:
    """Plants a symbolic link."""

    def plant(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(target)

    return plant


def edit(path: str, old: str, new: str) -> Plant:
    """Changes a text file; `TreeError` if ``old`` is not there, as then nothing would be planted."""

    def plant(root: Path) -> None:
        text = (root / path).read_text(errors="replace")
        if old not in text:
            raise TreeError(f"{path} has no {old!r} to change")
        (root / path).write_text(text.replace(old, new, 1))

    return plant


def _folder(path: str, mode: int) -> Plant:
    def plant(root: Path) -> None:
        (root / path).mkdir(parents=True)
        (root / path).chmod(mode)

    return plant


def _capable(root: Path) -> None:
    put("usr/bin/x", mode=0o755)(root)
    # struct vfs_ns_cap_data without its owner (capabilities(7), VFS_CAP_REVISION_2): CAP_NET_ADMIN, effective
    os.setxattr(root / "usr/bin/x", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 12, 0, 0, 0))


def _owned(uid: int, gid: int) -> Plant:
    def plant(root: Path) -> None:
        put("usr/lib/x")(root)
        os.chown(root / "usr/lib/x", uid, gid)

    return plant


def _grouped(root: Path) -> None:
    put("usr/lib/x", mode=0o664)(root)
    os.chown(root / "usr/lib/x", 0, 900)
    (root / "usr/lib/x").chmod(0o664)


def _pipe(root: Path) -> None:
    (root / "dev").mkdir()
    os.mkfifo(root / "dev/x")


_PEM = "-----BEGIN {}PRIVATE KEY-----\n" + "MC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlantedPlantedPlantedPlanted0\n"
_HASH = "root:$6$planted$" + "0123456789" * 8 + "01234A" + ":20000:0:99999:7:::\n"
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420") + bytes(range(32))
_SEC1 = bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420") + bytes(range(32))
_RSA = bytes.fromhex("308204a40201000282010100") + bytes(range(1, 256)) + b"\x01" + bytes.fromhex("0203010001028201")

_COMMON: tuple[Check, ...] = (
    Check(
        "setuid",
        "every file for a setuid or setgid bit",
        setuid,
        {
            "setuid": put("usr/bin/x", mode=0o4755),
            "setgid": put("usr/bin/x", mode=0o2755),
            "directory": _folder("x", 0o2755),
        },
        as_root=True,
    ),
    Check(
        "capabilities",
        "every file for capabilities of its own (xattr security.capability)",
        capabilities,
        {"CAP_NET_ADMIN": _capable},
        as_root=True,
    ),
    Check(
        "writable",
        "every file and directory for others than root who may write it",
        writable,
        {
            "file": put("usr/lib/x", mode=0o666),
            "unit": put(f"{_UNITS}x.service", mode=0o646),
            "directory": _folder("x", 0o777),
            "group": _grouped,
        },
        as_root=True,
    ),
    Check(
        "owners",
        "every file for an owner or group other than root",
        owners,
        {"user": _owned(900, 0), "group": _owned(0, 901)},
        as_root=True,
    ),
    Check("special-files", "every file for a device, pipe or socket", specials, {"pipe": _pipe}),
    Check(
        "names",
        f"every name for what gives a shell or a login, runs unasked, or keeps keys: {len(BANNED)} patterns",
        names,
        {
            **{
                n: put(f"usr/sbin/{n}", mode=0o755)
                for n in ("sshd", "agetty", "telnetd", "dbus-daemon", "sulogin", "bash")
            },
            **{n: put(f"etc/{n}") for n in ("shadow", "ld.so.preload", "ssh_host_ed25519_key")},
            "python": put("usr/lib/python3/dist-packages/x.pth"),
        },
    ),
    Check(
        "secrets",
        f"every file for {', '.join(SECRETS)}",
        secrets,
        {
            **{f"{k or 'PKCS8 '}PEM": put("usr/share/x", _PEM.format(k)) for k in ("", "EC ", "RSA ", "OPENSSH ")},
            "PEM in a program": put("usr/bin/x", bytes(4096) + _PEM.format("").encode() + bytes(64)),
            "key where others are published": put("usr/lib/x86_64-linux-gnu/libgnutls.so.30", _PEM.format("")),
            "DER Ed25519": put("x.der", _PKCS8),
            "DER P-256": put("x.der", _SEC1),
            "DER RSA": put("x.der", _RSA),
            "password hash": put("etc/x", _HASH),
            "yescrypt": put("etc/x", "x:$y$j9T$" + "a" * 22 + "$" + "b" * 43 + ":"),
            "token": put("x", "key = AKIA" + "A1" * 8),
            "authorized key": put("x", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43),
        },
    ),
)
_PASSWD = ("etc/passwd", "etc/group")


def _accounts(declared: Mapping[str, int]) -> Check:
    return Check(
        "accounts",
        "passwd, group and shadow for a password, a shell, or an account that is not declared",
        partial(accounts, declared=declared),
        {
            "shell": edit("etc/passwd", NO_SHELL, "/bin/sh"),
            "password": edit("etc/passwd", "root:x:", "root:$1$a$" + "a" * 22 + ":"),
            "no password": edit("etc/passwd", "root:x:", "root::"),
            "second root": edit("etc/passwd", "nobody:", f"more:x:0:0::/:{NO_SHELL}\nnobody:"),
            "shadow": put("etc/shadow", _HASH, 0o600),
            "member": edit("etc/group", "root:x:0:", "root:x:0:nobody"),
        },
        _PASSWD,
    )


_SERVICE = f"{_UNITS}sallyport-backend.service"
HOST_CHECKS: tuple[Check, ...] = (
    *_COMMON,
    Check(
        "programs",
        f"every executable, every name for BusyBox: {len(HOST_PROGRAMS)} and {len(HOST_APPLETS)} are declared",
        partial(programs, allowed=HOST_PROGRAMS, applets=HOST_APPLETS),
        {
            "program": put("usr/lib/x", mode=0o755),
            "applet": ln("usr/bin/nc", "busybox"),
            "shell": ln("usr/sbin/ash", "../bin/busybox"),
            "link": ln("usr/bin/python3", "/data/x"),
        },
    ),
    Check(
        "units",
        "everything in systemd's directories against what is declared: no other unit, drop-in, generator, preset",
        systemd,
        {
            "getty": put(f"{_UNITS}getty@.service"),
            "drop-in": put(f"{_SERVICE}.d/x.conf"),
            "generator": put("usr/lib/systemd/system-generators/x", mode=0o755),
            "preset": put("usr/lib/systemd/system-preset/x.preset"),
            "socket": put(f"{_VENDOR}sshd.socket"),
            "wanted": ln(f"{_UNITS}sallyport.target.wants/x.service", "/data/x.service"),
            "other target": ln(f"{_UNITS}default.target", "rescue.target"),
            "user unit": put("etc/systemd/user/x.service"),
        },
    ),
    Check(
        "sandbox",
        "every line of our services that gives or takes a right, against the declared ones",
        sandbox,
        {
            "weaker": edit(_SERVICE, "ProtectSystem=strict", "ProtectSystem=no"),
            "gone": edit(_SERVICE, "NoNewPrivileges=yes\n", ""),
            "undone later": edit(_SERVICE, "UMask=0077", "UMask=0077\nRestrictNamespaces=no"),
            "capability": edit(_SERVICE, "AmbientCapabilities=", "AmbientCapabilities=CAP_SYS_ADMIN"),
            "as root": edit(f"{_UNITS}sallyport-port.service", "User=sallyport-port", "User=root"),
            "more is run": edit(_SERVICE, "ExecStart=", "ExecStartPre=+/bin/x\nExecStart="),
            "device": edit(
                f"{_UNITS}sallyport-vm.service", "DeviceAllow=/dev/kvm", "DeviceAllow=/dev/mem rw\nDeviceAllow=/dev/kvm"
            ),
            "journal": edit(f"{_VENDOR}systemd-journald.service", "NoNewPrivileges=yes", ""),
            "programs in /tmp": edit(_TMP, ",noexec", ""),
            "another /tmp": edit(_TMP, "[Mount]", "[Mount]\nWhat=/dev/vda4"),
        },
        (_TMP, f"{_UNITS}*.service", f"{_VENDOR}*.service", "etc/sallyport/port.json"),
    ),
    Check(
        "terminals",
        "every unit for a terminal that is read, a shell, a login, a socket outside of /run",
        terminals,
        {
            "terminal": put(f"{_UNITS}x.service", "[Service]\nExecStart=/x\nStandardInput=tty-force\n"),
            "shell": put(f"{_UNITS}x.service", "[Service]\nExecStart=-/bin/sh\n"),
            "getty": put(f"{_VENDOR}x@.service", "[Service]\nExecStart=-/sbin/agetty\n"),
            "network": put(f"{_VENDOR}x.socket", "[Socket]\nListenStream=22\n"),
            "vsock": put(f"{_VENDOR}x.socket", "[Socket]\nListenStream=vsock::22\n"),
            "abstract": put(f"{_VENDOR}x.socket", "[Socket]\nListenStream=@x\n"),
            "drop-in": put(f"{_UNITS}x.service.d/x.conf", "[Service]\nStandardInput=tty\n"),
        },
        (f"{_UNITS}*.service", f"{_VENDOR}*.socket"),
    ),
    _accounts(ACCOUNTS),
    Check(
        "settings",
        "every file below /etc, and of udev, modprobe, sysctl and tmpfiles, against what is declared",
        partial(configured, allowed=CONFIGURED, test=frozenset()),
        {
            "udev": put("usr/lib/udev/rules.d/x.rules"),
            "modprobe": put("etc/modprobe.d/x.conf"),
            "sysctl": put("etc/sysctl.d/zz.conf"),
            "rc.local": put("etc/rc.local", mode=0o755),
        },
    ),
    Check(
        "kernel-settings",
        f"{len(SYSCTL)} settings of the kernel, each with its value, and no other",
        sysctl,
        {
            "other value": edit("etc/sysctl.d/sallyport.conf", "kexec_load_disabled = 1", "kexec_load_disabled = 0"),
            "gone": edit("etc/sysctl.d/sallyport.conf", "kernel.sysrq = 0\n", ""),
            "undone later": edit("etc/sysctl.d/sallyport.conf", "vm.unpriv", "net.ipv4.ip_forward = 1\nvm.unpriv"),
        },
        ("etc/sysctl.d/sallyport.conf",),
    ),
    Check(
        "rules",
        "every line of the packet rules against the declared ones, in order: every base chain drops by default",
        rules,
        {
            "policy": edit("etc/sallyport/host.nft", "policy drop", "policy accept"),
            "policy of the port": edit("etc/sallyport/port.nft", "policy drop", "policy accept"),
            "rule before others": edit("etc/sallyport/link.nft", "ether saddr !=", "accept\n        ether saddr !="),
            "another order": edit(
                "etc/sallyport/host.nft", 'oif "lo"', 'counter name output_dropped\n        oif "lo"'
            ),
            "rule gone": edit("etc/sallyport/link.nft", "counter name spoofed drop", "counter name spoofed"),
            "chain": edit(
                "etc/sallyport/host.nft", "chain forward_host {", "chain x {\n accept\n }\n chain forward_host {"
            ),
            "include": edit("etc/sallyport/port.nft", "delete table", 'include "/data/x.nft"\ndelete table'),
            "flush": edit("etc/sallyport/host.nft", "chain input_host {", "flags dormant;\n    chain input_host {"),
        },
        ("etc/sallyport/*",),
    ),
    Check(
        "packages",
        "Python packages for code that is not the host's",
        partial(packages, ours="backend"),
        {"front-end": put("usr/lib/python3/dist-packages/frontend_vm/app.pyc")},
    ),
)
VM_CHECKS: tuple[Check, ...] = (
    *_COMMON,
    Check(
        "programs",
        f"every executable, every name for BusyBox: {len(VM_PROGRAMS)} and {len(VM_APPLETS)} are declared",
        partial(programs, allowed=VM_PROGRAMS, applets=VM_APPLETS),
        {"program": put("usr/sbin/x", mode=0o755), "applet": ln("usr/bin/telnetd", "busybox")},
    ),
    Check(
        "inittab",
        "what init runs, line by line, against what is declared",
        inittab,
        {
            "shell": edit("etc/inittab", "::ctrlaltdel:", "ttyS0::askfirst:/bin/sh\n::ctrlaltdel:"),
            "other": edit("etc/inittab", "/usr/bin/true", "/usr/bin/sh"),
        },
        ("etc/inittab",),
    ),
    _accounts(VM_ACCOUNTS),
    Check(
        "settings",
        "every file below /etc against what is declared",
        partial(configured, allowed=VM_CONFIGURED, test=TEST_VM_CONFIGURED),
        {"preload": put("etc/x.conf"), "script": put("etc/init.d/S99x", mode=0o755)},
    ),
    Check(
        "kernel-settings",
        f"{len(VM_SYSCTL)} settings that the VM's start makes: it forwards nothing, and no module can be loaded",
        vm_sysctl,
        {
            "forwards": edit("etc/init.d/setup", "net.ipv4.ip_forward=0", "net.ipv4.ip_forward=1"),
            "undone later": edit(
                "etc/init.d/setup", "ip link set lo up", "sysctl -q -w net.ipv6.conf.all.forwarding=1\n"
            ),
            "another way": edit("etc/init.d/setup", "ip link set lo up", "echo 1 >/proc/sys/net/ipv4/ip_forward\n"),
        },
        ("etc/init.d/setup",),
    ),
    Check(
        "packages",
        "Python packages for code that is not the VM's, and the tree for systemd",
        vm_packages,
        {
            "backend": put("usr/lib/python3/dist-packages/backend/daemon.pyc"),
            "systemd": put("usr/lib/systemd/x"),
        },
    ),
)

# --------------------------------------------------------------------------------------------------------- the running


@dataclass
class _Outcome:
    """What came of a check: ``trouble`` is why it cannot be relied on, ``seen`` which plants it found."""

    offences: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    planted: int = 0


def _bounded(found: Iterator[str]) -> list[str]:
    offences: list[str] = []
    for offence in found:
        if len(offences) >= MAX_OFFENCES:
            return [*offences, "and more"]
        offences.append(offence)
    return offences


def _copy(tree: Tree, patterns: Sequence[str], scratch: Path) -> None:
    for entry in tree.files():
        if _matches(entry.path, patterns):
            put(entry.path, tree.read(entry.path), 0o644)(scratch)


def _control(check: Check, tree: Tree, scratch: Path, outcome: _Outcome) -> None:
    """Plant each thing in a scratch tree of its own: the check must object to more than it did without it."""
    for number, (name, plant) in enumerate(check.plants.items()):
        outcome.planted += 1
        root = scratch / str(number)
        root.mkdir()
        try:
            _copy(tree, check.files, root)
            before = set(check.find(Tree(root, test_access=tree.test_access)))
            plant(root)
            if set(_bounded(check.find(Tree(root, test_access=tree.test_access)))) - before:
                outcome.seen.append(name)
            else:
                outcome.trouble.append(f"control {name!r} was planted and not found")
        except (TreeError, OSError) as error:
            outcome.trouble.append(f"control {name!r}: {error}")
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _run(prefix: str, check: Check, tree: Tree, scratch: Path) -> Result:
    began, outcome = time.monotonic(), _Outcome()
    if check.as_root and os.geteuid() != 0:
        # unsquashfs leaves out owners, setuid bits and capabilities where it is not root's.
        outcome.trouble.append("unpacked by an ordinary user: owners and modes are not the image's; run it as root")
    else:
        _control(check, tree, scratch, outcome)
    evidence = ""
    try:
        evidence = f"{len(tree.entries)} files; "
        if not tree.entries:
            raise TreeError(f"{tree.root} is empty")
        outcome.offences = _bounded(check.find(tree))
    except TreeError as error:
        outcome.trouble.append(str(error))
    return _result(f"{prefix}{check.name}", check.tried, outcome, evidence, began)


def _result(name: str, tried: str, outcome: _Outcome, evidence: str, began: float) -> Result:
    if outcome.offences:
        verdict, said = Verdict.HOLE, "; ".join(outcome.offences[:6])
    elif outcome.trouble or len(outcome.seen) != outcome.planted or not outcome.planted:
        verdict, said = Verdict.NOT_TESTED, "; ".join(outcome.trouble[:4]) or "no control"
    else:
        verdict, said = Verdict.SEALED, "no objection"
    control = f"{len(outcome.seen)} of {outcome.planted} planted ones found: {', '.join(outcome.seen)}"
    frames = tuple(outcome.offences[:20])
    return Result(GROUP, name, tried, verdict, evidence + said, control, time.monotonic() - began, frames)


def _manifest_check(listed: Mapping[str, str]) -> Check:
    return Check(
        "manifest",
        f"every file against the {len(listed)} digests of the manifest",
        partial(manifest, listed=listed),
        {
            "more": put("usr/lib/planted"),
            "less": lambda root: (root / "etc/passwd").unlink(),
            "other": edit("etc/passwd", "root", "toor"),
        },
        ("etc/*",),
    )


_FIGURE = re.compile(r"Overall exposure level for \S+: ([0-9]+(?:\.[0-9]+)?)\s")


def _figure(analyze: Analyze, root: Path, unit: str) -> float:
    said = analyze(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--root={root}", unit])
    match = _FIGURE.search(said)
    if match is None:
        raise TreeError(f"systemd-analyze gave no figure for {unit}: {said[-160:]!r}")
    return float(match[1])


def exposure(tree: Tree, analyze: Analyze, scratch: Path) -> Result:
    """The figures of ``systemd-analyze security``; the control: a backend without a sandbox is above its limit."""
    began, outcome = time.monotonic(), _Outcome(planted=1)
    figures: list[str] = []
    bare = scratch / "bare"
    unit = "sallyport-backend.service"
    try:
        put(_UNITS + unit, "[Service]\nExecStart=/usr/bin/python3 -I -m backend.daemon\n")(bare)
        if (figure := _figure(analyze, bare, unit)) > EXPOSURE[unit][0]:
            outcome.seen.append(f"a backend without a sandbox has {figure}")
        for name, (most, _) in EXPOSURE.items():
            figure = _figure(analyze, tree.root, name)
            figures.append(f"{name.removesuffix('.service')} {figure} of {most}")
            if figure > most:
                outcome.offences.append(f"{name}: exposure {figure}, not at most {most}")
    except Exception as error:  # whatever the caller's way to run it raises
        outcome.trouble.append(f"systemd-analyze: {error}")
    finally:
        shutil.rmtree(bare, ignore_errors=True)
    tried = f"systemd-analyze security of {len(EXPOSURE)} services, against a declared most"
    return _result("exposure", tried, outcome, f"{', '.join(figures)}; ", began)


def command_line_of(kernel: Path) -> str:
    """The command line in a unified kernel image: its section ``.cmdline`` (UAPI.5, unified kernel images).

    Raises:
        TreeError: the file is none.
    """
    try:
        with kernel.open("rb") as file:
            head = file.read(1 << 16)
            # PE format: offset of the header at 0x3c, then COFF file header, optional header, section table.
            (at,) = struct.unpack_from("<I", head, 0x3C)
            if head[:2] != b"MZ" or head[at : at + 4] != b"PE\0\0":
                raise TreeError(f"{kernel} is no PE image")
            count, optional = struct.unpack_from("<H12xH", head, at + 6)
            for number in range(min(count, 96)):
                name, size, raw, offset = struct.unpack_from("<8sI4xII", head, at + 24 + optional + 40 * number)
                if name == b".cmdline":
                    file.seek(offset)
                    return file.read(min(size, raw, 4096)).rstrip(b"\0").decode("ascii")
    except (OSError, struct.error, ValueError) as error:
        raise TreeError(f"{kernel}: {error}") from error
    raise TreeError(f"{kernel} has no section .cmdline")


def _words(line: str, root_hash: str) -> list[str]:
    """What is wrong with a command line."""
    words = line.split()
    wrong = [f"not declared: {word!r}" for word in words if not any(re.fullmatch(p, word) for p in COMMAND_LINE)]
    for pattern in COMMAND_LINE:
        count = sum(1 for word in words if re.fullmatch(pattern, word))
        if count != 1:
            wrong.append(f"{count} words like {pattern}")
    if root_hash and f"sallyport.roothash={root_hash}" not in words:
        wrong.append("the root hash is not the manifest's")
    return wrong


def command_line(line: str, root_hash: str = "") -> Result:
    """The host kernel's command line against the declared words; ``root_hash`` of the manifest."""
    began, outcome = time.monotonic(), _Outcome()
    planted = {
        "shell": line + " systemd.debug-shell=1",
        "init": line + " init=/bin/sh",
        "early shell": line + " rd.break",
        "console": line + " console=ttyS1",
        "IPv6": line.replace("ipv6.disable=1", "ipv6.disable=0"),
        "no verified root": re.sub(r"sallyport\.roothash=\S*", "root=/dev/vda2", line),
        "two roots": line + " sallyport.roothash=" + "0" * 64,
        "mitigations": line.replace("mitigations=auto,nosmt", "mitigations=off"),
    }
    offences = _words(line, root_hash)
    for name, other in planted.items():
        outcome.planted += 1
        if other != line and set(_words(other, root_hash)) - set(offences):
            outcome.seen.append(name)
        else:
            outcome.trouble.append(f"control {name!r} was not found")
    outcome.offences = offences
    tried = "every word of the command line in the unified kernel image against the declared ones"
    return _result("command-line", tried, outcome, f"{len(line.split())} words; ", began)


def run_tree(
    host_tree: Path,
    vm_tree: Path,
    analyze: Analyze | None = None,
    *,
    files: Mapping[str, str] | None = None,
    kernel: Path | None = None,
    root_hash: str = "",
    test_access: bool = False,
) -> list[Result]:
    """Check the unpacked root file systems of an image; never raises for what is in them.

    Args:
        host_tree: the host's, unpacked as root (else owners and modes are lost, and those checks are "not-tested").
        vm_tree: the VM's.
        analyze: runs ``systemd-analyze``; it must see ``host_tree`` and its parent, where the scratch trees are made,
            under their own paths. Without it there is no result ``exposure``.
        files: the manifest's path to SHA-256; without it there is no result ``manifest``.
        kernel: the unified kernel image; without it there is no result ``command-line``.
        root_hash: the manifest's.
        test_access: the trees are a test image's: what it has besides is let pass, and only that.
    """
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=host_tree.parent, ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        host, vm = Tree(host_tree, test_access=test_access), Tree(vm_tree, test_access=test_access)
        checks = (*HOST_CHECKS, *([_manifest_check(files)] if files is not None else ()))
        results += [_run("", check, host, scratch) for check in checks]
        results += [_run("vm-", check, vm, scratch) for check in VM_CHECKS]
        if analyze is not None:
            results.append(exposure(host, analyze, scratch))
    if kernel is not None:
        try:
            results.append(command_line(command_line_of(kernel), root_hash))
        except TreeError as error:
            outcome = _Outcome(trouble=[str(error)])
            results.append(_result("command-line", "the unified kernel image", outcome, "", time.monotonic()))
    return results
