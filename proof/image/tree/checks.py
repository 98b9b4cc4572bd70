"""The checks of the host's tree and of the VM's, each with its planted controls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from proof.declared.kernel_settings import SYSCTL, VM_SYSCTL
from proof.image.tree.check import Check
from proof.image.tree.findings import (
    OwnFile,
    accounts,
    capabilities,
    configured,
    inittab,
    manifest,
    names,
    own,
    owners,
    packages,
    programs,
    rules,
    sandbox,
    secrets,
    setuid,
    specials,
    sysctl,
    systemd,
    terminals,
    vm_packages,
    vm_sysctl,
    writable,
)
from proof.image.tree.paths import (
    BANNED,
    CONFIGURED,
    HOST_APPLETS,
    HOST_PROGRAMS,
    TEST_VM_CONFIGURED,
    TMP,
    UNITS,
    VENDOR,
    VM_APPLETS,
    VM_CONFIGURED,
    VM_PROGRAMS,
)
from proof.image.tree.plants import HASH, PEM, PKCS8, RSA, SEC1, capable, edit, folder, grouped, ln, owned, pipe, put
from proof.image.tree.secrets import SECRETS
from proof.image.tree.settings import ACCOUNTS, NO_SHELL, VM_ACCOUNTS

_COMMON: tuple[Check, ...] = (
    Check(
        "setuid",
        "every file for a setuid or setgid bit",
        setuid,
        {
            "setuid": put("usr/bin/x", mode=0o4755),
            "setgid": put("usr/bin/x", mode=0o2755),
            "directory": folder("x", 0o2755),
        },
        as_root=True,
    ),
    Check(
        "capabilities",
        "every file for capabilities of its own (xattr security.capability)",
        capabilities,
        {"CAP_NET_ADMIN": capable},
        as_root=True,
    ),
    Check(
        "writable",
        "every file and directory for others than root who may write it",
        writable,
        {
            "file": put("usr/lib/x", mode=0o666),
            "unit": put(f"{UNITS}x.service", mode=0o646),
            "directory": folder("x", 0o777),
            "group": grouped,
        },
        as_root=True,
    ),
    Check(
        "owners",
        "every file for an owner or group other than root",
        owners,
        {"user": owned(900, 0), "group": owned(0, 901)},
        as_root=True,
    ),
    Check("special-files", "every file for a device, pipe or socket", specials, {"pipe": pipe}),
    Check(
        "names",
        f"every name: none of {len(BANNED)} patterns for shells, logins, files that are loaded by others, key files",
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
            **{f"{k or 'PKCS8 '}PEM": put("usr/share/x", PEM.format(k)) for k in ("", "EC ", "RSA ", "OPENSSH ")},
            "PEM in a program": put("usr/bin/x", bytes(4096) + PEM.format("").encode() + bytes(64)),
            "key where others are published": put("usr/lib/x86_64-linux-gnu/libgnutls.so.30", PEM.format("")),
            "DER Ed25519": put("x.der", PKCS8),
            "DER P-256": put("x.der", SEC1),
            "DER RSA": put("x.der", RSA),
            "password hash": put("etc/x", HASH),
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
            "shadow": put("etc/shadow", HASH, 0o600),
            "member": edit("etc/group", "root:x:0:", "root:x:0:nobody"),
        },
        _PASSWD,
    )


_SERVICE = f"{UNITS}sallyport-backend.service"
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
            "getty": put(f"{UNITS}getty@.service"),
            "drop-in": put(f"{_SERVICE}.d/x.conf"),
            "generator": put("usr/lib/systemd/system-generators/x", mode=0o755),
            "preset": put("usr/lib/systemd/system-preset/x.preset"),
            "socket": put(f"{VENDOR}sshd.socket"),
            "wanted": ln(f"{UNITS}sallyport.target.wants/x.service", "/data/x.service"),
            "other target": ln(f"{UNITS}default.target", "rescue.target"),
            "user unit": put("etc/systemd/user/x.service"),
        },
    ),
    Check(
        "sandbox",
        "every line of our services that grants or drops a right, against the declared ones",
        sandbox,
        {
            "weaker": edit(_SERVICE, "ProtectSystem=strict", "ProtectSystem=no"),
            "gone": edit(_SERVICE, "NoNewPrivileges=yes\n", ""),
            "undone later": edit(_SERVICE, "UMask=0077", "UMask=0077\nRestrictNamespaces=no"),
            "capability": edit(_SERVICE, "AmbientCapabilities=", "AmbientCapabilities=CAP_SYS_ADMIN"),
            "as root": edit(f"{UNITS}sallyport-port.service", "User=sallyport-port", "User=root"),
            "more is run": edit(_SERVICE, "ExecStart=", "ExecStartPre=+/bin/x\nExecStart="),
            "device": edit(
                f"{UNITS}sallyport-vm.service", "DeviceAllow=/dev/kvm", "DeviceAllow=/dev/mem rw\nDeviceAllow=/dev/kvm"
            ),
            "journal": edit(f"{VENDOR}systemd-journald.service", "NoNewPrivileges=yes", ""),
            "programs in /tmp": edit(TMP, ",noexec", ""),
            "another /tmp": edit(TMP, "[Mount]", "[Mount]\nWhat=/dev/vda4"),
        },
        (TMP, f"{UNITS}*.service", f"{VENDOR}*.service", "etc/sallyport/port.json"),
    ),
    Check(
        "terminals",
        "every unit for a terminal that is read, a shell, a login, a socket outside of /run",
        terminals,
        {
            "terminal": put(f"{UNITS}x.service", "[Service]\nExecStart=/x\nStandardInput=tty-force\n"),
            "shell": put(f"{UNITS}x.service", "[Service]\nExecStart=-/bin/sh\n"),
            "getty": put(f"{VENDOR}x@.service", "[Service]\nExecStart=-/sbin/agetty\n"),
            "network": put(f"{VENDOR}x.socket", "[Socket]\nListenStream=22\n"),
            "vsock": put(f"{VENDOR}x.socket", "[Socket]\nListenStream=vsock::22\n"),
            "abstract": put(f"{VENDOR}x.socket", "[Socket]\nListenStream=@x\n"),
            "drop-in": put(f"{UNITS}x.service.d/x.conf", "[Service]\nStandardInput=tty\n"),
        },
        (f"{UNITS}*.service", f"{VENDOR}*.socket"),
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
        partial(packages, package="backend"),
        {
            "front-end": put("usr/lib/python3/dist-packages/frontend_vm/app.pyc"),
            "proof": put("usr/lib/python3/dist-packages/proof/stages.pyc"),
        },
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
            "backend": put("usr/lib/python3/dist-packages/backend/daemon/main.pyc"),
            "driver": put("usr/lib/python3/dist-packages/driver/shell.pyc"),
            "systemd": put("usr/lib/systemd/x"),
        },
    ),
)


def manifest_check(listed: Mapping[str, str]) -> Check:
    """Return the check that every file has the SHA-256 that the manifest lists, and that there is no other.

    Args:
        listed: path to digest, of the manifest.
    """
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


def own_check(made: Mapping[str, OwnFile]) -> Check:
    """Return the check that the files which the project itself puts into an image are as this checkout builds them.

    Args:
        made: path to the file that this checkout builds (`proof.image.own_files`).
    """
    code = next((path for path in made if path.endswith("/__init__.pyc")), "usr/lib/python3/dist-packages/x.pyc")
    return Check(
        "own-files",
        f"{len(made)} files that this project brings, against those that this checkout builds; others among its code",
        partial(own, made=made),
        {
            "another setting": edit("etc/hosts", "localhost", "localhosts"),
            "another program": put(code, b"\0"),
            "more code": put(f"{code.rpartition('/')[0]}/x.pyc"),
            "less": lambda root: (root / "etc/hosts").unlink(),
        },
        tuple(path for path in made if path.startswith("etc/") or path == code),
    )
