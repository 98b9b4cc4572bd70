"""What is probed: the addresses and open ports that the device profile and the image declare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of ``aa:bb:cc:dd:ee:ff``; `ValueError` for anything else."""
    if not MAC.match(mac):
        raise ValueError(f"not a MAC address in lower case with colons: {mac!r}")
    return bytes.fromhex(mac.replace(":", ""))


def eui64(mac: str) -> str:
    """Return the IPv6 link-local address that a stack forms from a MAC (RFC 4291 appendix A)."""
    raw = mac_bytes(mac)
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]))


def _check(macs: Mapping[str, str], addresses: tuple[str, ...]) -> None:
    for mac in macs.values():
        mac_bytes(mac)
    for address in addresses:
        IPv4Address(address)


@dataclass(frozen=True)
class Target:
    """The appliance seen from its management port.

    ``host_macs`` names the host's own NICs (``mgmt0`` burned in, ``link0``, ...), ``host_ipv4`` the addresses
    that the host's stacks hold, ``vm_link_ipv4`` the VM's address on the other side, which must not answer here.
    `ValueError` when a field is no address, or when the tester's or the VM's MAC is also one of the host's.
    """

    vm_mac: str
    vm_ipv4: str
    host_macs: Mapping[str, str]
    tester_mac: str = "02:74:65:73:74:01"
    tester_ipv4: str = "192.168.42.2"
    prefix: str = "192.168.42.0/24"
    tcp_open: frozenset[int] = frozenset({22, 443})
    control_port: int = 443
    host_ipv4: tuple[str, ...] = ("169.254.254.1",)
    vm_link_ipv4: str = "169.254.254.2"

    def __post_init__(self) -> None:
        _check(
            {**self.host_macs, "vm": self.vm_mac, "tester": self.tester_mac},
            (self.vm_ipv4, self.tester_ipv4, self.vm_link_ipv4, *self.host_ipv4),
        )
        if {self.vm_mac, self.tester_mac} & set(self.host_macs.values()) or self.vm_mac == self.tester_mac:
            raise ValueError("the VM, the tester and the host must have different MAC addresses")
        if IPv4Address(self.vm_ipv4) not in IPv4Network(self.prefix) or self.control_port not in self.tcp_open:
            raise ValueError("the VM's address must lie in the prefix, and the control port must be expected open")

    @property
    def vm_ipv6(self) -> str:
        """The VM's link-local address."""
        return eui64(self.vm_mac)

    @property
    def tester_ipv6(self) -> str:
        """The tester's link-local address."""
        return eui64(self.tester_mac)


@dataclass(frozen=True)
class LinkTarget:
    """The host seen from a root shell inside the VM, over the link.

    ``host_macs`` and ``other_ipv4`` are what must not answer there. ``silent_ok``: a port that stays silent while
    every control around it is answered is filtered by the host's firewall, which is as good as closed.
    """

    host_ipv4: str = "169.254.254.1"
    vm_ipv4: str = "169.254.254.2"
    tcp_open: frozenset[int] = frozenset({7000})
    control_port: int = 7000
    host_macs: Mapping[str, str] = field(default_factory=dict)
    other_ipv4: tuple[str, ...] = ("127.0.0.1", "10.0.2.15", "192.168.42.1", "192.168.42.2", "169.254.254.3")
    silent_ok: bool = True

    def __post_init__(self) -> None:
        _check(self.host_macs, (self.host_ipv4, self.vm_ipv4, *self.other_ipv4))
        if self.control_port not in self.tcp_open:
            raise ValueError("the control port must be expected open")
