"""A known mix of open, closed and filtered ports, on wires that lose frames: no port is ever called what it is not."""

from __future__ import annotations

import random

import pytest

from proof.scan.controls import ipv4_path, ipv6_path
from proof.scan.numbered import NumberedProbe, TcpPorts, UdpPorts
from proof.scan.pace import Control, RefusalControl, SynControl
from proof.scan.sweep import Sweep, run_sweep
from tests.unit.proof.simpeer import TARGET, Peer, vm_stack, wired

PORTS, CONTROL_PORT, CLOSED_PORT = 1200, 443, 40000
DEADLINE = 3.0


def mixed(rng: random.Random) -> tuple[set[int], set[int]]:
    """Return open ports and filtered ones."""
    chosen = rng.sample([port for port in range(PORTS) if port != CONTROL_PORT], 90)
    return set(chosen[:40]), set(chosen[40:])


def found(*, loss: float, is_udp: bool, is_ipv6: bool, seed: int) -> tuple[Sweep, set[int], set[int]]:
    """Sweep a peer with a mix of its own; return what was found and what is true."""
    rng = random.Random(seed)
    is_open, filtered = mixed(rng)
    stack = vm_stack()
    stack.filtered = filtered
    if is_udp:
        stack.answers_udp = is_open
    else:
        is_open |= {CONTROL_PORT}
        stack.open = is_open
    path = ipv6_path(TARGET) if is_ipv6 else ipv4_path(TARGET)
    probe: NumberedProbe = UdpPorts(path, rng) if is_udp else TcpPorts(path, rng)
    control: Control = RefusalControl(path, CLOSED_PORT, rng) if is_udp else SynControl(path, CONTROL_PORT, rng)
    peer = Peer([stack], loss=loss)
    with wired(peer) as wire, wire.tap() as tap:
        sweep = run_sweep(wire, tap, probe, range(PORTS), control=control, rng=rng, deadline=DEADLINE)
    assert (peer.dropped > loss * PORTS / 2) == (loss > 0)
    return sweep, is_open, filtered


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("is_udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1])
def test_no_port_is_called_what_it_is_not(loss: float, is_udp: bool, is_ipv6: bool) -> None:
    sweep, is_open, filtered = found(loss=loss, is_udp=is_udp, is_ipv6=is_ipv6, seed=round(loss * 100))
    closed = set(range(PORTS)) - is_open - filtered
    assert sweep.open <= is_open
    assert sweep.closed <= closed
    assert sweep.silent <= filtered
    assert sweep.open | sweep.closed | sweep.silent | sweep.untested == set(range(PORTS))
    assert len(sweep.open) + len(sweep.closed) + len(sweep.silent) + len(sweep.untested) == PORTS
    if loss == 0:
        assert (sweep.open, sweep.closed, sweep.silent) == (is_open, closed, filtered)
    else:  # and the loss did not simply make everything "untested"
        assert len(sweep.open) > 0.5 * len(is_open)
        assert len(sweep.closed) > 0.5 * len(closed)
