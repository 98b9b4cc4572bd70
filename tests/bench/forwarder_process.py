"""One datapath as a process in a test bed: `python -m tests.bench.forwarder_process DATAPATH CPU [MODULES]`.

Says ``ready`` when frames move, ends when its standard input does, and then prints its counters as JSON. MODULES is a
directory with the compiled modules; without it they are where the package is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import backend.forwarder
from backend.forwarder import counters, policy
from backend.forwarder.config import Config, Direction, Limit
from backend.protocol.link_plan import LINK_NETWORK
from tests.bench.forwarder_bed import FAR_MAC, PORT, TAP

BPF = "kernel.bpf.o"
_NO_MATTER = Direction(all=Limit(rate=100_000_000, burst=1_000_000), group=Limit(rate=100_000_000, burst=1_000_000))
"""Limits that are computed for every frame and never reached."""
CONFIG = Config(
    port="ring",
    vm="tap",
    ethertypes=[0x0800, 0x0806, 0x86DD],
    tags=0,
    max_frame=1514,
    vm_memory_mib=192,
    from_port=_NO_MATTER,
    from_vm=_NO_MATTER,
)


def _scapy() -> None:
    from scapy.sendrecv import bridge_and_sniff

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print("ready", flush=True)
    bridge_and_sniff(PORT, TAP, store=False)


def _ours(name: str, modules: Path | None) -> None:
    if modules is not None:
        backend.forwarder.__path__.insert(0, str(modules))
    from backend.forwarder import datapaths

    if modules is not None:
        datapaths.BPF_OBJECT = modules / BPF
    mac = policy.parse_mac(FAR_MAC)
    packed = policy.pack(CONFIG, mac, LINK_NETWORK)
    datapath: datapaths.Datapath = (
        datapaths.KernelDatapath(packed) if name == "kernel" else datapaths.RingDatapath(CONFIG, packed, mac, None)
    )

    def wait_for_end() -> None:
        sys.stdin.read()
        datapath.stop()

    threading.Thread(target=wait_for_end, daemon=True).start()
    print("ready", flush=True)
    datapath.run()
    print(json.dumps({c.name: c.frames for c in counters.named(datapath.counters()) if c.frames}))


def main(words: list[str]) -> None:
    """Entry point."""
    # Threads that are started later inherit it.
    os.sched_setaffinity(0, {int(words[1])})
    if words[0] == "scapy":
        _scapy()
    else:
        _ours(words[0], Path(words[2]) if len(words) > 2 else None)


if __name__ == "__main__":
    main(sys.argv[1:])
