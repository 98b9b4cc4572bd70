"""Policies for tests, packed by hand: not by the code under test, so that a field out of place is seen."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

VM_MAC = bytes.fromhex("020000000a01")
PEER_MAC = bytes.fromhex("020000000b02")
BROADCAST = b"\xff" * 6
LINK = "169.254.254.0/30"
FROM_PORT, FROM_VM = 0, 1

# struct policy of backend/forwarder/core/policy.h
_STRUCT = struct.Struct("@6sBB16HIIIIQQQQQQQQ")


@dataclass(frozen=True)
class Limit:
    """Frames per second and frames at once; no limit if the rate is 0."""

    rate: int = 0
    burst: int = 0

    def words(self) -> tuple[int, int]:
        """``struct limit``: one frame's share of a second, and the burst, in nanoseconds."""
        cost = 10**9 // self.rate if self.rate else 0
        return cost, cost * self.burst


NONE = Limit()


@dataclass(frozen=True)
class Policy:
    """What the tests vary."""

    vm_mac: bytes = VM_MAC
    tags: int = 2
    ethertypes: tuple[int, ...] = (0x0800, 0x0806, 0x86DD)
    link: str = LINK
    max_frame: int = 1514
    rate: tuple[Limit, Limit] = (NONE, NONE)
    group_rate: tuple[Limit, Limit] = (NONE, NONE)

    def pack(self) -> bytes:
        """``struct policy`` in host order."""
        network = ipaddress.IPv4Network(self.link)
        return _STRUCT.pack(
            self.vm_mac,
            self.tags,
            len(self.ethertypes),
            *(*self.ethertypes, *[0] * (16 - len(self.ethertypes))),
            int(network.network_address),
            int(network.netmask),
            self.max_frame,
            0,
            *(word for limit in (*self.rate, *self.group_rate) for word in limit.words()),
        )
