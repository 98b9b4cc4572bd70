"""Holes in the host: listeners, the rules of the link, its processes, and the checks of the backend."""

from __future__ import annotations

from backend.protocol import link_plan
from tests.mutants.mutant import ON_PORT, Mutant, listener, qemu
from tests.mutants.plants import Code, Edit, OnHost, background

_OPEN_LINK = (
    "nft insert rule netdev link from_vm accept",
    "nft insert rule inet host input_host accept",
    "nft insert rule inet host output_host accept",
)
_FIRST_LINE = "        reader = asyncio.StreamReader(limit=MAX_LINE - 2, loop=loop)"
_PLAIN = """        import select
        if select.select([sock], [], [], 0.5)[0] and sock.recv(1, socket.MSG_PEEK) == b"{":
            return await asyncio.open_connection(sock=sock, limit=MAX_LINE - 2)
"""
_LAX = """            import json
            known = {k: v for k, v in json.loads(line).items() if k in ("v", "seq", "do", "token")}
            request = decode_request(json.dumps(known).encode())"""

_SANDBOX = '*("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),'
_DROP_IN = "/run/systemd/system/sallyport-vm.service.d"
_NO_FILTER = (
    "SystemCallFilter= SystemCallArchitectures= RestrictAddressFamilies= RestrictNamespaces=no RestrictRealtime=no "
    "RestrictSUIDSGID=no LockPersonality=no ProtectClock=no ProtectHostname=no ProtectKernelLogs=no "
    "ProtectKernelModules=no"
)


def _vm_unit(*lines: str) -> tuple[str, ...]:
    """Command lines that add lines to the VM's unit."""
    text = "\\n".join(("[Service]", *lines))
    return (f"mkdir -p {_DROP_IN} && printf '{text}\\n' >{_DROP_IN}/planted.conf", "systemctl daemon-reload")


HOST: tuple[Mutant, ...] = (
    # Listeners of the host.
    Mutant(
        "host-sshd",
        "host",
        "A service of the host listens on the SSH port of the port's namespace.",
        listener("0.0.0.0", 22, netns="mgmt"),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "knock-service",
        "host",
        "A hidden service of the host waits for one datagram and never answers.",
        listener("0.0.0.0", 31337, netns="mgmt", udp=True),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "host-service-on-link",
        "link",
        "A service of the host listens on the link, and the rules let it.",
        OnHost((*_OPEN_LINK, *listener(link_plan.BACKEND_ADDRESS, 8080).lines)),
        "link",
        ("link/tcp*",),
    ),
    Mutant(
        "backend-on-any-address",
        "backend",
        "The backend's port is open on every address of the host.",
        OnHost(("systemctl stop sallyport-backend", *listener("0.0.0.0", 7000).lines)),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "qmp-on-tcp",
        "host",
        "The VM's QEMU takes orders over TCP, and its unit lets it have such sockets.",
        qemu(
            '*("-qmp", "tcp:127.0.0.1:4444,server=on,wait=off")',
            _vm_unit("RestrictAddressFamilies=AF_UNIX AF_INET"),
        ),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "debug-shell-on-network",
        "host",
        "A root shell listens in the port's namespace.",
        OnHost((ON_PORT + "busybox nc -ll -p 2323 -e /bin/sh </dev/null >/dev/null 2>&1 & sleep 1",)),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "debug-shell-on-serial",
        "host",
        "A root shell waits on the serial console.",
        OnHost(("busybox setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1' & sleep 1",)),
        "system",
        ("system/*",),
    ),
    # The link.
    Mutant(
        "no-rules-on-link",
        "link",
        "The host's rules on the link are not there.",
        OnHost(
            (
                "nft delete table netdev link",
                "nft delete table inet host",
                "sysctl -q -w net.ipv4.icmp_echo_ignore_all=0",
            )
        ),
        "link",
        ("link/icmp", "link/tcp*"),
    ),
    Mutant(
        "rule-order-on-link",
        "link",
        "A rule that accepts everything stands before the check of the sender's address.",
        OnHost(("nft insert rule netdev link from_vm accept", "sysctl -q -w net.ipv4.conf.link0.rp_filter=0")),
        "link",
        ("link/spoofed", "link/*"),
    ),
    # The host.
    Mutant(
        "host-forwards",
        "host",
        "The host forwards packets between its networks.",
        OnHost(("sysctl -q -w net.ipv4.ip_forward=1",)),
        "system",
        ("system/*",),
    ),
    Mutant(
        "root-process",
        "host",
        "A process that nobody declared runs as root.",
        OnHost(background("import os")),
        "system",
        ("system/*",),
    ),
    Mutant(
        "writable-and-executable",
        "host",
        "A file system of the host is writable and takes programs.",
        OnHost(("mkdir -p /run/planted && mount -t tmpfs -o exec,mode=0777 planted /run/planted",)),
        "system",
        ("system/*",),
    ),
    # Traces.
    Mutant(
        "vm-speaks-as-the-supervisor",
        "host",
        "The VM's console goes to the supervisor's own stream of the journal.",
        Code("sallyport-vm", (Edit("backend/guests/vm.py", "stdout=console, stderr=messages", "stdout=2, stderr=2"),)),
        "system",
        ("system/vm",),
    ),
    Mutant(
        "audit-not-chained",
        "backend",
        "An entry of the audit log does not name the one before it.",
        Code("sallyport-backend", (Edit("backend/daemon/ring.py", "prev=self._prev)", 'prev="0" * 64)'),)),
        "audit",
        ("audit/chain",),
    ),
    Mutant(
        "rejections-push-out-changes",
        "backend",
        "What a stranger provokes is written among the operators' changes.",
        Code("sallyport-backend", (Edit("backend/daemon/audit.py", "kind=REJECTED,", "kind=CHANGES,"),)),
        "audit",
        ("audit/rejections",),
    ),
    Mutant(
        "vm-process-on-host-network",
        "host",
        "QEMU and its supervisor share the host's network namespace.",
        Code("sallyport-vm", (), _vm_unit("PrivateNetwork=no")),
        "system",
        ("system/processes",),
    ),
    Mutant(
        "vm-process-unfiltered",
        "host",
        "QEMU may call whatever the kernel has.",
        Code(
            "sallyport-vm",
            (Edit("backend/guests/vm.py", _SANDBOX, '*("-sandbox", "off"),'),),
            _vm_unit(*_NO_FILTER.split()),
        ),
        "system",
        ("system/processes",),
    ),
    # The backend's own checks.
    Mutant(
        "no-client-certificate",
        "backend",
        "The backend takes instructions from whoever reaches it, without a certificate.",
        Code(
            "sallyport-backend",
            (
                Edit("backend/daemon/link.py", "ssl.CERT_REQUIRED", "ssl.CERT_NONE"),
                Edit("backend/daemon/server.py", " or tls.getpeercert(binary_form=True) != self._keys.peer:", ":"),
            ),
        ),
        "instructions",
        ("instructions/tls",),
    ),
    Mutant(
        "plain-text-link",
        "backend",
        "The backend takes instructions in plain text, too.",
        Code("sallyport-backend", (Edit("backend/daemon/server.py", _FIRST_LINE, _PLAIN + _FIRST_LINE),)),
        "instructions",
        ("instructions/tls",),
    ),
    Mutant(
        "old-tls",
        "backend",
        "The link speaks older versions of TLS.",
        Code(
            "sallyport-backend",
            (
                Edit(
                    "backend/daemon/link.py",
                    "context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3",
                    "context.minimum_version = ssl.TLSVersion.TLSv1_2",
                ),
                Edit("backend/daemon/server.py", ' or tls.version() != "TLSv1.3"', ""),
            ),
        ),
        "instructions",
        ("instructions/tls",),
    ),
    Mutant(
        "endless-guesses",
        "backend",
        "As many passwords are looked at as whoever has the VM names addresses that they come from.",
        Code(
            "sallyport-backend",
            (Edit("backend/daemon/throttle.py", "        return min(waits)", "        return 0.0"),),
        ),
        "instructions",
        ("instructions/approval",),
    ),
    Mutant(
        "replay",
        "backend",
        "An instruction may be sent a second time.",
        Code(
            "sallyport-backend",
            (Edit("backend/daemon/validator.py", "        if seq <= self._last_seq:", "        if seq < 0:"),),
        ),
        "instructions",
        ("instructions/sequence",),
    ),
    Mutant(
        "lax-schema",
        "backend",
        "Fields of an instruction that nobody declared are let pass.",
        Code(
            "sallyport-backend",
            (Edit("backend/daemon/validator.py", "            request = decode_request(line)", _LAX),),
        ),
        "instructions",
        ("instructions/malformed",),
    ),
)
