"""The datapaths that are compared, each in a test bed of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backend.protocol import link_plan
from backend.protocol.link_plan import LINK_NETWORK
from rootfs.base.errors import SallyportError
from rootfs.base.process import environment
from rootfs.base.version import PROJECT
from rootfs.spec import profile
from rootfs.spec.profile import Forwarder
from rootfs.tree import overlay
from tests.bench.forwarder_bed import FAR_MAC, OUT_MAC, PORT, TAP, Bed

NONE, BRIDGE, BRNF, NFT, KERNEL, RING, SCAPY = (
    "none", "bridge", "bridge+brnf", "bridge+nft", "kernel", "ring", "scapy",
)  # fmt: skip
FAST = (NONE, BRIDGE, BRNF, NFT, KERNEL, RING)
"""In the order of the tables; `SCAPY` is three orders of magnitude slower and measured apart."""
_RULES = PROJECT / "overlays/host/etc/sallyport/port.nft.j2"

TEN_RULES = f"""
table bridge port {{
    chain forward_port {{
        type filter hook forward priority filter; policy drop;
        iifname "{TAP}" ether saddr != {FAR_MAC} counter drop
        iifname "{PORT}" ether saddr {FAR_MAC} counter drop
        iifname "{PORT}" ether daddr != {FAR_MAC} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 counter drop
        ip saddr {LINK_NETWORK} counter drop
        ip daddr {LINK_NETWORK} counter drop
        arp saddr ip {LINK_NETWORK} counter drop
        arp daddr ip {LINK_NETWORK} counter drop
        ether type 0x8100 counter drop
        ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 limit rate over 100000/second counter drop
        ether type {{ ip, ip6, arp }} counter accept
    }}
}}
"""
"""What the forwarder's policy does, but for the rate of all frames; a frame that passes meets every rule."""


@dataclass(frozen=True)
class Peer:
    """A datapath that runs.

    ``process`` is its own, if it has one; ``counts`` is filled in when it ends: frames by verdict, if it is ours.
    """

    name: str
    bed: Bed
    process: int | None = None
    counts: dict[str, int] = field(default_factory=dict)


def _bridge(bed: Bed, rules: str = "", *, netfilter: bool = False) -> None:
    if rules:
        bed.appliance.rules(rules)
    bed.appliance.run(
        "ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0", "forward_delay", "0"
    )
    bed.appliance.run("ip", "link", "set", "br0", "arp", "off", "multicast", "off")
    for name in ("ip", "ip6", "arp"):
        # Of br_netfilter, if it is there (ip-sysctl of the kernel, bridge-nf-call-*).
        bed.appliance.run(
            "sysctl", "-qw" if netfilter else "-qwe", f"net.bridge.bridge-nf-call-{name}tables={netfilter:d}"
        )
    for name in (PORT, TAP):
        bed.appliance.run("ip", "link", "set", name, "master", "br0")
    # Known from the start, so that no frame is flooded.
    bed.appliance.run("bridge", "fdb", "replace", FAR_MAC, "dev", TAP, "master", "static")
    bed.appliance.run("bridge", "fdb", "replace", OUT_MAC, "dev", PORT, "master", "static")
    bed.appliance.run("ip", "link", "set", "br0", "up")


def appliance_rules(name: Literal["ring", "kernel"]) -> str:
    """The rules that keep the host's stack off the port, as the image has them: they are part of the cost."""
    device = profile.load("qemu").model_copy(update={"forwarder": Forwarder(port=name, vm="tap")})
    return overlay.render(_RULES, {"profile": device, "link": link_plan})


@contextmanager
def _process(bed: Bed, words: Sequence[str]) -> Iterator[Peer]:
    child = subprocess.Popen(
        bed.appliance.inside(sys.executable, "-m", "tests.bench.forwarder_process", *words),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert child.stdout is not None
    peer = Peer(words[0], bed, child.pid)
    try:
        if child.stdout.readline() != "ready\n":
            _, said = child.communicate(timeout=10)
            lines = said.strip().splitlines() or ["it said nothing"]
            raise SallyportError(f"datapath {words[0]!r} did not start: {lines[-1]}", "build its modules; see --help")
        yield peer
    finally:
        try:
            output, _ = child.communicate(timeout=10)
            peer.counts.update(json.loads(output or "{}"))
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


@contextmanager
def open_peer(name: str, cpu: int, modules: Path | None = None, *, sink: bool = True) -> Iterator[Peer]:
    """A running datapath.

    Args:
        name: one of `FAST`, or `SCAPY`.
        cpu: where its process runs, if it has one.
        modules: where the compiled modules are.
        sink: see `Bed`.

    Raises:
        SallyportError: it cannot be set up here.
    """
    with Bed(direct=name == NONE, sink=sink) as bed:
        words = [name, str(cpu)]
        if name in (KERNEL, RING):
            bed.appliance.rules(appliance_rules("kernel" if name == KERNEL else "ring"))
            words += [str(modules)] if modules else []
        elif name != SCAPY:
            if name != NONE:
                _bridge(bed, TEN_RULES if name == NFT else "", netfilter=name == BRNF)
            yield Peer(name, bed)
            return
        with _process(bed, words) as peer:
            yield peer
