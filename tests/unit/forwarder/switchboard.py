"""A guest LAN in memory, for tests: ports, who owns what, frames between them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.forwarder.counters import VERDICTS
from tests.unit.forwarder import _testing
from tests.unit.forwarder.lan_frames import ipv4, ipv6, mac, packed

WAIT_MS = 5000
"""For what must come: long, as the machines that test are busy; a test that passes does not wait for it."""

Entry = tuple[bytes, int, bytes]


def table(ports: int) -> list[Entry]:
    """The table in which each port has its two addresses."""
    return [(packed(address(i)), i, mac(i)) for i in range(ports) for address in (ipv4, ipv6)]


@dataclass
class Switchboard:
    """A LAN that runs in a thread, and the other sides of its ports."""

    lan: _testing.Lan
    ports: Sequence[_testing.Endpoint]

    def send(self, port: int, *frames: bytes) -> None:
        """From the guest at ``port``."""
        for frame in frames:
            assert _testing.memory_inject(self.ports[port], frame)

    def counted(self, port: int) -> dict[str, int]:
        """Frames from ``port`` by verdict; those without any are left out."""
        counters = self.lan.counters()[port]
        return {name: frames for name, (frames, _) in zip(VERDICTS, counters, strict=True) if frames}

    def collect(self, port: int, want: int) -> list[bytes]:
        """``want`` frames that arrive at ``port``; fewer if they do not come in time."""
        got: list[bytes] = []
        while len(got) < want:
            more = _testing.memory_collect(self.ports[port], want - len(got), WAIT_MS)
            if not more:
                break
            got += more
        return got

    def drained(self) -> list[list[bytes]]:
        """Everything that has arrived, at each port."""
        return [_testing.memory_collect(port, 1 << 16) for port in self.ports]

    def settle(self, port: int, to: int, control: bytes) -> list[list[bytes]]:
        """Send the control from ``port`` to ``to``, wait for it there, and tell what arrived before it, everywhere.

        Frames of one port are moved in order, so all that came before the control has then been dealt with.
        """
        got: list[bytes] = []
        self.send(port, control)
        while control not in got:
            more = _testing.memory_collect(self.ports[to], 1 << 16, WAIT_MS)
            assert more, f"the positive control did not arrive: {self.counted(port)}"
            got += more
        everywhere = [_testing.memory_collect(endpoint, 1 << 16) for endpoint in self.ports]
        got.remove(control)
        everywhere[to] = got + everywhere[to]
        return everywhere


@contextlib.contextmanager
def switchboard(
    ports: int = 3,
    *,
    slots: int = 256,
    slot_bytes: int = 2048,
    max_frame: int = 1514,
    limits: tuple[tuple[int, int, int, int] | None, ...] | None = None,
    entries: Sequence[Entry] | None = None,
    extra: Sequence[_testing.Endpoint] = (),
) -> Iterator[Switchboard]:
    """A running LAN of memory endpoints, and of ``extra`` ones behind them."""
    endpoints = [_testing.memory(slots, slot_bytes, 1) for _ in range(ports)]
    lan = _testing.Lan([*endpoints, *extra], max_frame, limits)
    lan.provision(table(ports) if entries is None else entries)
    thread = threading.Thread(target=lan.run, daemon=True)
    thread.start()
    try:
        yield Switchboard(lan, endpoints)
    finally:
        lan.stop()
        thread.join(WAIT_MS / 1000)
        assert not thread.is_alive(), "the LAN does not stop"
