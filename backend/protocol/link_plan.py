"""The link's plan: addresses, MAC addresses, names and port of the private network between host and front-end VM."""

from __future__ import annotations

BACKEND_ADDRESS = "169.254.254.1"
FRONTEND_ADDRESS = "169.254.254.2"
LINK_PREFIX = 30
"""The link is a /30 of IPv4 link-local space (RFC 3927): never routed, never on the management port."""
LINK_NETWORK = "169.254.254.0/30"
BACKEND_PORT = 7000
"""TCP port that the backend listens on."""
BACKEND_MAC = "02:5a:1f:00:00:01"
FRONTEND_MAC = "02:5a:1f:00:00:02"
BRIDGE_MAC = "02:5a:1f:00:00:03"
"""Locally administered addresses (IEEE 802, bit 1 of the first byte); none of the three appears on a physical wire."""
ACCESS_MAC_PREFIX = "02:5a:11"
"""First three bytes of the VM's MAC address on the management port; the other three are those of the port itself."""
BACKEND_NAME = "backend.sallyport"
FRONTEND_NAME = "frontend.sallyport"
"""Names in the link's certificates, which the host makes at every boot."""
