"""Where somebody comes from, in three sizes: one address, one party, one site.

Both ends use it (``frontend_vm.protocol.peers`` is this file): the host to slow down wrong passwords, the VM to share
out its connections. An address is cheap for whoever owns a network full of them, so what is counted is the smallest
block that one party surely has to itself, and, where many blocks come from one place, the place.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


@dataclass(frozen=True)
class Peer:
    """One origin of connections.

    Attributes:
        address: Itself, in its one canonical form (RFC 5952).
        prefix: The party: an IPv4 address; a /64 of IPv6, as each host in one may take as many of its addresses as it
            likes (RFC 8981); one link-local address, because all hosts of the wire share fe80::/64.
        site: The place: a /24 of IPv4; a /48 of IPv6, what a site is given at most (RFC 6177); all link-local ones.
    """

    address: str
    prefix: str
    site: str

    @classmethod
    def parse(cls, text: str) -> Peer:
        """The peer of a numeric address without a zone.

        Raises:
            ValueError: it is not one.
        """
        address = ip_address(text)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if isinstance(address, IPv4Address):
            return cls(str(address), str(address), _block(address, 24))
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone")
        if address.is_link_local:
            return cls(str(address), str(address), _block(address, 64))
        return cls(str(address), _block(address, 64), _block(address, 48))


UNKNOWN = Peer("::", "::/64", "::/48")
"""Whoever cannot be named: all of them together are one party."""


def _block(address: IPv4Address | IPv6Address, bits: int) -> str:
    return str(ip_network((address, bits), strict=False))
