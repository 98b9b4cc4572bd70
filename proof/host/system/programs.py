"""The judge of BPF programs, and of the places where one can be attached."""

from __future__ import annotations

from proof.host.system.answers import Programs
from proof.host.system.declaration import CGROUP_DEVICE, CGROUP_SKB, DISCIPLINES, LSM, SCHED_CLS
from proof.host.system.finding import Finding
from rootfs.spec.profile import Forwarder

_ENOENT = 2


def judge_programs(answer: Programs, forwarder: Forwarder) -> Finding:
    """Judge BPF programs, and the places where one can be attached."""
    finding = Finding(("systemd's programs for devices", "a queueing discipline of link0", "programs at mgmt0 counted"))
    kernel_way = forwarder.port == "kernel"
    allowed = {(CGROUP_SKB, 0), (CGROUP_DEVICE, 0), (LSM, 0)} | ({(SCHED_CLS, 902)} if kernel_way else set())
    for kind, user, called in answer.loaded:
        if (kind, user) not in allowed:
            finding.holes.append(f"a BPF program of type {kind}, {called[:16]!r}, of user {user}")
        finding.seen |= {"systemd's programs for devices"} if kind == CGROUP_DEVICE else set()
    if answer.end != _ENOENT:
        finding.blind.append(f"the list of BPF programs ended with error {answer.end}")
    for name, space in answer.spaces.items():
        if space.error:
            finding.blind.append(f"{name}: {space.error}")
        for interface, discipline in space.disciplines:
            if discipline not in DISCIPLINES:
                finding.holes.append(f"{name}: {interface} has the queueing discipline {discipline[:32]!r}")
            finding.seen |= {"a queueing discipline of link0"} if interface == "link0" else set()
        for place, count in space.attached.items():
            expected = 1 if kernel_way and place in ("mgmt0 ingress", "access0 ingress") else 0
            if count < 0:
                finding.blind.append(f"{name}: programs at {place} cannot be counted")
            elif count > expected:
                finding.holes.append(f"{name}: {count} programs at {place}, not {expected}")
            elif place == "mgmt0 ingress" and count == expected:
                finding.seen.add("programs at mgmt0 counted")
    finding.counted = (
        f"{len(answer.loaded)} BPF programs, {sum(len(s.disciplines) for s in answer.spaces.values())} disciplines"
    )
    return finding
