"""The management port's process: lives in the port's network namespace, holds the VM's tap, reads counters.

Theory of operation. The namespace, its rules and the port are set up before (``port-setup``); this process adds the tap
``access0`` to the bridge and only then brings the port up, so a frame can pass when all is in place and not before. It
keeps CAP_NET_ADMIN for its own namespace and nothing else. It serves two sockets:

* ``taps.sock`` gives the supervisor the tap's file descriptor (SCM_RIGHTS, unix(7)); the supervisor needs no privilege.
* ``status.sock`` answers every connection with one `Ports` document.

When it ends, the port is taken down: closed, never open. The VM holds the tap, too, and ends with this process
(BindsTo= of its unit), so that both begin anew together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend import tap
from backend.instructions import Counter, Port, Ports
from backend.notify import notify

RUN = Path("/run/sallyport/port")
PORT, TAP, BRIDGE = "mgmt0", "access0", "br0"
log = logging.getLogger("port")


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


async def read_ports() -> Ports:
    """The counters now: of the port from the kernel's link statistics, of the verdicts from nftables.

    Raises:
        OSError: a command failed.
        msgspec.DecodeError: a command printed something else than it should.
    """
    links, rules = await asyncio.gather(
        _command("ip", "-json", "-statistics", "link", "show", "dev", PORT),
        _command("nft", "-json", "list", "counters", "table", "bridge", "port"),
    )
    link = msgspec.json.decode(links, type=Annotated[list[_Link], Meta(min_length=1)])[0]
    counters = [item.counter for item in msgspec.json.decode(rules, type=_Rules).nftables if item.counter is not None]
    verdicts = [Counter(name=c.name, frames=c.packets, bytes=c.bytes) for c in counters]
    port = Port(
        name=PORT,
        mac=link.address,
        carrier="LOWER_UP" in link.flags,
        rx_frames=link.stats64.rx.packets,
        rx_bytes=link.stats64.rx.bytes,
        tx_frames=link.stats64.tx.packets,
        tx_bytes=link.stats64.tx.bytes,
        verdicts=verdicts,
    )
    return Ports(ports=[port])


async def _answer_status(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        writer.write(msgspec.json.encode(await read_ports()))
        await writer.drain()
    except (OSError, msgspec.DecodeError) as error:
        log.error("counters: %s", error)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _listen(name: str, group: str) -> socket.socket:
    """A unix socket that only members of ``group`` may connect to."""
    path = RUN / name
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(path))
    shutil.chown(path, group=group)
    path.chmod(0o660)
    listener.listen(4)
    return listener


async def _hand_out(listener: socket.socket, descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        peer, _ = await loop.sock_accept(listener)
        with peer, contextlib.suppress(OSError):
            socket.send_fds(peer, [TAP.encode()], [descriptor])


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    descriptor = tap.open_tap(TAP)
    try:
        await _command("ip", "link", "set", TAP, "arp", "off", "multicast", "off")
        await _command("ip", "link", "set", TAP, "master", BRIDGE)
        await _command("ip", "link", "set", TAP, "type", "bridge_slave", "learning", "off")
        await _command("ip", "link", "set", TAP, "up")
        server = await asyncio.start_unix_server(_answer_status, sock=_listen("status.sock", "sallyport"))
        taps = asyncio.create_task(_hand_out(_listen("taps.sock", "sallyport-vm"), descriptor))
        await _command("ip", "link", "set", PORT, "up")
        notify("READY=1\nSTATUS=the port is up")
        waiter = asyncio.create_task(stop.wait())
        await asyncio.wait([taps, waiter], return_when=asyncio.FIRST_COMPLETED)
        server.close()
        if taps.done():
            taps.result()
    finally:
        await _command("ip", "link", "set", PORT, "down")
        os.close(descriptor)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    asyncio.run(main())
