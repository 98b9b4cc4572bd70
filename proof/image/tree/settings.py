"""Declared: accounts, settings of both kernels, what the VM's init runs, the host kernel's command line."""

from __future__ import annotations

from collections.abc import Mapping

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
    "mitigations=auto",
    "nosmt=force",
    r"systemd\.import_credentials=no",
    r"systemd\.show_status=yes",
    r"systemd\.gpt_auto=no",
    r"systemd\.firstboot=no",
    r"rd\.systemd\.gpt_auto=no",
)
"""Each word of the host kernel's command line, once; no other, so none that gives a shell or another root."""
