"""Reads the VM's forwarding statistics, or sends frames from one NIC. See `proof.remote_script`."""

import glob
import socket
import sys
from typing import Any


def _table(path: str) -> dict[str, dict[str, int]]:
    """Return /proc/net/snmp: pairs of lines, the first with names, the second with numbers."""
    with open(path) as file:
        lines = file.read().splitlines()
    found = {}
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        values = map(int, numbers.split()[1:])
        found[names.split(":")[0]] = dict(zip(names.split()[1:], values, strict=False))
    return found


def statistics() -> dict[str, Any]:
    """Return what was refused and forwarded (RFC 4293), and the forwarding switches of the kernel that are on."""
    ipv4 = _table("/proc/net/snmp")["Ip"]
    with open("/proc/net/snmp6") as file:
        ipv6 = {name: int(value) for name, value in (line.split() for line in file)}
    switched_on = []
    for path in glob.glob("/proc/sys/net/ipv*/conf/*/*forwarding"):
        with open(path) as file:
            if file.read().strip() != "0":
                switched_on.append(path)
    return {
        "refused4": ipv4["InAddrErrors"],
        "forwarded4": ipv4["ForwDatagrams"],
        "refused6": ipv6["Ip6InAddrErrors"] + ipv6["Ip6InNoRoutes"],
        "forwarded6": ipv6["Ip6OutForwDatagrams"],
        "on": switched_on,
    }


def send() -> int:
    """Send frames, arguments 2 and following in hex, from the NIC that argument 1 names; return how many."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as nic:
        nic.bind((sys.argv[1], 0))
        for frame in sys.argv[2:]:
            nic.send(bytes.fromhex(frame))
    return len(sys.argv) - 2
