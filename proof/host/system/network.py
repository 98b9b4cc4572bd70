"""Judges of network namespaces: interfaces and addresses, routes and neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backend.protocol import link_plan
from proof.host.system.answers import Space, json_objects, port_space
from proof.host.system.declaration import POLICIES
from proof.host.system.finding import Finding
from proof.remote_script import RemoteScriptError
from rootfs.spec.profile import Forwarder


def _addresses(interface: Mapping[str, Any]) -> list[str]:
    infos = interface.get("addr_info") or []
    return [f"{info.get('local')}/{info.get('prefixlen')}" for info in infos if isinstance(info, dict)]


def _flags(interface: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(flag) for flag in interface.get("flags") or [])


def _host_interface(interface: Mapping[str, Any]) -> Iterator[str]:
    name, addresses = interface.get("ifname"), _addresses(interface)
    if name == "lo":
        expected = [["127.0.0.1/8"]]
    elif name == "link0":
        expected = [[f"{link_plan.BACKEND_ADDRESS}/{link_plan.LINK_PREFIX}"]]
        if interface.get("address") != link_plan.BACKEND_MAC:
            yield f"link0 has the MAC {interface.get('address')}"
    else:
        # The host uses no other NIC: one that is not the management port stays down.
        expected = [[]]
        if "UP" in _flags(interface):
            yield f"{name} is up"
    if addresses not in expected:
        yield f"{name} has {', '.join(addresses) or 'no address'}"


def _port_interface(interface: Mapping[str, Any], known: frozenset[str], mtu: int) -> Iterator[str]:
    name = str(interface.get("ifname"))
    if name in ("mgmt0", "access0") and interface.get("mtu") != mtu:
        yield f"{name} has the MTU {interface.get('mtu')}, not {mtu} as the profile's max_frame wants"
    if name not in known:
        yield f"{name} is not declared"
    if addresses := _addresses(interface):
        yield f"{name} has {', '.join(addresses)}"
    if name == "lo" and "UP" in _flags(interface):
        yield "lo is up"
    if name != "lo" and "NOARP" not in _flags(interface):
        yield f"{name} answers ARP"
    if name != "lo" and "MULTICAST" in _flags(interface):
        yield f"{name} does multicast"


def judge_interfaces(spaces: Mapping[str, Space], forwarder: Forwarder) -> Finding:
    """Judge the interfaces and addresses of every network namespace."""
    finding = Finding(("link0 of the host", "mgmt0 in a namespace of its own", "a namespace with nothing in it"))
    known = frozenset({"lo", "mgmt0"} | ({"access0"} if forwarder.vm == "tap" else set()))
    known |= {"br0"} if forwarder.port == "bridge" else set()
    port, count = port_space(spaces), 0
    for name, space in spaces.items():
        try:
            found = json_objects(f"{name}: ip address", space.links)
        except RemoteScriptError as error:
            finding.blind.append(f"{error} {space.error}")
            continue
        for interface in found:
            count += 1
            if interface.get("xdp"):
                finding.holes.append(f"{name}: {interface.get('ifname')} has an XDP program")
            if name == "host":
                finding.holes += [f"host: {what}" for what in _host_interface(interface)]
                finding.seen |= {"link0 of the host"} if interface.get("ifname") == "link0" else set()
            elif name == port:
                finding.holes += [f"port: {what}" for what in _port_interface(interface, known, forwarder.port_mtu)]
                finding.seen |= {"mgmt0 in a namespace of its own"} if interface.get("ifname") == "mgmt0" else set()
            elif interface.get("ifname") == "lo":
                finding.seen.add("a namespace with nothing in it")
            else:
                finding.holes.append(f"{name} is not declared and has {interface.get('ifname')}")
    finding.counted = f"{len(spaces)} network namespaces, {count} interfaces"
    return finding


def _host_route(route: Mapping[str, Any]) -> str:
    kind, where = str(route.get("type", "unicast")), str(route.get("dst"))
    text = f"{kind} {where} by {route.get('gateway', 'nobody')} at {route.get('dev')}"
    if "gateway" in route or "via" in route or "nexthops" in route or route.get("dev") not in ("lo", "link0"):
        return text
    local = {"127.0.0.0/8", "127.0.0.1", link_plan.BACKEND_ADDRESS}
    if (kind == "local" and where not in local) or (kind == "unicast" and where != link_plan.LINK_NETWORK):
        return text
    return "" if kind in ("local", "unicast", "broadcast") else text


def _no_policies(answer: tuple[int, str]) -> bool:
    """Whether the kernel was built without routing policy (CONFIG_IP_MULTIPLE_TABLES); ip(8) then fails."""
    return answer[0] != 0 and "Operation not supported" in answer[1]


def judge_routes(spaces: Mapping[str, Space]) -> Finding:
    """Judge routes, routing policy, neighbour proxies and permanent neighbours."""
    finding = Finding(("the route to the VM", "the kernel's own policy, or none"))
    count, port = 0, port_space(spaces)
    for name, space in spaces.items():
        try:
            routes = json_objects(f"{name}: ip route", space.routes)
            policies = [] if _no_policies(space.policies) else json_objects(f"{name}: ip rule", space.policies)
            proxies = json_objects(f"{name}: ip neigh", space.proxies) + json_objects(
                f"{name}: ip neigh", space.neighbours
            )
        except RemoteScriptError as error:
            finding.blind.append(f"{error} {space.error}")
            continue
        count += len(routes)
        for route in routes:
            wrong = _host_route(route)
            if name == port or (name != "host" and route.get("dev") != "lo"):
                wrong = wrong or f"{route.get('dst')} at {route.get('dev')}"
            if wrong:
                finding.holes.append(f"{name}: route {wrong}")
            if name == "host" and route.get("dst") == link_plan.LINK_NETWORK:
                finding.seen.add("the route to the VM")
        found = {(rule.get("priority"), rule.get("table")) for rule in policies}
        if found - POLICIES or len(policies) > len(POLICIES):
            finding.holes.append(f"{name}: routing policy {sorted(map(str, found - POLICIES))}")
        elif found or _no_policies(space.policies):
            finding.seen.add("the kernel's own policy, or none")
        finding.holes += [f"{name}: neighbour {proxy.get('dst')} at {proxy.get('dev')}" for proxy in proxies]
    finding.counted = f"{count} routes"
    return finding
