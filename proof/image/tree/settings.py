"""Declared: accounts, what the VM's init runs, the host kernel's command line."""

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
