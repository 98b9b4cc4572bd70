"""The path between two rings, over veth pairs: what passes, what is counted, what it survives."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from backend.forwarder import _core, config
from backend.forwarder.counters import named
from tests.unit.forwarder.rig import (
    FROM_PORT,
    FROM_VM,
    VM_MAC,
    Row,
    Running,
    frame,
    from_vm,
    inside,
    ip,
    needs_root,
    no_segmentation,
    packed,
    wait_for,
)  # fmt: skip

pytestmark = needs_root


@pytest.fixture
def row() -> Iterator[Row]:
    with Row() as made:
        yield made


def path(row: Row, **changes: object) -> Any:
    with inside(row.appliance):
        port = _core.ring("m0", bytes.fromhex(VM_MAC.replace(":", "")), FROM_PORT)
        return _core.Path(port, _core.ring("t0", None, FROM_VM), packed(**changes))


def counts(path: Any) -> dict[str, int]:
    return {counter.name: counter.frames for counter in named(path.counters()) if counter.frames}


def test_frames_pass_in_both_directions_and_are_counted(row: Row) -> None:
    datapath = path(row)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(frame(), frame(size=1514))
        assert vm.receive(2) == [frame(), frame(size=1514)]
        vm.send(from_vm())
        assert outside.receive() == [from_vm()]
        assert counts(datapath) == {"rx_passed": 2, "tx_passed": 1}
        assert datapath.counters()[0][0][1] == 60 + 1514


DROPPED = [
    ("rx_runt", frame(size=20), {}),
    ("rx_oversized", frame(size=1515), {"max_frame": 1514}),
    ("rx_tags", frame(tags=b"\x81\x00\x00\x05"), {"tags": 0}),
    ("rx_tags", frame(tags=b"\x88\xa8\x00\x05\x81\x00\x00\x06"), {"tags": 1}),
    ("rx_tags", frame(tags=b"\x88\xa8\x00\x05\x81\x00\x00\x06\x81\x00\x00\x07"), {}),
    ("rx_spoofed", frame(source=VM_MAC), {}),
    ("rx_spoofed", frame(source="03:00:00:00:00:01"), {}),
    ("rx_destination", frame(destination="02:5a:11:00:00:03"), {}),
    ("rx_ethertype", frame(ethertype=0x88CC), {}),
    ("rx_ethertype", frame(ethertype=46), {}),
    ("rx_link_address", frame(payload=bytes(12) + bytes([169, 254, 254, 1]) + bytes(4)), {}),
    ("rx_link_address", frame(payload=bytes(16) + bytes([169, 254, 254, 2])), {}),
    ("rx_link_address", frame(ethertype=0x0806, payload=bytes(24) + bytes([169, 254, 254, 2])), {}),
    ("tx_spoofed", from_vm(source="02:5a:11:00:00:03"), {}),
    ("tx_ethertype", from_vm(ethertype=0x88CC), {}),
    ("tx_link_address", from_vm(ethertype=0x0806, payload=bytes(14) + bytes([169, 254, 254, 1])), {}),
]


@pytest.mark.parametrize(
    ("verdict", "bad", "changes"), DROPPED, ids=[f"{v}-{i}" for i, (v, _, _) in enumerate(DROPPED)]
)
def test_a_frame_that_must_not_pass_is_counted_and_the_next_one_passes(
    row: Row, verdict: str, bad: bytes, changes: dict[str, object]
) -> None:
    if verdict == "rx_oversized":
        row.mtu(9000)
    datapath = path(row, **changes)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        source, sink, good = (outside, vm, frame()) if verdict.startswith("rx") else (vm, outside, from_vm())
        source.send(bad, good)
        assert sink.receive(2, 0.5) == [good]
        assert counts(datapath) == {verdict: 1, f"{verdict[:2]}_passed": 1}


@pytest.mark.parametrize(
    "tags",
    [b"\x81\x00\x20\x05", b"\x88\xa8\x00\x05\x81\x00\x40\x06", b"\x88\xa8\x30\x05"],
    ids=["802.1Q", "QinQ", "802.1ad"],
)
@pytest.mark.parametrize("size", [60, 1514])
def test_vlan_tags_stay_as_they_are(row: Row, tags: bytes, size: int) -> None:
    row.mtu(1508)  # a packet socket may exceed it by one tag
    with Running(path(row)), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(frame(tags=tags, size=size))
        assert vm.receive() == [frame(tags=tags, size=size)]
        vm.send(from_vm(tags=tags, size=size))
        assert outside.receive() == [from_vm(tags=tags, size=size)]


def test_jumbo_frames_pass_whole(row: Row) -> None:
    row.mtu(9000)
    jumbo = frame(payload=bytes(24) + bytes(i % 251 for i in range(8970)), size=9014)
    datapath = path(row, max_frame=9014)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(frame(), jumbo, frame(size=61))
        assert vm.receive(3) == [
            frame(),
            jumbo,
            frame(size=61),
        ]  # in order, by two sockets


def exchange(row: Row, megabytes: int) -> tuple[str, str, float]:
    """TCP from outside to the VM; hashes of what was sent and of what came, seconds."""
    data = hashlib.sha256(b"seed").digest() * 32768  # 1 MiB
    with inside(row.vm):
        listener = socket.create_server(("10.9.0.2", 5001))
    got = hashlib.sha256()

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            while chunk := peer.recv(1 << 20):
                got.update(chunk)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    sent = hashlib.sha256()
    with inside(row.outside):
        client = socket.create_connection(("10.9.0.2", 5001), timeout=20)
    began = time.monotonic()
    with client:
        for _ in range(megabytes):
            client.sendall(data)
            sent.update(data)
    server.join(20)
    listener.close()
    return sent.hexdigest(), got.hexdigest(), time.monotonic() - began


def test_tcp_with_offloads_on_arrives_whole(row: Row) -> None:
    """Partial checksums and GSO frames: a forwarder that does not understand them moves nothing at all."""
    row.addresses()
    datapath = path(row)
    with Running(datapath):
        sent, got, seconds = exchange(row, 64)
    assert sent == got
    frames, length = datapath.counters()[FROM_PORT][0]
    assert length > 64 << 20
    assert length / frames > 3000, "GSO frames were cut on their way"
    assert seconds < 20


def test_gso_frames_for_a_card_that_cannot_cut_them_are_cut_and_none_is_lost(row: Row) -> None:
    row.addresses()
    with inside(row.appliance):
        no_segmentation("t0")
    datapath = path(row)
    with Running(datapath):
        sent, got, _ = exchange(row, 16)
    assert sent == got
    assert {name for name in counts(datapath) if name.startswith("rx_")} == {"rx_passed"}
    frames, length = datapath.counters()[FROM_PORT][0]
    assert length / frames > 3000, "no GSO frame came: nothing was tried"


def test_the_rate_limit_lets_the_burst_pass_and_no_more(row: Row) -> None:
    slow = config.Direction(all=config.Limit(rate=10, burst=5), group=config.Limit(0, 1))
    datapath = path(row, from_port=slow)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(*[frame()] * 20)
        assert 5 <= len(vm.receive(20, 0.3)) <= 8
        found = counts(datapath)
        assert found["rx_rate"] + found["rx_passed"] == 20
        vm.send(*[from_vm()] * 20)  # the other direction is not limited
        assert len(outside.receive(20)) == 20


def test_the_group_limit_spares_what_is_for_the_vm_alone(row: Row) -> None:
    quiet = config.Direction(all=config.Limit(0, 1), group=config.Limit(rate=5, burst=2))
    broadcast = frame(destination="ff:ff:ff:ff:ff:ff", ethertype=0x0806)
    datapath = path(row, from_port=quiet)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(*[broadcast] * 10, *[frame()] * 10)
        got = vm.receive(20, 0.3)
        assert got.count(frame()) == 10
        assert 2 <= got.count(broadcast) <= 4
        assert counts(datapath)["rx_group_rate"] >= 6


def test_it_sleeps_when_no_more_frames_come(row: Row) -> None:
    datapath = path(row)
    with Running(datapath), row.socket("outside") as outside:
        # As often as makes it stay awake for the next one.
        for _ in range(300):
            outside.send(frame())
            time.sleep(100e-6)
        assert wait_for(lambda: counts(datapath)["rx_passed"] == 300)
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.4)
        assert time.process_time() - before < 0.1


def test_link_down_and_up_again(row: Row) -> None:
    datapath = path(row)
    with Running(datapath), row.socket("outside") as outside, row.socket("vm") as vm:
        ip("-n", row.appliance, "link", "set", "t0", "down")
        outside.send(frame())
        assert wait_for(lambda: counts(datapath).get("rx_down") == 1)
        ip("-n", row.appliance, "link", "set", "t0", "up")
        ip("-n", row.appliance, "link", "set", "m0", "down")
        ip("-n", row.appliance, "link", "set", "m0", "up")
        outside.send(frame())
        assert vm.receive() == [frame()]


def test_an_interface_that_vanishes_is_waited_for_and_another_of_its_name_ends_the_path(row: Row) -> None:
    """Sockets are bound and set up once, with privileges that the process then gives away: the next one binds anew."""
    datapath = path(row)
    ended: list[OSError] = []

    def run() -> None:
        try:
            datapath.run()
        except OSError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    ip("-n", row.appliance, "link", "del", "m0")
    with row.socket("vm") as vm:
        vm.send(from_vm())
        assert wait_for(lambda: counts(datapath).get("tx_down") == 1)
    assert thread.is_alive()
    row.join_outside()
    thread.join(3)  # the interface is looked for ten times a second
    assert [error.errno for error in ended] == [19]
    with Running(path(row)), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(frame())
        assert vm.receive() == [frame()]


def test_nothing_comes_back_to_where_it_came_from(row: Row) -> None:
    broadcast = frame(destination="ff:ff:ff:ff:ff:ff", ethertype=0x0806)
    with Running(path(row)), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(broadcast)
        assert vm.receive() == [broadcast]
        assert outside.receive(1, 0.3) == []


def test_a_missing_interface_is_an_error_with_its_number() -> None:
    with Row() as row, inside(row.appliance), pytest.raises(OSError, match="no such network interface") as caught:
        _core.ring("nosuch0", None, FROM_PORT)
    assert caught.value.errno == 19


def test_an_end_cannot_be_used_twice_nor_the_wrong_way_round(row: Row) -> None:
    with inside(row.appliance):
        port, vm = _core.ring("m0", None, FROM_PORT), _core.ring("t0", None, FROM_VM)
    with pytest.raises(ValueError, match="direction"):
        _core.Path(vm, port, packed())
    kept = _core.Path(port, vm, packed())
    with pytest.raises(ValueError, match="in use"):
        _core.Path(port, vm, packed())
    with pytest.raises(ValueError, match="policy of 120 bytes"):
        _core.Path(port, vm, packed()[:-1])
    del kept
