"""The guest LAN: a frame reaches the one owner of the address that it names, or nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.packet import Raw

from tests.unit.forwarder import _testing
from tests.unit.forwarder.lan_frames import (
    DELIVERED,
    REFUSED,
    ether,
    ipv4,
    ipv6,
    mac,
    packed,
    solicitation,
    udp4,
    udp6,
    who_has,
)
from tests.unit.forwarder.switchboard import WAIT_MS, Switchboard, switchboard, table


@pytest.fixture
def board() -> Iterator[Switchboard]:
    """Guests 0, 1 and 2."""
    with switchboard(3) as running:
        yield running


@pytest.mark.parametrize("name", DELIVERED)
def test_goes_to_its_owner_unchanged_and_to_nobody_else(board: Switchboard, name: str) -> None:
    board.send(0, DELIVERED[name])
    assert board.settle(0, 2, udp4(0, 2)) == [[], [DELIVERED[name]], []]
    assert board.counted(0) == {"passed": 2}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_and_reaches_nobody(board: Switchboard, name: str) -> None:
    verdict, packet = REFUSED[name]
    before = board.settle(0, 1, udp4(0, 1, b"before"))
    board.send(0, bytes(packet))
    assert board.settle(0, 1, udp4(0, 1, b"after")) == before == [[], [], []]
    assert board.counted(0) == {"passed": 2, verdict: 1}
    assert board.counted(1) == board.counted(2) == {}


LAYERS = {"IPv4": (udp4(0, 1), 34 + 15), "IPv6": (udp6(0, 1), 54 + 15)} | {
    name: (DELIVERED[name], len(DELIVERED[name]) - optional)
    for name, optional in (("ARP request", 0), ("neighbour solicitation", 0), ("neighbour advertisement", 0))
}


@pytest.mark.parametrize("name", LAYERS)
def test_cut_off_at_every_length(board: Switchboard, name: str) -> None:
    """No shorter piece of a frame gets anywhere; the whole one does."""
    whole, shortest = LAYERS[name]
    for length in range(shortest):
        board.send(0, whole[:length])
        assert board.settle(0, 2, udp4(0, 2)) == [[], [], []], f"{length} bytes"
    assert board.counted(0) == {"passed": shortest, "runt": shortest}
    board.send(0, whole)
    assert board.settle(0, 2, udp4(0, 2))[1] == [whole]


def test_fragments_go_where_the_whole_would(board: Switchboard) -> None:
    pieces = fragment(IP(src=ipv4(0), dst=ipv4(1), id=7) / UDP() / Raw(bytes(3000)), 1000)
    frames = [bytes(ether(0, 1) / piece) for piece in pieces]
    board.send(0, *frames)
    assert len(frames) == 4
    assert board.settle(0, 2, udp4(0, 2)) == [[], frames, []]


def test_many_addresses_each_to_its_port() -> None:
    """2,000 addresses at 8 ports: every one is found, and the next one to each, which nobody has, is not."""
    addresses = [(packed(f"10.{i >> 8}.{i & 255}.1"), i % 8) for i in range(1000)]
    addresses += [(packed(f"fd00:{i:x}::1"), i % 8) for i in range(1000)]
    entries = [(address, port, mac(port)) for address, port in addresses]
    with switchboard(8, entries=entries) as board:
        for i, (address, port) in enumerate(addresses):
            source = next(entry for entry in entries[i // 1000 * 1000 :] if entry[1] != port)
            for destination in (address, address[:-1] + b"\2"):
                head = mac(port) + mac(source[1])
                if len(address) == 4:
                    head += b"\x08\0\x45\0\0\x14" + bytes(4) + b"\x40\x11\0\0" + source[0] + destination
                else:
                    head += b"\x86\xdd\x60\0\0\0\0\0\x3b\x40" + source[0] + destination
                board.send(source[1], head)
            (got,) = board.collect(port, 1)
            assert got.endswith(address)
        total = {"passed": 0, "destination": 0}
        deadline = time.monotonic() + WAIT_MS / 1000
        while sum(total.values()) != 4000 and time.monotonic() < deadline:
            counted = [board.counted(port) for port in range(8)]
            total = {name: sum(each.get(name, 0) for each in counted) for name in total}
        assert total == {"passed": 2000, "destination": 2000}
        assert board.drained() == [[]] * 8


def test_a_new_table_counts_from_the_moment_it_is_given() -> None:
    """The address moves between ports 1 and 2; nothing that is sent later goes to the old owner."""
    here = [(packed(ipv4(0)), 0, mac(0)), (packed(ipv4(1)), 1, mac(1))]
    there = [(packed(ipv4(0)), 0, mac(0)), (packed(ipv4(1)), 2, mac(1))]
    with switchboard(3, entries=here) as board:
        for i in range(200):
            owner = 1 + i % 2
            board.lan.provision(here if owner == 1 else there)
            frames = [udp4(0, 1, b"%d %d" % (i, j)) for j in range(8)]
            board.send(0, *frames)
            assert board.collect(owner, 8) == frames
        assert board.drained() == [[], [], []]
        assert board.counted(0) == {"passed": 1600}


def test_a_table_is_taken_at_once_by_a_lan_that_sleeps(board: Switchboard) -> None:
    assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]
    for _ in range(4):
        time.sleep(0.01)
        start = time.monotonic()
        board.lan.provision(table(3))
        assert time.monotonic() - start < 0.1, "it was not woken"
    assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]


def test_no_round_that_has_begun_uses_the_old_table_when_provision_returns() -> None:
    """Rounds of thousands of frames; the last port of the round gets its frame while one of them is under way."""
    flood, last = [(i, udp4(i, (i + 1) % 30)) for i in range(30)], udp4(30, 31)
    entries = table(32)
    moved = [(address, 32 if port == 31 else port, owner) for address, port, owner in entries]
    for _ in range(30):
        ports = [_testing.memory(64, 256, 1) for _ in range(33)]
        lan = _testing.Lan(ports)
        lan.provision(entries)
        for port, frame in flood:
            while _testing.memory_inject(ports[port], frame):
                pass
        thread = threading.Thread(target=lan.run, daemon=True)
        thread.start()
        lan.provision(moved)
        assert _testing.memory_inject(ports[30], last)
        assert _testing.memory_collect(ports[32], 1, WAIT_MS) == [last]
        lan.stop()
        thread.join(WAIT_MS / 1000)


def test_tables_from_many_threads_and_after_the_end() -> None:
    with switchboard(3) as board:
        threads = [threading.Thread(target=board.lan.provision, args=(table(3),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_MS / 1000)
            assert not thread.is_alive()
        assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]
    board.lan.provision([])


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([(packed(ipv4(0)), 0, mac(0)), (packed(ipv4(0)), 1, mac(1))], "entry 1: its address has an owner"),
        ([(packed(ipv6(0)), 0, mac(0)), (packed(ipv6(0)), 0, mac(0))], "entry 1: its address has an owner"),
        ([(packed(ipv4(0)), 3, mac(0))], "entry 0: there is no port 3"),
        ([(packed(ipv4(0)), -1, mac(0))], "entry 0: there is no port -1"),
        ([(b"12345", 0, mac(0))], "entry 0: an address has 4 or 16 bytes, not 5"),
        ([(packed(ipv4(0)), 0, b"12345")], "entry 0: want the MAC address"),
        ([(packed(ipv4(0)), 0, b"\1" + bytes(5))], "entry 0: want the MAC address"),
        ([(i.to_bytes(4, "big"), 0, mac(0)) for i in range(65537)], "65536 entries at most"),
    ],
)
def test_a_wrong_table_is_refused_by_entry_and_the_old_one_stays(
    board: Switchboard, entries: list[tuple[bytes, int, bytes]], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        board.lan.provision(entries)
    assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]


def test_the_largest_table_has_every_entry() -> None:
    """With so many entries some are crowded out of their place until the table is built anew with more room."""
    owned = [(1 << 24 | i).to_bytes(4, "big") for i in range(65535)]
    source = packed(ipv4(0))
    head = mac(1) + mac(0) + b"\x08\0\x45\0\0\x14" + bytes(4) + b"\x40\x11\0\0" + source
    with switchboard(2, entries=[(source, 0, mac(0)), *((address, 1, mac(1)) for address in owned)]) as board:
        for i in range(0, len(owned), 200):
            frames = [head + address for address in owned[i : i + 200]]
            board.send(0, *frames)
            assert board.collect(1, len(frames)) == frames
        assert board.counted(0) == {"passed": len(owned)}


def test_a_full_receiver_loses_its_own_frames_only() -> None:
    with switchboard(3, slots=8) as board:
        for i in range(20):
            board.send(0, udp4(0, 1, b"full %d" % i), udp4(0, 2, b"free %d" % i))
            assert board.collect(2, 1) == [udp4(0, 2, b"free %d" % i)]
        assert board.drained()[1] == [udp4(0, 1, b"full %d" % i) for i in range(8)]
        assert board.counted(0) == {"passed": 28, "no_buffer": 12}
        assert board.settle(0, 1, udp4(0, 1, b"empty again")) == [[], [], []]


def test_one_that_goes_away_does_not_stop_the_others(board: Switchboard) -> None:
    _testing.memory_set_up(board.ports[1], False)
    board.send(0, udp4(0, 1), udp6(0, 1))
    assert board.settle(0, 2, udp4(0, 2)) == [[], [], []]
    assert board.settle(1, 2, udp4(1, 2)) == [[], [], []]
    assert board.counted(0) == {"passed": 1, "down": 2}


def test_the_rate_of_each_port_is_its_own() -> None:
    second = 10**9
    with switchboard(3, limits=((second, 3 * second, 0, 0), None, None)) as board:
        for source in (0, 1):
            board.send(source, *(udp4(source, 2, b"%d" % i) for i in range(10)))
        assert len(board.collect(2, 13)) == 13
        assert board.counted(0) == {"passed": 3, "rate": 7}
        assert board.counted(1) == {"passed": 10}


def test_the_rate_of_questions_is_another() -> None:
    second = 10**9
    with switchboard(2, limits=((0, 0, second, 2 * second), None)) as board:
        board.send(0, *[bytes(who_has(0, ipv4(1)))] * 3, *[bytes(solicitation(0, ipv6(1)))] * 3)
        board.send(0, *[bytes(who_has(0, ipv4(1), 1))] * 5, udp4(0, 1))
        assert len(board.collect(1, 8)) == 8
        assert board.counted(0) == {"passed": 8, "group_rate": 4}


def test_stop_ends_it_once_and_for_all() -> None:
    lan = _testing.Lan([_testing.memory(4, 64, 1)])
    thread = threading.Thread(target=lan.run, daemon=True)
    thread.start()
    lan.stop()
    thread.join(WAIT_MS / 1000)
    assert not thread.is_alive()
    lan.run()


def test_a_lan_runs_once_at_a_time(board: Switchboard) -> None:
    assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]
    with pytest.raises(ValueError, match="running already"):
        board.lan.run()
    assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]


def test_an_idle_lan_uses_no_processor_time(board: Switchboard) -> None:
    assert board.settle(0, 1, udp4(0, 1)) == [[], [], []]
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="1 to 64 endpoints, not 0"):
        _testing.Lan([])
    with pytest.raises(ValueError, match="1 to 64 endpoints, not 65"):
        _testing.Lan([_testing.memory(1, 64, 1) for _ in range(65)])
    with pytest.raises(ValueError, match="max_frame"):
        _testing.Lan([_testing.memory(1, 64, 1)], 13)
    with pytest.raises(ValueError, match="limits"):
        _testing.Lan([_testing.memory(1, 64, 1)], 1514, ())
    with pytest.raises(TypeError, match="want an Endpoint"):
        _testing.Lan([None])  # type: ignore[list-item]
    assert len(_testing.Lan([_testing.memory(1, 64, 1) for _ in range(64)]).counters()) == 64


def test_sixty_four_ports_speak_with_each_other() -> None:
    frames = {(i, i ^ bit): udp6(i, i ^ bit) for i in range(64) for bit in (1, 2, 4, 8, 16, 32)}
    with switchboard(64, slots=8) as board:
        for (source, _), frame in frames.items():
            board.send(source, frame)
        for port in range(64):
            assert sorted(board.collect(port, 6)) == sorted(frame for (_, to), frame in frames.items() if to == port)
