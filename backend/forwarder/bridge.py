"""Datapath ``bridge``: the kernel's bridge moves the frames between port and tap, nftables judges them; for comparison.

The rules of ``port.nft`` are the policy of the other datapaths, verdict by verdict; a profile that asks for what they
cannot express is refused. ``port-setup`` makes the bridge with all its rules; this module brings the port up and down
and reads the counters with ip(8) and nft(8), for which the process keeps CAP_NET_ADMIN of its own network namespace.
The other datapaths keep no capability.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.protocol.port import Counter, Port

PORT = "mgmt0"


class _Stats(Struct):
    packets: Annotated[int, Meta(ge=0)]
    bytes: Annotated[int, Meta(ge=0)]


class _Stats64(Struct):
    rx: _Stats
    tx: _Stats


class _Link(Struct):
    """What is used of one element of ``ip -json -statistics link``."""

    address: str
    flags: list[str]
    stats64: _Stats64


class _Verdict(Struct):
    name: str
    packets: Annotated[int, Meta(ge=0)]
    bytes: Annotated[int, Meta(ge=0)]


class _Item(Struct):
    counter: _Verdict | None = None


class _Rules(Struct):
    """``nft -json list counters``: a list of objects with one key each."""

    nftables: list[_Item]


async def _command(*argv: str) -> bytes:
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await child.communicate()
    if child.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {errors.decode(errors='replace').strip()}")
    return output


async def read_port() -> Port:
    """The counters now: of the port from the kernel's link statistics, of the verdicts from nftables.

    Raises:
        OSError: a command failed.
        msgspec.DecodeError: a command printed something else than it should.
    """
    links, rules = await asyncio.gather(
        _command("ip", "-json", "-statistics", "link", "show", "dev", PORT),
        _command("nft", "-json", "list", "counters"),
    )
    link = msgspec.json.decode(links, type=Annotated[list[_Link], Meta(min_length=1)])[0]
    counters = [item.counter for item in msgspec.json.decode(rules, type=_Rules).nftables if item.counter is not None]
    verdicts = [Counter(name=c.name, frames=c.packets, bytes=c.bytes) for c in counters]
    return Port(
        name=PORT,
        mac=link.address,
        carrier="LOWER_UP" in link.flags,
        rx_frames=link.stats64.rx.packets,
        rx_bytes=link.stats64.rx.bytes,
        tx_frames=link.stats64.tx.packets,
        tx_bytes=link.stats64.tx.bytes,
        way="bridge",
        vm="tap",
        vm_up=True,
        verdicts=verdicts,
        faults=[],
    )


async def open_port() -> None:
    """Bring the port up; all rules stand by now.

    Raises:
        OSError: ip(8) failed.
    """
    await _command("ip", "link", "set", PORT, "up")


async def close_port() -> None:
    """Take the port down: the bridge would go on without us.

    Raises:
        OSError: ip(8) failed.
    """
    await _command("ip", "link", "set", PORT, "down")
