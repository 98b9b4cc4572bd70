"""Declared: the packet rules of the host, of the link to the VM and of the management port, line by line."""

from __future__ import annotations

from collections.abc import Mapping

from backend.protocol import link_plan
from rootfs.spec.profile import Forwarder

_MANAGED = (
    f"ip saddr {link_plan.FRONTEND_ADDRESS} ip daddr {link_plan.BACKEND_ADDRESS} tcp dport {link_plan.BACKEND_PORT}"
)
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
        f'oifname "link0" ip saddr {link_plan.BACKEND_ADDRESS} ip daddr {link_plan.FRONTEND_ADDRESS} tcp sport '
        f"{link_plan.BACKEND_PORT} accept",
        "counter name output_dropped",
    ),
}
LINK_RULES: Mapping[str, tuple[str, ...]] = {
    "netdev link from_vm": (
        'type filter hook ingress device "link0" priority filter; policy drop;',
        f"ether saddr != {link_plan.FRONTEND_MAC} counter name spoofed drop",
        f"ether type arp arp saddr ip {link_plan.FRONTEND_ADDRESS} arp daddr ip {link_plan.BACKEND_ADDRESS} accept",
        f"ether type ip ether daddr {link_plan.BACKEND_MAC} ip hdrlength 5 ip frag-off & 0x3fff == 0 {_MANAGED} accept",
        "counter name other",
    ),
}


GROUP = "01:00:00:00:00:00"
"""The bit that makes a MAC address a group's (IEEE 802, 8.2.2)."""


def port_rules(forwarder: Forwarder) -> Mapping[str, tuple[str, ...]]:
    """Return the chains of the management port with their rules in order, for the forwarder's settings."""
    bridge = forwarder.port == "bridge"
    chains: dict[str, tuple[str, ...]] = {}
    for device in ("mgmt0", *(("access0",) if forwarder.vm == "tap" else ())):
        head = f'type filter hook {{}} device "{device}" priority filter; policy drop;'
        judged = _judged(forwarder, device) if bridge else ("counter name to_host",)
        chains[f"netdev port in_{device}"] = (head.format("ingress"), *judged)
        mark = "meta mark 0x706f7274 accept"
        chains[f"netdev port out_{device}"] = (head.format("egress"), mark, "counter name from_host")
    if not bridge:
        return chains
    return chains | {
        "bridge port forward_port": (
            "type filter hook forward priority filter; policy drop;",
            'iifname "mgmt0" oifname "access0" accept',
            'iifname "access0" oifname "mgmt0" accept',
            "counter name other",
        ),
        "bridge port input_port": ("type filter hook input priority filter; policy drop;", "counter name to_host"),
    }


def _judged(forwarder: Forwarder, device: str) -> tuple[str, ...]:
    """Return the rules for frames from a device, for the datapath where rules are the policy (core/policy.h)."""
    port = device == "mgmt0"
    way, limits = ("rx", forwarder.from_port) if port else ("tx", forwarder.from_vm)

    def drop(match: str, why: str) -> str:
        return f"{match} counter name {way}_{why} drop"

    spoofed = ("ether saddr @vm", f"ether saddr & {GROUP} == {GROUP}") if port else ("ether saddr != @vm",)
    known = ", ".join(f"0x{number:04x}" for number in forwarder.ethertypes)
    rates = []
    if limits.group_rate:
        limit = f"limit rate over {limits.group_rate}/second burst {limits.group_burst} packets"
        rates.append(drop(f"ether daddr & {GROUP} == {GROUP} {limit}", "group_rate"))
    if limits.rate:
        rates.append(drop(f"limit rate over {limits.rate}/second burst {limits.burst} packets", "rate"))
    return (
        drop("vlan id != 0", "tags"),
        drop("ether type 0x88a8", "tags"),
        drop("meta protocol { 0x8100, 0x88a8, 0x9100, 0x9200, 0x9300 }", "tags"),
        drop(f"meta length > {forwarder.max_frame - 14}", "oversized"),
        *(drop(match, "spoofed") for match in spoofed),
        drop("ether daddr 01:80:c2:00:00:00-01:80:c2:00:00:02", "destination"),
        *((drop(f"ether daddr & {GROUP} == 00:00:00:00:00:00 ether daddr != @vm", "destination"),) if port else ()),
        drop(f"meta protocol != {{ {known} }}", "ethertype"),
        drop("meta protocol ip meta length < 20", "runt"),
        drop("meta protocol arp meta length < 28", "runt"),
        *(
            drop(f"{field} {link_plan.LINK_NETWORK}", "link_address")
            for field in ("ip saddr", "ip daddr", "arp saddr ip", "arp daddr ip")
        ),
        *rates,
        f"meta mark set 0x706f7274 counter name {way}_passed accept",
    )
