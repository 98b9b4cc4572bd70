"""The forwarder's process: opens what it needs, gives up its privileges, moves frames, tells what it counts.

Theory of operation. Four stages, in this order, because each takes away what the one before needed:

1. As its own user with a few capabilities (the unit names them): lock, sockets, the datapath's rings or programs.
2. No capability in any set.
3. A system-call filter over all threads. From here on the process can do nothing but move frames, answer on its unix
   sockets, and open the VM's tap, which belongs to its user.
4. The data path's thread, in C, without the GIL, looks at its first frame and takes the VM's first connection.

The port's interface is up before and stays up after. It is closed by rules (``port.nft`` drops all that the host's own
stack receives or sends there), and because nothing else moves frames. So a restart lets nothing through, and the VM
notices only that frames were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backend.common import tap
from backend.common.notify import notify, watchdog_interval
from backend.forwarder import bridge, config, datapaths
from backend.forwarder.capture import Capture, NoCapture
from backend.forwarder.control import LINE, RUN, Control
from backend.forwarder.counters import named
from backend.forwarder.errors import AlreadyRunningError, ConfigError
from backend.forwarder.interface import Interface
from backend.protocol.port import Fault, Port, Ports

VHOST = "vhost-user.sock"
log = logging.getLogger("forwarder")


@dataclass(frozen=True)
class Places:
    """Where things are, and who may ask; production runs with the defaults."""

    run: Path = RUN
    settings: Path = config.PATH
    backend_group: str = "sallyport"
    vm_group: str = "sallyport-vm"


def lock(run: Path) -> int:
    """Hold the port: one forwarder at a time. Returns the lock's descriptor, which the process keeps.

    Raises:
        AlreadyRunningError: another process has it.
    """
    descriptor = os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunningError(f"{run / 'lock'} is held: another forwarder has the port") from None
    return descriptor


def listen(path: Path, group: str = "") -> socket.socket:
    """A unix socket that only this user, and members of ``group``, may connect to."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(path))
    if group:
        shutil.chown(path, group=group)
    path.chmod(0o660 if group else 0o600)
    listener.listen(4)
    return listener


class PortState:
    """Tells the port's state: facts of the interface, counters of the datapath."""

    def __init__(self, settings: config.Config, datapath: datapaths.Datapath) -> None:
        self._settings = settings
        self._datapath = datapath
        self._interface = Interface(datapaths.PORT)

    async def read(self) -> Port:
        """The port now.

        Raises:
            OSError: the interface is gone.
        """
        facts = self._interface.facts()
        return Port(
            name=self._interface.name,
            mac=facts.mac,
            carrier=facts.carrier,
            rx_frames=facts.rx[0],
            rx_bytes=facts.rx[1],
            tx_frames=facts.tx[0],
            tx_bytes=facts.tx[1],
            way=self._settings.port,
            vm=self._settings.vm,
            vm_up=self._datapath.vm_up(),
            verdicts=named(self._datapath.counters()),
            faults=[Fault(name=name, times=times) for name, times in self._datapath.faults().items() if times],
        )


async def _answer(writer: asyncio.StreamWriter, document: bytes) -> None:
    with contextlib.suppress(OSError):
        writer.write(document)
        await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _hand_out(listener: socket.socket) -> None:
    """Give whoever may connect the VM's tap, opened anew: only one process can hold it."""
    loop = asyncio.get_running_loop()
    while True:
        peer, _ = await loop.sock_accept(listener)
        with peer:
            try:
                descriptor = tap.open_tap(datapaths.TAP)
            except OSError as error:
                log.error("QEMU asked for the VM's tap and did not get it: %s", error)
                continue
            with contextlib.suppress(OSError):
                socket.send_fds(peer, [datapaths.TAP.encode()], [descriptor])
            os.close(descriptor)


async def _feed_watchdog(datapath: datapaths.Datapath | None) -> None:
    interval, last = watchdog_interval(), -1
    while interval is not None:
        # A data path that hangs must not be hidden by this thread's good health.
        beat = last + 1 if datapath is None else datapath.beat()
        if beat != last:
            notify("WATCHDOG=1")
        last = beat
        await asyncio.sleep(interval)


async def serve(places: Places | None = None) -> None:
    """Be the forwarder until SIGTERM.

    Raises:
        ForwarderError: it cannot start, or the data path broke.
    """
    places = places or Places()
    settings = config.read(places.settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    held = lock(places.run)
    try:
        if settings.port == "bridge":
            await _serve_bridge(places, stop)
        else:
            await _serve_datapath(settings, places, stop)
    finally:
        os.close(held)


async def _listen(
    stack: contextlib.AsyncExitStack, places: Places, status: Callable[[], Awaitable[Port]], capture: Capture
) -> None:
    """Answer at the status socket and at the control socket until ``stack`` ends."""

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        document = b""
        try:
            document = msgspec.json.encode(Ports(ports=[await status()]))
        except (OSError, msgspec.DecodeError) as error:
            log.error("the port's counters cannot be read, so who asked gets no answer: %s", error)
        await _answer(writer, document)

    for listener, answer in (
        (listen(places.run / "status.sock", places.backend_group), tell),
        (listen(places.run / "control.sock"), Control(capture, status, places.run).answer),
    ):
        await stack.enter_async_context(await asyncio.start_unix_server(answer, sock=listener, limit=LINE))


async def _serve_bridge(places: Places, stop: asyncio.Event) -> None:
    """The kernel's bridge moves the frames; this process reads its counters, and so keeps CAP_NET_ADMIN."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(bridge.close_port)
        await _listen(stack, places, bridge.read_port, NoCapture("bridge"))
        await bridge.open_port()
        await _wait(stack, [_hand_out(listen(places.run / "taps.sock", places.vm_group)), _feed_watchdog(None)], stop)


async def _serve_datapath(settings: config.Config, places: Places, stop: asyncio.Event) -> None:
    # Not above: datapath `bridge` does without the C part.
    from backend.forwarder.data_path import DataPath

    try:
        vm_mac = (places.run / "vm-mac").read_text()
    except OSError as error:
        raise ConfigError(
            f"{places.run / 'vm-mac'}: {error.strerror}", "sallyport-network.service writes it; restart that"
        ) from error
    vhost = listen(places.run / VHOST, places.vm_group) if settings.vm == "vhost-user" else None
    datapath = datapaths.open_datapath(settings, vm_mac, vhost)
    state = PortState(settings, datapath)
    async with contextlib.AsyncExitStack() as stack:
        await _listen(stack, places, state.read, datapath)
        waits = [_feed_watchdog(datapath)]
        if settings.vm == "tap":
            waits.append(_hand_out(listen(places.run / "taps.sock", places.vm_group)))
        thread = DataPath(datapath.run, stop)
        thread.begin()
        stack.callback(thread.join, 2.0)
        stack.callback(datapath.stop)
        await _wait(stack, waits, stop)
        if thread.problem is not None:
            raise thread.problem


async def _wait(
    stack: contextlib.AsyncExitStack, waits: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event
) -> None:
    """Tell systemd that all is up, then wait for the end, or for the failure of one of ``waits``."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(wait) for wait in waits]
    for task in tasks:
        stack.callback(task.cancel)
    notify("READY=1\nSTATUS=frames move")
    stopped = asyncio.create_task(stop.wait())
    stack.callback(stopped.cancel)
    pending = {stopped, *tasks}
    while stopped in pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
