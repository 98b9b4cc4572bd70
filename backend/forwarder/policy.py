"""The policy as the C core and the tc-BPF program take it (``struct policy`` of ``core/policy.h``)."""

from __future__ import annotations

import ipaddress
import struct

from backend.forwarder.config import MAX_ETHERTYPES, Config, Direction, Limit

_STRUCT = struct.Struct(f"=6sBB{MAX_ETHERTYPES}HIIII8Q")


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


def bucket(limit: Limit | None) -> tuple[int, int]:
    """A limit as C takes it (``struct limit`` of ``core/policy.h``): nanoseconds of one frame, and of the burst.

    Both are 0 where there is no limit.
    """
    if limit is None or limit.rate == 0:
        return 0, 0
    cost = max(1, 1_000_000_000 // limit.rate)
    return cost, cost * limit.burst


def pack(config: Config, vm_mac: bytes, link_network: str) -> bytes:
    """The policy's bytes.

    Args:
        config: the settings.
        vm_mac: the VM's address on the port.
        link_network: IPv4 network of the link to the backend, which must not appear on the port.
    """
    link = ipaddress.IPv4Network(link_network)
    ethertypes = [*config.ethertypes, *[0] * (MAX_ETHERTYPES - len(config.ethertypes))]
    directions: tuple[Direction, ...] = (config.from_port, config.from_vm)
    rates = [number for direction in directions for number in bucket(direction.all)]
    groups = [number for direction in directions for number in bucket(direction.group)]
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
