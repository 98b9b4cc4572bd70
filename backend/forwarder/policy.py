"""The policy as the C core and the tc-BPF program take it (``struct policy`` of ``core/policy.h``)."""

from __future__ import annotations

import ipaddress
import struct

from backend.forwarder.config import Config, Direction, Limit

_STRUCT = struct.Struct("=6sBB16HIIII8Q")
_ETHERTYPES = 16


def parse_mac(text: str) -> bytes:
    """Six bytes of ``aa:bb:cc:dd:ee:ff``.

    Raises:
        ValueError: it is not one station's address.
    """
    octets = text.strip().split(":")
    if len(octets) != 6 or any(len(octet) != 2 for octet in octets):
        raise ValueError(f"not a MAC address: {text!r}")
    mac = bytes(int(octet, 16) for octet in octets)
    if mac[0] & 1 or mac == bytes(6):
        raise ValueError(f"not the MAC address of one station: {text!r}")
    return mac


def _limit(limit: Limit) -> tuple[int, int]:
    cost = 0 if limit.rate == 0 else max(1, 1_000_000_000 // limit.rate)
    return cost, cost * limit.burst


def pack(config: Config, vm_mac: bytes, link_network: str) -> bytes:
    """The policy's bytes.

    Args:
        config: the settings.
        vm_mac: the VM's address on the port.
        link_network: IPv4 network of the link to the backend, which must not appear on the port.
    """
    link = ipaddress.IPv4Network(link_network)
    ethertypes = [*config.ethertypes, *[0] * (_ETHERTYPES - len(config.ethertypes))]
    directions: tuple[Direction, ...] = (config.from_port, config.from_vm)
    rates = [number for direction in directions for number in _limit(direction.all)]
    groups = [number for direction in directions for number in _limit(direction.group)]
    return _STRUCT.pack(
        vm_mac,
        config.tags,
        len(config.ethertypes),
        *ethertypes,
        int(link.network_address),
        int(link.netmask),
        config.max_frame,
        0,
        *rates,
        *groups,
    )
