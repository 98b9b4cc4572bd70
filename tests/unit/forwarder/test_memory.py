"""Endpoints in memory: what goes in comes out, in order, or is refused by name."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.unit.forwarder import _testing
from tests.unit.forwarder.lan_frames import ipv4, mac, packed
from tests.unit.forwarder.policies import BROADCAST, FROM_PORT, FROM_VM, PEER_MAC, VM_MAC, Policy
from tests.unit.forwarder.switchboard import WAIT_MS, switchboard


def frame(text: bytes, size: int = 60) -> bytes:
    """An IPv4 datagram from guest 0 to guest 1 that carries a text."""
    body = text.ljust(size - 34, b".")
    header = (
        b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0" + packed(ipv4(0)) + packed(ipv4(1))
    )
    return mac(1) + mac(0) + b"\x08\x00" + header + body


@pytest.mark.parametrize(
    ("slots", "slot_bytes", "direction", "named"),
    [
        (0, 2048, 1, "slots"),
        (-1, 2048, 1, "slots"),
        (65537, 2048, 1, "slots"),
        (4, 0, 1, "slot_bytes"),
        (4, 65554, 1, "slot_bytes"),
        (4, 2048, 2, "direction_from"),
        (4, 2048, -1, "direction_from"),
    ],
)
def test_sizes_out_of_range_are_named(slots: int, slot_bytes: int, direction: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        _testing.memory(slots, slot_bytes, direction)
    assert _testing.memory(4, 2048, 1).up()


def test_every_slot_can_be_used_and_no_more() -> None:
    for slots in (1, 3, 4, 5):
        endpoint = _testing.memory(slots, 64, 1)
        taken = [_testing.memory_inject(endpoint, b"x" * 60) for _ in range(slots + 2)]
        assert taken == [True] * slots + [False, False]


def test_a_frame_longer_than_a_slot_is_refused() -> None:
    endpoint = _testing.memory(2, 100, 1)
    with pytest.raises(ValueError, match="101 bytes is longer than a slot"):
        _testing.memory_inject(endpoint, bytes(101))
    assert _testing.memory_inject(endpoint, bytes(100))


def test_only_endpoints_in_memory_have_an_other_side() -> None:
    endpoint = _testing.memory(2, 100, 1)
    for wrong in (None, "endpoint", _testing):
        with pytest.raises(TypeError, match="want an Endpoint"):
            _testing.memory_collect(wrong, 1)  # type: ignore[arg-type]
    assert _testing.memory_collect(endpoint, 1) == []


def test_offload_and_tag_out_of_range_are_named() -> None:
    endpoint = _testing.memory(2, 100, 1)
    with pytest.raises(ValueError, match=r"offload\[0\]"):
        _testing.memory_inject(endpoint, bytes(60), (256, 0, 0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"tag\[1\]"):
        _testing.memory_inject(endpoint, bytes(60), None, (0x8100, 65536))
    with pytest.raises(TypeError, match="offload"):
        _testing.memory_inject(endpoint, bytes(60), (1, 2, 3))  # type: ignore[arg-type]
    assert _testing.memory_inject(endpoint, bytes(60), (255, 0, 0, 0, 0, 65535), (0x8100, 65535))


def test_frames_keep_order_and_bytes_through_many_turns_of_the_ring() -> None:
    sent = [frame(b"%d" % i, 60 + i % 700) for i in range(1000)]
    with switchboard(2, slots=7) as board:
        got: list[bytes] = []
        for i in range(0, len(sent), 5):
            board.send(0, *sent[i : i + 5])
            got += board.collect(1, 5)
    assert got == sent


def test_one_endpoint_belongs_to_one_lan() -> None:
    endpoint = _testing.memory(2, 100, 1)
    lan = _testing.Lan([endpoint])
    with pytest.raises(ValueError, match="in use already"):
        _testing.Lan([endpoint])
    assert len(lan.counters()) == 1


def test_collect_waits_no_longer_than_told_and_is_woken_by_a_frame() -> None:
    with switchboard(2) as board:
        start = time.monotonic()
        assert _testing.memory_collect(board.ports[1], 1, 50) == []
        assert 0.045 <= time.monotonic() - start < WAIT_MS / 1000
        timer = threading.Timer(0.05, board.send, (0, frame(b"late")))
        timer.start()
        assert _testing.memory_collect(board.ports[1], 1, WAIT_MS) == [frame(b"late")]
        timer.join()


def test_a_sleeping_data_path_is_woken_for_each_frame() -> None:
    """The data path looks again four times a second; a lost wake-up would show as a quarter of a second."""
    with switchboard(2) as board:
        slowest = 0.0
        for i in range(200):
            start = time.monotonic()
            board.send(0, frame(b"%d" % i))
            assert board.collect(1, 1) == [frame(b"%d" % i)]
            slowest = max(slowest, time.monotonic() - start)
            if i % 20 == 0:
                time.sleep(0.002)  # so that it is asleep
    assert slowest < 0.2


def test_who_is_down_gets_nothing_and_is_back_afterwards() -> None:
    with switchboard(3) as board:
        _testing.memory_set_up(board.ports[1], False)
        assert not board.ports[1].up()
        board.send(0, frame(b"lost"), frame(b"lost too"))
        control = mac(2) + frame(b"control")[6:30] + packed(ipv4(2)) + frame(b"control")[34:]
        assert board.settle(0, 2, control) == [[], [], []]
        assert board.counted(0) == {"passed": 1, "down": 2}
        _testing.memory_set_up(board.ports[1], True)
        assert board.settle(0, 1, frame(b"found")) == [[], [], []]


def test_a_receiver_with_smaller_slots_drops_what_is_too_long() -> None:
    small = _testing.memory(4, 100, 1)
    entries = [(packed(ipv4(0)), 0, mac(0)), (packed(ipv4(1)), 1, mac(1))]
    with switchboard(1, entries=entries, extra=[small]) as board:
        board.send(0, frame(b"long", 101), frame(b"fits", 100))
        assert _testing.memory_collect(small, 9, WAIT_MS) == [frame(b"fits", 100)]
        assert board.counted(0) == {"passed": 1, "oversized": 1}


def test_work_for_the_receiver_goes_along() -> None:
    offload = (1, 0, 0, 0, 34, 6)
    with switchboard(2) as board:
        assert _testing.memory_inject(board.ports[0], frame(b"partial"), offload)
        assert _testing.memory_collect_offload(board.ports[1], 1, WAIT_MS) == [(frame(b"partial"), offload)]


def test_a_tag_beside_the_frame_is_put_into_it() -> None:
    """The sender's tag lies beside the frame, as a packet ring gives it; the receiver's bytes have it in place."""
    port, vm = _testing.memory(8, 2048, FROM_PORT), _testing.memory(8, 2048, FROM_VM)
    path = _testing.Path(port, vm, Policy().pack())
    thread = threading.Thread(target=path.run, daemon=True)
    thread.start()
    plain = BROADCAST + PEER_MAC + b"\x86\xdd" + os.urandom(46)
    try:
        assert _testing.memory_inject(port, plain, (1, 0, 0, 0, 20, 6), (0x8100, 0x2005))
        assert _testing.memory_inject(port, VM_MAC + plain[6:])
        got = _testing.memory_collect_offload(vm, 1, WAIT_MS) + _testing.memory_collect_offload(vm, 1, WAIT_MS)
    finally:
        path.stop()
        thread.join(WAIT_MS / 1000)
    assert got == [
        (plain[:12] + b"\x81\x00\x20\x05" + plain[12:], (1, 0, 0, 0, 24, 6)),
        (VM_MAC + plain[6:], (0, 0, 0, 0, 0, 0)),
    ]
