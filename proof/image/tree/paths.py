"""Declared: every program, unit and setting that a tree may contain, path by path, and names that none may have."""

from __future__ import annotations

from collections.abc import Mapping

from proof.declared.words import words

MODULES = "usr/lib/modules/"

HOST_PROGRAMS = words(
    "usr/bin/busybox usr/bin/ip usr/bin/journalctl usr/bin/openssl usr/bin/python3.* usr/bin/qemu-system-x86_64 "
    "usr/bin/qemu-system-x86_64-microvm usr/bin/qemu-system-aarch64 usr/bin/systemctl usr/bin/systemd-tmpfiles "
    "usr/lib/sallyport/apply-hostname "
    "usr/lib/sallyport/link-keys usr/lib/sallyport/load-modules usr/lib/sallyport/port-setup usr/lib/systemd/systemd "
    "usr/lib/systemd/systemd-executor usr/lib/systemd/systemd-journald usr/lib/systemd/systemd-shutdown "
    "usr/lib/systemd/systemd-sysctl usr/lib/*/ld-linux-*.so.? usr/lib/*/libc.so.6 usr/sbin/dmsetup "
    "usr/sbin/e2fsck usr/sbin/nft"
)
"""Declared: every executable file of the host."""
HOST_APPLETS = words(
    "cat chgrp chmod cp cut false grep head hostname ls mkdir mktemp modprobe mount mv readlink rm sed sh sleep sort "
    "stty sync sysctl test tr true umount"
)
"""Declared: the links to BusyBox on the host. Its one shell is ``sh``, for the script that sets up the port."""
TEST_APPLETS = words(
    "awk base64 date dd dmesg env find id kill killall netstat nsenter pidof ps sha256sum stat tail timeout touch "
    "uname uptime wc xargs test head mktemp"
)
"""Declared: further links to BusyBox in a test image, on the host and in the VM."""
VM_PROGRAMS = words(
    "etc/init.d/setup usr/bin/busybox usr/bin/python3.* usr/lib/sallyport/front-end usr/lib/*/ld-linux-*.so.? "
    "usr/lib/*/libc.so.6"
)
VM_APPLETS = words(
    "cat chmod chown cp false grep hostname init ip kill ln ls mkdir mount ps rm sed setpriv sh sleep su sysctl true "
    "umount"
)
"""Declared: the links to BusyBox in the VM. ``su`` can only drop rights: no file is setuid, passwords are locked."""
TEST_PROGRAMS = frozenset({"usr/lib/sallyport/test-shell"})
UNITS = "etc/systemd/system/"
VENDOR = "usr/lib/systemd/system/"
_WANTS = {
    "local-fs": ("tmp.mount",),
    "sockets": ("systemd-journald-dev-log.socket", "systemd-journald.socket"),
    "sysinit": ("systemd-journald.service", "systemd-sysctl.service", "systemd-tmpfiles-setup.service"),
}
TMP = f"{UNITS}tmp.mount.d/sallyport.conf"
_OURS = words(
    "sallyport-backend.service sallyport-hostname.path sallyport-hostname.service sallyport-identity.service "
    "sallyport-identity.timer sallyport-keys.service "
    "sallyport-modules-lock.service sallyport-modules.service sallyport-network.service sallyport-port.service "
    "sallyport-reboot.path sallyport-reboot.service sallyport-vm.service sallyport.target"
)
THEIRS = words(
    "basic.target final.target local-fs-pre.target local-fs.target paths.target poweroff.target reboot.target "
    "shutdown.target slices.target sockets.target sysinit.target systemd-journald-dev-log.socket "
    "systemd-journald.service systemd-journald.socket systemd-poweroff.service systemd-reboot.service "
    "systemd-sysctl.service systemd-tmpfiles-setup.service timers.target tmp.mount umount.target"
)
SYSTEMD: Mapping[str, str] = {
    "etc/systemd/journald.conf.d/sallyport.conf": "",
    f"{UNITS}ctrl-alt-del.target": "/dev/null",
    TMP: "",
    f"{UNITS}default.target": "sallyport.target",
    f"{UNITS}sysinit.target.wants/sallyport-modules.service": "../sallyport-modules.service",
    **{f"{UNITS}{t}.target.wants/{u}": f"/{VENDOR}{u}" for t, units in _WANTS.items() for u in units},
    **{UNITS + unit: "" for unit in _OURS},
    **{VENDOR + unit: "" for unit in THEIRS},
    **{f"usr/lib/systemd/{n}": "" for n in ("systemd", "systemd-executor", "systemd-journald", "systemd-shutdown")},
    "usr/lib/systemd/systemd-sysctl": "",
    "usr/lib/*-linux-gnu/systemd/libsystemd-*.so": "",
}
"""Declared: every file in systemd's directories; for a symbolic link with its target.

So there is no other generator, preset, drop-in, login, getty or socket.
"""
TEST_SYSTEMD: Mapping[str, str] = {
    f"{UNITS}test-shell.service": "",
    f"{UNITS}sallyport.target.wants/test-shell.service": "../test-shell.service",
}
CONFIGURED = frozenset(
    f"etc/{name}"
    for name in words(
        "group hostname hosts machine-id nsswitch.conf os-release passwd sallyport/host.nft sallyport/image.json "
        "sallyport/link.nft sallyport/openssl.cnf sallyport/port.json sallyport/port.nft sallyport/vm.json "
        "sysctl.d/sallyport.conf tmpfiles.d/sallyport.conf"
    )
)
"""Declared: the files below /etc of the host, but for systemd's; so no udev rule and no module option."""
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
"""Names that no file of either tree may have: shells, logins, files that are loaded into programs, key files."""
TEST_NAMES = frozenset({"authorized_keys"})
