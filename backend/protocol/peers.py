"""Addresses of clients, in groups of three sizes: one address, one party, one site.

Both ends use it (``frontend_vm.protocol.peers`` is this file): the host to slow down wrong passwords, the VM to share
its connections fairly. Addresses are cheap for the owner of a network, so what is counted is the smallest block of
addresses that belongs to one party, and the site that many such blocks come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


@dataclass(frozen=True)
class Peer:
    """One origin of connections.

    Attributes:
        address: The address in its canonical form (RFC 5952).
        prefix: The party: an IPv4 address; a /64 of IPv6, as a host may use any number of its addresses (RFC 8981); one
            link-local address, because all hosts of the network share fe80::/64.
        site: The site: a /24 of IPv4; a /48 of IPv6, the most that a site is assigned (RFC 6177); all link-local ones.
    """

    address: str
    prefix: str
    site: str

    @classmethod
    def parse(cls, text: str) -> Peer:
        """The peer of a numeric address without a zone.

        Raises:
            ValueError: it is not such an address.
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
"""All peers whose address is not known; together they are one party."""


def _block(address: IPv4Address | IPv6Address, bits: int) -> str:
    return str(ip_network((address, bits), strict=False))
