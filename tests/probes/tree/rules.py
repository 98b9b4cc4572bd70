"""Declared: the packet rules of the host, of the link to the VM and of the management port, line by line."""

from __future__ import annotations

from collections.abc import Mapping

from backend import instructions as link

_MANAGED = f"ip saddr {link.FRONTEND_ADDRESS} ip daddr {link.BACKEND_ADDRESS} tcp dport {link.BACKEND_PORT}"
HOST_RULES: Mapping[str, tuple[str, ...]] = {
    "inet host input_host": (
        "type filter hook input priority filter; policy drop;",
        'iif "lo" accept',
        f'iifname "link0" {_MANAGED} jump backend',
        "counter name input_dropped",
    ),
    "inet host backend": (
        "tcp flags & (syn | ack) == syn limit rate over 1000/second burst 2000 packets counter name link_limited drop",
        "counter name link_in accept",
    ),
    "inet host forward_host": ("type filter hook forward priority filter; policy drop;",),
    "inet host output_host": (
        "type filter hook output priority filter; policy drop;",
        'oif "lo" accept',
        f'oifname "link0" ip saddr {link.BACKEND_ADDRESS} ip daddr {link.FRONTEND_ADDRESS} tcp sport '
        f"{link.BACKEND_PORT} accept",
        "counter name output_dropped",
    ),
}
LINK_RULES: Mapping[str, tuple[str, ...]] = {
    "netdev link from_vm": (
        'type filter hook ingress device "link0" priority filter; policy drop;',
        f"ether saddr != {link.FRONTEND_MAC} counter name spoofed drop",
        f"ether type arp arp saddr ip {link.FRONTEND_ADDRESS} arp daddr ip {link.BACKEND_ADDRESS} accept",
        f"ether type ip ether daddr {link.BACKEND_MAC} ip hdrlength 5 ip frag-off & 0x3fff == 0 {_MANAGED} accept",
        "counter name other",
    ),
}


def port_rules(port: str, vm: str) -> Mapping[str, tuple[str, ...]]:
    """Chains of the management port, in order of their rules, for a way of forwarding."""
    if port != "bridge":
        devices = ["mgmt0", *(["access0"] if vm == "tap" else [])]
        chains: dict[str, tuple[str, ...]] = {}
        for device in devices:
            head = f'type filter hook {{}} device "{device}" priority filter; policy drop;'
            chains[f"netdev port in_{device}"] = (head.format("ingress"), "counter name to_host")
            mark = "meta mark 0x706f7274 accept"
            chains[f"netdev port out_{device}"] = (head.format("egress"), mark, "counter name from_host")
        return chains

    def way(direction: str) -> tuple[str, ...]:
        inside = link.LINK_NETWORK
        which = ("ip saddr", "ip daddr", "arp saddr ip", "arp daddr ip")
        return (
            *(f"{field} {inside} counter name {direction}_link_address drop" for field in which),
            f"ether type {{ ip, ip6, arp }} counter name {direction}_passed accept",
            f"counter name {direction}_ethertype drop",
        )

    return {
        "bridge port forward_port": (
            "type filter hook forward priority filter; policy drop;",
            'iifname "mgmt0" oifname "access0" jump from_port',
            'iifname "access0" oifname "mgmt0" jump from_vm',
            "counter name other drop",
        ),
        "bridge port from_port": way("rx"),
        "bridge port from_vm": ("ether saddr != @vm counter name tx_spoofed drop", *way("tx")),
        "bridge port input_port": ("type filter hook input priority filter; policy drop;", "counter name to_host"),
        "bridge port output_port": ("type filter hook output priority filter; policy drop;", "counter name from_host"),
    }
