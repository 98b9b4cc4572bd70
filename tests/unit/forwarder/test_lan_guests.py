"""The guest LAN between virtual machines: each a vhost-user front-end with memory and queues of its own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.unit.forwarder import _testing
from tests.unit.forwarder.lan_frames import ipv4, mac
from tests.unit.forwarder.rig import Row, frame, inside, needs_root, wait_for
from tests.unit.forwarder.switchboard import Switchboard, switchboard, table
from tests.unit.forwarder.vhost_frontend import MIB, NEXT, NO_HEADER, Frontend

VMS = 3


def datagram(source: int, destination: int, text: bytes, to: str = "") -> bytes:
    """UDP from one VM to another."""
    ends = Ether(src=mac(source), dst=mac(destination)) / IP(src=ipv4(source), dst=to or ipv4(destination))
    return bytes(ends / UDP(sport=1000, dport=2000) / text)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[tuple[Switchboard, list[Frontend]]]:
    paths = [str(tmp_path / f"vm{i}.sock") for i in range(VMS)]
    ends = []
    for path in paths:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            ends.append(_testing.vhost_user(listener.fileno(), 64 * MIB, True, 1))
    with switchboard(0, extra=ends, entries=table(VMS)) as board:
        guests = [Frontend(path).start() for path in paths]
        for guest in guests:
            guest.give_buffers(8)
        yield Switchboard(board.lan, ends), guests
        for guest in guests:
            guest.close()


def test_two_vms_talk_and_the_third_hears_nothing(lan: tuple[Switchboard, list[Frontend]]) -> None:
    board, guests = lan
    for text in (b"there", b"again"):
        guests[0].transmit(datagram(0, 1, text))
        assert [data for _, data in guests[1].receive()] == [datagram(0, 1, text)]
    guests[1].transmit(datagram(1, 0, b"and back"))
    assert [data for _, data in guests[0].receive()] == [datagram(1, 0, b"and back")]
    assert guests[2].rx.used_index() == 0
    assert board.counted(0) == {"passed": 2}


def test_an_unknown_destination_reaches_nobody_and_is_counted(lan: tuple[Switchboard, list[Frontend]]) -> None:
    board, guests = lan
    guests[0].transmit(datagram(0, 1, b"lost", to="10.0.0.200"))
    guests[0].transmit(datagram(0, 1, b"found"), head=1)
    assert [data for _, data in guests[1].receive()] == [datagram(0, 1, b"found")]  # the control, behind it in order
    assert board.counted(0) == {"passed": 1, "destination": 1}
    assert guests[2].rx.used_index() == 0


def test_a_hostile_vm_is_stopped_alone(lan: tuple[Switchboard, list[Frontend]]) -> None:
    board, guests = lan
    bad = guests[2]
    # A chain that leads out of its table.
    bad.tx.describe(0, 0, 64, NEXT, bad.size)
    bad.tx.offer(0)
    bad.tx.publish()
    assert wait_for(lambda: _testing.vhost_user_state(board.ports[2])["faults"])
    assert not board.ports[2].up()
    guests[0].transmit(datagram(0, 2, b"to the one that was stopped"))
    guests[0].transmit(datagram(0, 1, b"still here"), head=1)
    assert [data for _, data in guests[1].receive()] == [datagram(0, 1, b"still here")]
    assert board.counted(0) == {"passed": 1, "down": 1}
    # And it may come back, if it behaves.
    bad.tx.describe(0, bad.place(NO_HEADER + datagram(2, 1, b"sorry")), 12 + len(datagram(2, 1, b"sorry")))
    guests[2] = bad.reconnect()
    assert wait_for(board.ports[2].up)
    assert [data for _, data in guests[1].receive()] == [datagram(2, 1, b"sorry")]


@needs_root
def test_the_physical_port_has_no_part_in_it(request: pytest.FixtureRequest) -> None:
    with Row() as row, row.socket("outside") as outside:

        def counted() -> list[int]:
            files = [f"/sys/class/net/m0/statistics/{way}_packets" for way in ("rx", "tx")]
            program = ["ip", "netns", "exec", row.appliance, "cat", *files]
            return [int(word) for word in subprocess.run(program, capture_output=True, check=True).stdout.split()]

        before = counted()
        with inside(row.appliance):
            _, guests = request.getfixturevalue("lan")
            for i in range(20):
                guests[0].transmit(datagram(0, 1, b"%d" % i))
                assert len(guests[1].receive()) == 1
        assert counted() == before
        outside.send(frame())  # the control: these counters count
        assert wait_for(lambda: counted()[0] == before[0] + 1)
