"""The sweeps at the VM's addresses: every TCP port, UDP port and IP protocol."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from proof.progress import Progress
from proof.result import Result, Verdict
from proof.scan.numbered import ATTEMPTS, NumberedProbe, Protocols, TcpPorts, UdpPorts
from proof.scan.pace import Control, Pace, RefusalControl, SynControl
from proof.scan.sweep import CLOSED_TRIES, find_closed_udp, run_sweep
from proof.scan.sweep_result import sweep_result, tried
from proof.wire.craft import FramePath
from proof.wire.target import Target
from proof.wire.wire import Wire, WireError

QUICK_PORTS = 3000
"""How many random ports of each kind a quick run asks, besides the named ones."""


class Sweeps:
    """The sweeps at the VM's address of one family (IPv4 or IPv6); they share the random source and the pace."""

    def __init__(self, wire: Wire, target: Target, path: FramePath, rng: random.Random, say: Progress) -> None:
        self._wire, self._target, self._path, self._rng, self._say = wire, target, path, rng, say
        self._family = "ipv6" if path.is_ipv6 else "ipv4"
        self._pace = Pace()
        self._closed: int | None = None

    def run(self, ports: Iterable[int]) -> list[Result]:
        """Sweep the TCP ports, the UDP ports and the protocols."""
        asked = frozenset(ports)
        results = [self._tcp(asked)]
        # If the wire is dead, the next sweep meets the same error and reports it.
        with suppress(WireError), self._wire.tap() as tap:
            self._closed = find_closed_udp(self._wire, tap, self._path, self._rng)
        return [*results, self._udp(asked), self._protocols()]

    def _tcp(self, ports: frozenset[int]) -> Result:
        control = SynControl(self._path, self._target.control_port, self._rng)
        probe = TcpPorts(self._path, self._rng)
        return self._sweep(f"tcp-{self._family}-all-ports", probe, ports, control, self._target.tcp_open)

    def _udp(self, ports: frozenset[int]) -> Result:
        probe = UdpPorts(self._path, self._rng)
        return self._refusing(f"udp-{self._family}-all-ports", probe, ports, frozenset())

    def _protocols(self) -> Result:
        name = "next-headers-ipv6" if self._path.is_ipv6 else "protocols-ipv4"
        closed = self._closed if self._closed is not None else self._rng.randrange(32768, 60000)
        probe = Protocols(self._path, self._rng, tcp_port=self._target.control_port, udp_port=closed)
        return self._refusing(name, probe, frozenset(range(probe.universe)), probe.handled, probe.optional)

    def _refusing(
        self, name: str, probe: NumberedProbe, numbers: frozenset[int], expected: frozenset[int],
        optional: frozenset[int] = frozenset(),
    ) -> Result:  # fmt: skip
        """Sweep numbers that are refused by ICMP errors, among controls that provoke such errors."""
        if self._closed is None:
            # What answers is still found. But without ICMP errors a silent number looks like a closed one.
            syn = SynControl(self._path, self._target.control_port, self._rng)
            said = f"SYNs to an open port answered; none of {CLOSED_TRIES} random UDP ports reported that it is closed"
            return self._sweep(name, probe, numbers, syn, expected, optional, said, attempts=1)
        control = RefusalControl(self._path, self._closed, self._rng)
        said = f"datagrams to the closed UDP port {self._closed} refused"
        return self._sweep(name, probe, numbers, control, expected, optional, said)

    def _sweep(
        self, name: str, probe: NumberedProbe, numbers: frozenset[int], control: Control, expected: frozenset[int],
        optional: frozenset[int] = frozenset(), said: str = "SYNs to an open port answered", attempts: int = ATTEMPTS,
    ) -> Result:  # fmt: skip
        began = time.monotonic()
        try:
            with self._wire.tap() as tap:
                sweep = run_sweep(
                    self._wire, tap, probe, numbers, control=control, rng=self._rng, pace=self._pace,
                    attempts=attempts, progress=lambda done, of: self._say(name, done, of),
                )  # fmt: skip
        except WireError as error:
            took, why = time.monotonic() - began, f"wire failed: {error}"
            return Result("port", name, tried(probe, len(numbers)), Verdict.NOT_TESTED, why, "none", took)
        return sweep_result("port", name, sweep, expected, optional=optional, control=said)


def sample(ports: Sequence[int], always: Iterable[int], rng: random.Random) -> list[int]:
    """Return the ports of a quick run, sorted: those of ``always`` and `QUICK_PORTS` more, all out of ``ports``."""
    return sorted({*rng.sample(ports, min(QUICK_PORTS, len(ports))), *(set(always) & set(ports))})
