"""A wire on a NIC inside the VM, bridged over SSH by `relay`."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Self

import paramiko

from proof.remote_script import python_command
from proof.wire.frame import Frame
from proof.wire.pcapng import Capture
from proof.wire.wire import StreamWire, Tap, WireError

RELAY = Path(__file__).with_name("relay.py")
GREETING = re.compile(rb"SALLYPORT-RELAY 1 ([0-9a-f]{2}(?::[0-9a-f]{2}){5})\Z")


def relay_command(interface: str, *, mute: bool = False) -> str:
    """Return the command line that runs the relay on ``interface``; `ValueError` for an impossible name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", interface):
        raise ValueError(f"not an interface name: {interface!r}")
    return f"exec {python_command(RELAY.read_text(), interface, *(['mute'] if mute else []))}"


def greeted(tap: Tap, timeout: float) -> str:
    """Return the NIC's MAC from the relay's greeting, the first message; `WireError` if there is none in time."""
    deadline = time.monotonic() + timeout
    frames: list[Frame] = []
    while not frames:
        if time.monotonic() > deadline:
            raise WireError(f"the relay did not greet within {timeout:.0f} s")
        frames = tap.take(0.2)
    match = GREETING.match(frames[0].raw)
    if match is None:
        raise WireError(f"instead of the relay answered: {frames[0].raw[:60]!r}")
    return match[1].decode()


class ChannelStream:
    """A `wire.ByteStream` over an SSH channel."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def recv(self, size: int, /) -> bytes:
        """Block for at most ``size`` bytes."""
        return self._channel.recv(size)

    def send_all(self, data: bytes, timeout: float) -> None:
        """Send everything; `OSError` if the channel is closed or stuck."""
        view, deadline = data, time.monotonic() + timeout
        while view:
            if self._channel.closed:
                raise OSError("the SSH channel is closed")
            if not self._channel.send_ready():  # paramiko has no poll for one direction
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the SSH channel took no data for {timeout:.0f} s")
                time.sleep(0.002)
                continue
            view = view[self._channel.send(view) :]

    def writable(self) -> bool:
        """Tell whether a small send would not block now."""
        return not self._channel.closed and self._channel.send_ready()

    def close(self) -> None:
        """Close the channel, which ends the relay."""
        self._channel.close()


class SshWire(StreamWire):
    """The NIC ``interface`` of the machine behind an SSH client with a root shell; ``mac`` is the NIC's own."""

    mac: str

    @classmethod
    def open(
        cls,
        client: paramiko.SSHClient,
        interface: str,
        *,
        pcap: Path | None = None,
        timeout: float = 30.0,
        mute: bool = False,
    ) -> Self:
        """Start the relay and wait for its greeting; `WireError` with what it said instead.

        ``mute``: only send. Needed on the NIC that carries this SSH connection, else it would hear itself for ever.
        """
        transport = client.get_transport()
        if transport is None:
            raise WireError("the SSH client is not connected")
        try:
            channel = transport.open_session(window_size=4 << 20, timeout=timeout)
            channel.exec_command(relay_command(interface, mute=mute))
        except (paramiko.SSHException, OSError) as error:
            raise WireError(f"cannot start the relay on {interface}: {error}") from error
        wire = cls(capture=Capture(pcap) if pcap is not None else None)
        with wire.tap() as tap:
            wire._run(ChannelStream(channel))
            try:
                wire.mac = greeted(tap, timeout)
            except WireError as error:
                said = channel.recv_stderr(2000).decode(errors="replace") if channel.recv_stderr_ready() else ""
                wire.close()
                reason = said.strip().splitlines()[-1:] or [""]  # the last line of a traceback
                raise WireError(f"no relay on {interface}: {error}; {reason[0][:200]}".rstrip("; ")) from error
        # Whatever the relay complains about later must be read, or a full window would stop it.
        threading.Thread(target=_discard, args=(channel,), name="relay-stderr", daemon=True).start()
        return wire


def _discard(channel: paramiko.Channel) -> None:
    while channel.recv_stderr(4096):
        pass
