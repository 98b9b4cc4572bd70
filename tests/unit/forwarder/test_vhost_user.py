"""The vhost-user NIC: frames both ways, a front-end that comes and goes, and everything hostile that it may say."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backend.forwarder import counters
from tests.unit.forwarder import _testing
from tests.unit.forwarder import vhost_frontend as vhost
from tests.unit.forwarder.policies import FROM_PORT, FROM_VM, PEER_MAC, VM_MAC, Policy
from tests.unit.forwarder.vhost_frontend import RX, TX, Connection, Frontend, Region, Request

LIMIT = 64 * vhost.MIB


def frame(text: bytes = b"", size: int = 60, to_vm: bool = False, ethertype: bytes = b"\x08\x00") -> bytes:
    """An IPv4 datagram between the VM and somebody at the port."""
    addresses = VM_MAC + PEER_MAC if to_vm else PEER_MAC + VM_MAC
    body = text.ljust(size - len(addresses) - len(ethertype) - 20, b".")
    return (
        addresses
        + ethertype
        + b"\x45\0"
        + (20 + len(body)).to_bytes(2, "big")
        + bytes(4)
        + b"\x40\xfd"
        + bytes(10)
        + body
    )


class Port:
    """A path from a port in memory to a vhost-user NIC, running."""

    def __init__(self, folder: Path, offload: bool = True, max_frame: int = 65535) -> None:
        self.path = str(folder / "vhost.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(2)
        self.port = _testing.memory(256, 65553, FROM_PORT)
        self.vm = _testing.vhost_user(listener.fileno(), LIMIT, offload, FROM_VM)
        listener.close()
        self.run = _testing.Path(self.port, self.vm, Policy(max_frame=max_frame).pack())
        self.thread = threading.Thread(target=self.run.run)
        self.thread.start()
        self.frontends: list[Frontend] = []

    def frontend(self, **settings: int) -> Frontend:
        """A front-end that is connected, no more."""
        made = Frontend(self.path, **settings)
        self.frontends.append(made)
        return made

    def arrived(self, timeout_ms: int = 3000) -> list[bytes]:
        """What came out of the port."""
        return _testing.memory_collect(self.port, 64, timeout_ms)

    def inject(self, data: bytes, *rest: object) -> None:
        """A frame that comes in at the port."""
        assert _testing.memory_inject(self.port, data, *rest)  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """Of the NIC."""
        return dict(_testing.vhost_user_state(self.vm))

    def counted(self, direction: int, verdict: str) -> int:
        """Frames of a verdict."""
        return self.run.counters()[direction][counters.VERDICTS.index(verdict)][0]

    def close(self) -> None:
        """Stop, hang up."""
        self.run.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()
        for frontend in self.frontends:
            frontend.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    made = Port(tmp_path)
    yield made
    made.close()


def eventually(condition: Callable[[], bool], seconds: float = 3) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def still_works(port: Port) -> None:
    """The positive control after every attack: a decent front-end gets its frames through."""
    guest = port.frontend().start()
    guest.give_buffers(8)
    guest.transmit(frame(b"after"))
    assert port.arrived() == [frame(b"after")]
    port.inject(frame(b"back", to_vm=True))
    assert [data for _, data in guest.receive()] == [frame(b"back", to_vm=True)]


def refused(port: Port, reason: str) -> None:
    """The port was stopped for that one reason, and can be used again."""
    assert eventually(lambda: port.state()["faults"] == {reason: 1}), port.state()
    assert not port.vm.up()
    assert port.state()["last_fault"]
    still_works(port)
    assert port.state()["faults"] == {reason: 1}


EVENT_INDEX = [vhost.EVENT_IDX, 0]


@pytest.mark.parametrize("event_index", EVENT_INDEX)
@pytest.mark.parametrize("mergeable", [vhost.MRG_RXBUF, 0])
def test_frames_go_both_ways(port: Port, event_index: int, mergeable: int) -> None:
    guest = port.frontend(features=vhost.VERSION_1 | vhost.PROTOCOL_FEATURES | event_index | mergeable).start()
    guest.give_buffers(32)
    for i in range(200):
        text = b"frame %d" % i
        guest.transmit(frame(text, 60 + i), head=i % 64)
        assert port.arrived() == [frame(text, 60 + i)]
        assert guest.tx.wait_used() == [(i % 64, 0)]
        port.inject(frame(text, 60 + i, to_vm=True))
        [(header, data)] = guest.receive()
        assert data == frame(text, 60 + i, to_vm=True)
        assert header == (0, 0, 0, 0, 0, 0, 1)
    assert port.vm.up()
    assert port.state()["faults"] == {}


@pytest.mark.parametrize("pieces", [1, 2, 5, 20])
def test_a_chain_is_put_together(port: Port, pieces: int) -> None:
    guest = port.frontend().start()
    data = frame(bytes(range(256)) * 4, 1500)
    guest.transmit(data, pieces=pieces)
    assert port.arrived() == [data]


@pytest.mark.parametrize("split", [1, 11, 12, 13, 26, 100, 172, 173, 400])
def test_where_a_chain_is_split_does_not_matter(port: Port, split: int) -> None:
    guest = port.frontend().start()
    data = frame(b"split", 500)
    at = guest.place(vhost.NO_HEADER + data)
    guest.tx.describe(3, at, split, vhost.NEXT, 9)
    guest.tx.describe(9, at + split, len(data) + 12 - split)
    guest.tx.offer(3)
    guest.tx.publish()
    assert port.arrived() == [data]


@pytest.mark.parametrize("before", [0, 1])
def test_an_indirect_table_is_followed(port: Port, before: int) -> None:
    guest = port.frontend().start()
    data = vhost.NO_HEADER + frame(b"indirect", 300)
    at = guest.place(data)
    rest = 12 * before
    table = guest.place(
        vhost.DESCRIPTOR.pack(at + rest, 50, vhost.NEXT, 1) + vhost.DESCRIPTOR.pack(at + rest + 50, 262 - rest, 0, 0)
    )
    guest.tx.describe(0, at, 12, vhost.NEXT, 5)
    guest.tx.describe(5, table, 32, vhost.INDIRECT)
    guest.tx.offer(0 if before else 5)
    guest.tx.publish()
    assert port.arrived() == [data[12:]]


def test_a_large_frame_takes_several_buffers(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(40, 512)
    data = frame(bytes(range(256)) * 40, 9000, to_vm=True)
    port.inject(data)
    [(header, got)] = guest.receive()
    assert got == data
    assert header[6] == -(-(len(data) + 12) // 512)


def test_a_large_frame_that_does_not_fit_gives_the_buffers_back(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(4, 512)
    port.inject(frame(b"large", 9000, to_vm=True))
    assert eventually(lambda: port.counted(FROM_PORT, "no_buffer") == 1)
    assert guest.rx.used_index() == 0
    port.inject(frame(b"small", to_vm=True))
    guest.give_buffers(30, 512)
    [(_, data)] = guest.receive()
    assert data == frame(b"small", to_vm=True)


def test_without_mergeable_buffers_a_frame_too_long_is_dropped(port: Port) -> None:
    guest = port.frontend(features=vhost.VERSION_1 | vhost.PROTOCOL_FEATURES).start()
    guest.give_buffers(8, 512)
    port.inject(frame(b"large", 501, to_vm=True))
    port.inject(frame(b"fits", 500, to_vm=True))
    [(_, data)] = guest.receive()
    assert data == frame(b"fits", 500, to_vm=True)
    assert port.counted(FROM_PORT, "oversized") == 1


def test_frames_wait_for_a_guest_without_buffers(port: Port) -> None:
    guest = port.frontend().start()
    assert eventually(port.vm.up)
    for i in range(20):
        port.inject(frame(b"%d" % i, to_vm=True))
    time.sleep(0.05)
    assert port.counted(FROM_PORT, "passed") == 0
    guest.give_buffers(4)
    got: list[bytes] = []
    while len(got) < 20:
        more = guest.receive()
        assert more
        got += [data for _, data in more]
    assert got == [frame(b"%d" % i, to_vm=True) for i in range(20)]
    assert port.counted(FROM_PORT, "no_buffer") == 0


def test_a_tag_beside_the_frame_is_put_back(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(4)
    data = frame(b"tagged", to_vm=True)
    port.inject(data, None, (0x8100, 42))
    [(_, got)] = guest.receive()
    assert got == data[:12] + b"\x81\x00\x00\x2a" + data[12:]


def test_the_ring_goes_round(port: Port) -> None:
    """More frames than a 16-bit index counts."""
    guest = port.frontend(size=256).start()
    for queue in guest.queues:
        queue.next = queue.seen = 65500
        queue.put_word(queue.available + 2, 65500)
        queue.put_word(queue.used + 2, 65500)
        queue.put_word(queue.available + 4 + 2 * queue.size, 65500)
    guest.reconnect()
    guest.give_buffers(16)
    for i in range(100):
        guest.transmit(frame(b"%d" % i), head=i)
        assert port.arrived() == [frame(b"%d" % i)]
        port.inject(frame(b"%d" % i, to_vm=True))
        assert [data for _, data in guest.receive()] == [frame(b"%d" % i, to_vm=True)]
    assert guest.rx.used_index() == (65500 + 100) & 0xFFFF
    assert port.state()["faults"] == {}


def test_interrupts_come_once_for_a_batch(port: Port) -> None:
    guest = port.frontend(features=vhost.VERSION_1 | vhost.PROTOCOL_FEATURES, size=64).start()
    before = int(port.state()["signals"])
    for i in range(40):
        at = guest.place(vhost.NO_HEADER + frame(b"%d" % i))
        guest.tx.describe(i, at, 72)
        guest.tx.offer(i)
    guest.tx.publish()
    assert len(guest.tx.wait_used(40)) == 40
    assert int(port.state()["signals"]) - before == 1


def test_no_interrupt_that_is_not_wanted(port: Port) -> None:
    guest = port.frontend(features=vhost.VERSION_1 | vhost.PROTOCOL_FEATURES).start()
    guest.tx.put_word(guest.tx.available, 1)
    guest.transmit(frame())
    assert port.arrived()
    assert guest.tx.wait_used(by_call=False)
    assert port.state()["signals"] == 0


# A front-end that comes and goes.


def test_nothing_goes_anywhere_before_the_rings_run(port: Port) -> None:
    assert not port.vm.up()
    port.inject(frame(to_vm=True))
    assert eventually(lambda: port.counted(FROM_PORT, "down") == 1)
    guest = port.frontend()
    guest.negotiate()
    guest.share()
    port.inject(frame(to_vm=True))
    assert eventually(lambda: port.counted(FROM_PORT, "down") == 2)


def test_a_disabled_ring_discards(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(4)
    guest.enable(TX, False)
    guest.enable(RX, False)
    assert not port.vm.up()
    guest.transmit(frame(b"discarded"))
    assert guest.tx.wait_used() == [(0, 0)]
    port.inject(frame(to_vm=True))
    assert eventually(lambda: port.counted(FROM_PORT, "down") == 1 and port.counted(FROM_VM, "down") == 1)
    guest.enable(TX)
    guest.enable(RX)
    guest.transmit(frame(b"enabled"))
    assert port.arrived() == [frame(b"enabled")]


def test_a_driver_that_resets_begins_anew(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(4)
    guest.transmit(frame(b"one"))
    assert port.arrived()
    assert guest.tx.wait_used()
    assert guest.stop() == [0, 1]
    assert not port.vm.up()
    for queue in guest.queues:
        guest.memory[queue.base : queue.base + queue.bytes(queue.size)] = bytes(queue.bytes(queue.size))
        queue.next = queue.seen = 0
    for index in (RX, TX):
        guest.address_queue(index)
        guest.start_queue(index)
    guest.give_buffers(4)
    guest.transmit(frame(b"two"))
    assert port.arrived() == [frame(b"two")]


def test_a_guest_goes_on_where_it_was_after_the_front_end_reconnects(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(8)
    for i in range(5):
        guest.transmit(frame(b"%d" % i))
        assert port.arrived() == [frame(b"%d" % i)]
    guest.reconnect()
    port.inject(frame(b"still", to_vm=True))
    assert [data for _, data in guest.receive()] == [frame(b"still", to_vm=True)]
    guest.transmit(frame(b"there"))
    assert port.arrived() == [frame(b"there")]
    assert port.state()["connections"] == 2
    assert port.state()["disconnections"] == 1


def test_a_forwarder_that_restarts_takes_up_the_rings(tmp_path: Path) -> None:
    first = Port(tmp_path)
    guest = first.frontend().start()
    guest.give_buffers(8)
    guest.transmit(frame(b"one"))
    assert first.arrived() == [frame(b"one")]
    first.frontends.clear()
    first.close()
    del first
    guest.transmit(frame(b"meanwhile"), head=1)
    os.unlink(guest.path)
    second = Port(tmp_path)
    second.frontends.append(guest)
    try:
        guest.reconnect()
        assert second.arrived() == [frame(b"meanwhile")]
        second.inject(frame(b"on", to_vm=True))
        assert [data for _, data in guest.receive()] == [frame(b"on", to_vm=True)]
    finally:
        second.close()


def test_a_second_front_end_is_refused_and_disturbs_nobody(port: Port) -> None:
    guest = port.frontend().start()
    second = Connection(port.path)
    assert second.closed()
    second.close()
    assert port.state()["refused"] == 1
    guest.transmit(frame(b"first"))
    assert port.arrived() == [frame(b"first")]


def test_memory_may_be_told_anew_while_the_rings_run(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(4)
    half = guest.memory_size // 2
    regions = [Region(0, half, vhost.USER), Region(half, half, vhost.USER + half, half)]
    guest.connection.send(
        Request.SET_MEM_TABLE,
        struct.pack("<II", 2, 0) + b"".join(region.pack() for region in regions),
        (guest.file, guest.file),
        flags=9,
    )
    assert guest.connection.receive()[2] == bytes(8)
    guest.transmit(frame(b"moved"))
    assert port.arrived() == [frame(b"moved")]


def test_what_is_offered(port: Port, tmp_path: Path) -> None:
    base = vhost.VERSION_1 | vhost.PROTOCOL_FEATURES | vhost.MRG_RXBUF | vhost.INDIRECT_DESC | vhost.EVENT_IDX
    offload = vhost.CSUM | vhost.GUEST_CSUM | vhost.HOST_TSO4 | vhost.HOST_TSO6 | vhost.HOST_ECN
    offload |= vhost.GUEST_TSO4 | vhost.GUEST_TSO6 | vhost.GUEST_ECN
    assert port.frontend().negotiate() == base | offload
    (tmp_path / "plain").mkdir()
    plain = Port(tmp_path / "plain", offload=False)
    try:
        assert plain.frontend().negotiate() == base
    finally:
        plain.close()


# Hostile messages.

SIZES = {
    Request.GET_FEATURES: 0,
    Request.SET_FEATURES: 8,
    Request.SET_OWNER: 0,
    Request.RESET_OWNER: 0,
    Request.SET_MEM_TABLE: 40,
    Request.SET_VRING_NUM: 8,
    Request.SET_VRING_ADDR: 40,
    Request.SET_VRING_BASE: 8,
    Request.GET_VRING_BASE: 8,
    Request.SET_VRING_KICK: 8,
    Request.SET_VRING_CALL: 8,
    Request.SET_VRING_ERR: 8,
    Request.GET_PROTOCOL_FEATURES: 0,
    Request.SET_PROTOCOL_FEATURES: 8,
    Request.GET_QUEUE_NUM: 0,
    Request.SET_VRING_ENABLE: 8,
    Request.SEND_RARP: 8,
}


@pytest.mark.parametrize("request_", SIZES)
@pytest.mark.parametrize("delta", [-8, -1, 1, 8])
def test_a_message_of_the_wrong_size(port: Port, request_: Request, delta: int) -> None:
    size = SIZES[request_] + delta
    if size < 0:
        pytest.skip("there is no message shorter than its header")
    files = (0,) if request_ == Request.SET_MEM_TABLE else ()
    payload = (b"\1" + bytes(7) + bytes(300))[:size] if request_ == Request.SET_MEM_TABLE else bytes(size)
    guest = port.frontend()
    guest.connection.send(request_, payload, files)
    assert guest.connection.closed()
    refused(port, "size")


def fewer_descriptors_than(number: int) -> bool:
    return len(os.listdir("/proc/self/fd")) < number


@pytest.mark.parametrize("request_", SIZES)
def test_a_message_with_the_wrong_number_of_descriptors(port: Port, request_: Request) -> None:
    guest = port.frontend()
    payload = bytes(SIZES[request_])
    if request_ == Request.SET_MEM_TABLE:
        payload = struct.pack("<II", 1, 0) + guest.region().pack()
    for files in ((0, 0), *(((),) if request_ in (5, 12, 13, 14) else ((0,),))):
        connection = Connection(port.path) if files != (0, 0) else guest.connection
        before = len(os.listdir("/proc/self/fd"))
        connection.send(request_, payload, files)
        assert connection.closed()
        connection.close()
        # The forwarder may close what was sent along only after the connection.
        assert eventually(partial(fewer_descriptors_than, before))
    assert port.state()["faults"] == {"descriptors": 2}
    still_works(port)


def test_more_descriptors_than_any_message_has(port: Port) -> None:
    guest = port.frontend()
    before = len(os.listdir("/proc/self/fd"))
    guest.connection.send(Request.SET_OWNER, b"", (0,) * 100)
    assert guest.connection.closed()
    guest.connection.close()
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) < before)
    refused(port, "descriptors")


def test_descriptors_in_the_middle_of_a_message(port: Port) -> None:
    guest = port.frontend()
    guest.connection.raw(struct.pack("<III", Request.SET_VRING_CALL, 1, 8))
    guest.connection.raw(bytes(8), (0,))
    assert guest.connection.closed()
    refused(port, "descriptors")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((1, 0, 0), "message"),
        ((1, 2, 0), "message"),
        ((1, 5, 0), "message"),
        ((1, 0x11, 0), "message"),
        ((0, 1, 0), "request"),
        ((Request.SET_LOG_BASE, 1, 16), "request"),
        ((Request.SET_VRING_ENDIAN, 1, 8), "request"),
        ((Request.ADD_MEM_REG, 1, 40), "request"),
        ((0xFFFFFFFF, 1, 0), "request"),
        ((Request.SET_FEATURES, 1, 265), "size"),
        ((Request.SET_FEATURES, 1, 0xFFFFFFFF), "size"),
    ],
)
def test_a_bad_header(port: Port, header: tuple[int, int, int], reason: str) -> None:
    guest = port.frontend()
    guest.connection.raw(struct.pack("<III", *header) + bytes(header[2] if header[2] < 100 else 0))
    assert guest.connection.closed()
    refused(port, reason)


def test_a_message_may_come_byte_by_byte(port: Port) -> None:
    guest = port.frontend()
    for byte in struct.pack("<III", Request.GET_FEATURES, 1, 0):
        guest.connection.raw(bytes([byte]))
        time.sleep(0.001)
    assert guest.connection.receive()[0] == Request.GET_FEATURES
    guest.start()
    for byte in struct.pack("<IIIQ", Request.SET_FEATURES, 9, 8, guest.features):
        guest.connection.raw(bytes([byte]))
    assert guest.connection.receive()[0] == Request.SET_FEATURES


def test_a_message_that_never_ends_keeps_nobody_waiting(port: Port) -> None:
    guest = port.frontend().start()
    guest.connection.raw(struct.pack("<III", Request.SET_FEATURES, 1, 8)[:7])
    for i in range(20):
        guest.transmit(frame(b"%d" % i))
        assert port.arrived() == [frame(b"%d" % i)]
    guest.connection.close()
    guest.connection = Connection(port.path)
    assert eventually(lambda: port.state()["disconnections"] == 1)
    guest.close()
    port.frontends.clear()
    still_works(port)


def test_replies_that_nobody_reads_keep_nobody_waiting(port: Port) -> None:
    guest = port.frontend()
    guest.connection.socket.settimeout(3)
    message = struct.pack("<III", Request.GET_FEATURES, 1, 0) * 1000
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        guest.connection.socket.sendall(message * 1000)
    refused(port, "socket")


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (vhost.VERSION_1 | vhost.CTRL_VQ, "features"),
        (vhost.VERSION_1 | 1 << 26, "features"),
        (vhost.VERSION_1 | 1 << 34, "features"),
        (vhost.VERSION_1 | 1 << 63, "features"),
        (vhost.PROTOCOL_FEATURES | vhost.MRG_RXBUF, "legacy"),
        (0, "legacy"),
    ],
)
def test_features_that_were_not_offered(port: Port, features: int, reason: str) -> None:
    guest = port.frontend()
    guest.connection.send(Request.SET_FEATURES, struct.pack("<Q", features))
    assert guest.connection.closed()
    refused(port, reason)


def test_rings_may_be_enabled_before_the_features_are_set(port: Port) -> None:
    """QEMU does so when the device is plugged."""
    guest = port.frontend()
    guest.connection.send(Request.SET_VRING_CALL, struct.pack("<Q", TX), (guest.tx.call,))
    guest.connection.send(Request.SET_VRING_ENABLE, struct.pack("<II", TX, 1))
    guest.start()
    guest.transmit(frame(b"enabled early"))
    assert port.arrived() == [frame(b"enabled early")]


def test_offloads_that_were_switched_off_cannot_be_negotiated(tmp_path: Path) -> None:
    plain = Port(tmp_path, offload=False)
    try:
        guest = plain.frontend()
        guest.connection.send(Request.SET_FEATURES, struct.pack("<Q", vhost.VERSION_1 | vhost.CSUM))
        assert guest.connection.closed()
        refused(plain, "features")
    finally:
        plain.close()


@pytest.mark.parametrize("protocol", [1 << 1, 1 << 5, 1 << 15, 1 << 63])
def test_protocol_features_that_were_not_offered(port: Port, protocol: int) -> None:
    guest = port.frontend()
    guest.connection.send(Request.SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
    assert guest.connection.closed()
    refused(port, "features")


# Hostile memory.

PAGE = 4096
TOP = 1 << 64


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([Region(0, 0, 0)], "memory_range"),
        ([Region(0, PAGE + 1, 0)], "memory_range"),
        ([Region(1, PAGE, 0)], "memory_range"),
        ([Region(0, PAGE, 1)], "memory_range"),
        ([Region(0, PAGE, 0, 1)], "memory_range"),
        ([Region(TOP - PAGE, PAGE, 0)], "memory_range"),
        ([Region(TOP - PAGE, 2 * PAGE, 0)], "memory_range"),
        ([Region(0, PAGE, TOP - PAGE)], "memory_range"),
        ([Region(0, PAGE, 0, TOP - PAGE)], "memory_range"),
        ([Region(0, PAGE, 0, (1 << 63) - PAGE)], "memory_range"),
        ([Region(0, 5 * vhost.MIB, 0)], "memory_range"),
        ([Region(0, 4 * vhost.MIB, 0, PAGE)], "memory_range"),
        ([Region(0, LIMIT + PAGE, 0)], "memory_limit"),
        ([Region(0, TOP - PAGE, 0)], "memory_limit"),
        ([Region(0, 2 * PAGE, 0), Region(PAGE, PAGE, 8 * PAGE)], "memory_range"),
        ([Region(0, 2 * PAGE, 0), Region(8 * PAGE, PAGE, PAGE)], "memory_range"),
        ([Region(8 * PAGE, PAGE, 0), Region(0, 32 * PAGE, 64 * PAGE)], "memory_range"),
        ([Region(i * PAGE, PAGE, i * PAGE) for i in range(9)], "size"),
    ],
)
def test_bad_regions(port: Port, regions: list[Region], reason: str) -> None:
    guest = port.frontend()
    payload = struct.pack("<II", len(regions), 0) + b"".join(region.pack() for region in regions)
    guest.connection.send(Request.SET_MEM_TABLE, payload, (guest.file,) * min(len(regions), 8))
    assert guest.connection.closed()
    refused(port, reason)


def test_regions_in_number_only(port: Port) -> None:
    guest = port.frontend()
    guest.connection.send(
        Request.SET_MEM_TABLE, struct.pack("<II", 0xFFFFFFFF, 0) + guest.region().pack(), (guest.file,)
    )
    assert guest.connection.closed()
    refused(port, "memory_limit")


def test_eight_regions_are_allowed(port: Port) -> None:
    guest = port.frontend()
    regions = [Region(i * PAGE, PAGE, i * PAGE, i * PAGE) for i in range(8)]
    payload = struct.pack("<II", 8, 0) + b"".join(region.pack() for region in regions)
    guest.connection.send(Request.SET_MEM_TABLE, payload, (guest.file,) * 8)
    guest.connection.ask(Request.GET_FEATURES)
    assert port.state()["faults"] == {}


def files_that_are_no_memory(folder: Path) -> list[int]:
    plain = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(plain, 4 * vhost.MIB)
    return [vhost.memfd(4 * vhost.MIB, 0), plain, os.open("/dev/zero", os.O_RDWR), os.eventfd(0)]


@pytest.mark.parametrize("kind", range(4))
def test_memory_that_is_not_sealed(port: Port, tmp_path: Path, kind: int) -> None:
    guest = port.frontend()
    files = files_that_are_no_memory(tmp_path)
    guest.connection.send(Request.SET_MEM_TABLE, struct.pack("<II", 1, 0) + guest.region().pack(), (files[kind],))
    for file in files:
        os.close(file)
    assert guest.connection.closed()
    refused(port, "memory_seal")


# Hostile rings.


def addresses(**changed: int) -> tuple[int, int, int]:
    """Table, used, available: as they should be, but for what is changed."""
    usual = {"table": 0, "used": 2 * PAGE, "available": PAGE} | changed
    return tuple(vhost.USER + usual[name] for name in ("table", "used", "available"))  # type: ignore[return-value]


END = 4 * vhost.MIB


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": END},
        {"table": END - 16},
        {"table": END - 64 * 16 + 16},
        {"table": -16},
        {"table": 8},
        {"used": END - 4},
        {"used": END - 512},
        {"used": 2},
        {"available": END - 128},
        {"available": 1},
        {"available": TOP - vhost.USER - 2},
    ],
)
def test_rings_outside_the_memory(port: Port, wrong: dict[str, int]) -> None:
    guest = port.frontend()
    guest.negotiate()
    guest.share()
    guest.connection.send(Request.SET_VRING_NUM, struct.pack("<II", RX, 64))
    guest.connection.send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", RX, 0, *addresses(**wrong), 0))
    guest.start_queue(RX)
    assert guest.connection.closed()
    refused(port, "queue_address")


def test_rings_at_the_very_end_of_the_memory(port: Port) -> None:
    guest = port.frontend()
    guest.negotiate()
    guest.share()
    guest.connection.send(Request.SET_VRING_NUM, struct.pack("<II", RX, 64))
    guest.connection.send(
        Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", RX, 0, *addresses(table=END - 1024, used=END - 2048), 0)
    )
    guest.start_queue(RX)
    guest.connection.ask(Request.GET_FEATURES)
    assert port.state()["faults"] == {}


@pytest.mark.parametrize("size", [0, 3, 63, 2048, 0x10000, 0x80000000, 0xFFFFFFFF])
def test_bad_queue_sizes(port: Port, size: int) -> None:
    guest = port.frontend()
    guest.connection.send(Request.SET_VRING_NUM, struct.pack("<II", RX, size))
    assert guest.connection.closed()
    refused(port, "queue_size")


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (Request.SET_VRING_NUM, struct.pack("<II", 2, 64)),
        (Request.SET_VRING_BASE, struct.pack("<II", 2, 0)),
        (Request.GET_VRING_BASE, struct.pack("<II", 0xFFFFFFFF, 0)),
        (Request.SET_VRING_ENABLE, struct.pack("<II", 2, 1)),
        (Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", 2, 0, 0, 0, 0, 0)),
        (Request.SET_VRING_CALL, struct.pack("<Q", 0x102)),
        (Request.SET_VRING_KICK, struct.pack("<Q", 0x300)),
        (Request.SET_VRING_ERR, struct.pack("<Q", 1 << 63 | 0x100)),
    ],
)
def test_a_queue_that_does_not_exist(port: Port, request_: Request, payload: bytes) -> None:
    guest = port.frontend()
    guest.connection.send(Request.SET_FEATURES, struct.pack("<Q", guest.features))
    guest.connection.send(request_, payload)
    assert guest.connection.closed()
    refused(port, "queue")


@pytest.mark.parametrize(
    "order",
    [(), ("features",), ("features", "num"), ("features", "addr"), ("num", "addr"), ("features", "num", "addr")],
)
def test_a_ring_that_is_started_too_early(port: Port, order: tuple[str, ...]) -> None:
    guest = port.frontend()
    if "features" in order:
        guest.connection.send(Request.SET_FEATURES, struct.pack("<Q", guest.features))
    if "num" in order:
        guest.connection.send(Request.SET_VRING_NUM, struct.pack("<II", RX, 64))
    if "addr" in order:
        guest.connection.send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", RX, 0, *addresses(), 0))
    guest.start_queue(RX)
    assert guest.connection.closed()
    refused(port, "queue_address" if len(order) == 3 else "order")


@pytest.mark.parametrize("request_", [Request.SET_VRING_NUM, Request.SET_VRING_BASE])
def test_a_running_ring_does_not_change_its_size_or_place(port: Port, request_: Request) -> None:
    guest = port.frontend().start()
    guest.connection.send(request_, struct.pack("<II", TX, 32))
    assert guest.connection.closed()
    refused(port, "order")


def test_a_running_device_does_not_change_its_features(port: Port) -> None:
    guest = port.frontend().start()
    guest.connection.send(Request.SET_FEATURES, struct.pack("<Q", guest.features & ~vhost.MRG_RXBUF))
    assert guest.connection.closed()
    refused(port, "order")


def test_rings_that_lose_their_memory(port: Port) -> None:
    guest = port.frontend().start()
    guest.give_buffers(4)
    guest.connection.send(Request.SET_MEM_TABLE, struct.pack("<II", 0, 0))
    assert guest.connection.closed()
    refused(port, "queue_address")


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL])
@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "epoll"])
def test_a_knocker_that_is_no_eventfd(port: Port, tmp_path: Path, request_: Request, kind: str) -> None:
    import select

    if (request_, kind) == (Request.SET_VRING_CALL, "epoll"):
        pytest.skip("found out only when it is used: see the next test")
    ends = list(os.pipe())
    ends += [end.detach() for end in socket.socketpair()]
    ends += [os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), select.epoll().fileno()]
    epoll = select.epoll()
    file = {"pipe": ends[0], "socket": ends[2], "file": ends[4], "epoll": epoll.fileno()}[kind]
    guest = port.frontend()
    guest.negotiate()
    guest.share()
    guest.address_queue(TX)
    guest.connection.send(request_, struct.pack("<Q", TX), (file,))
    assert guest.connection.closed()
    for end in ends[:5]:
        os.close(end)
    refused(port, "queue_event")


def test_no_kick_at_all(port: Port) -> None:
    guest = port.frontend()
    guest.negotiate()
    guest.share()
    guest.address_queue(TX)
    guest.connection.send(Request.SET_VRING_KICK, struct.pack("<Q", 0x100 | TX))
    assert guest.connection.closed()
    refused(port, "queue_event")


def test_a_full_call_eventfd_keeps_nobody_waiting(port: Port) -> None:
    guest = port.frontend().start()
    os.eventfd_write(guest.tx.call, 0xFFFFFFFFFFFFFFFE - 10)
    for i in range(30):
        guest.transmit(frame(b"%d" % i))
        assert port.arrived() == [frame(b"%d" % i)]
        guest.tx.take_used()
    assert port.state()["faults"] == {}


def test_a_kick_eventfd_that_blocks_keeps_nobody_waiting(port: Port) -> None:
    guest = port.frontend().start()
    os.set_blocking(guest.tx.kick, True)
    for i in range(30):
        guest.transmit(frame(b"%d" % i))
        assert port.arrived() == [frame(b"%d" % i)]


Attack = Callable[[Frontend], None]


def chain(*descriptors: tuple[int, int, int, int], index: int = TX, head: int = 0) -> Attack:
    """Descriptors from 0 on, and the chain that begins at ``head``."""

    def attack(guest: Frontend) -> None:
        for i, descriptor in enumerate(descriptors):
            guest.queues[index].describe(i, *descriptor)
        guest.queues[index].offer(head)
        guest.queues[index].publish()

    return attack


def indirect(table: bytes, length: int | None = None, flags: int = vhost.INDIRECT) -> Attack:
    """A chain in an indirect table."""

    def attack(guest: Frontend) -> None:
        at = guest.place(table)
        guest.tx.describe(0, at, len(table) if length is None else length, flags)
        guest.tx.offer(0)
        guest.tx.publish()

    return attack


def jump(ahead: int, index: int = TX) -> Attack:
    def attack(guest: Frontend) -> None:
        guest.queues[index].put_word(guest.queues[index].available + 2, guest.queues[index].next + ahead)
        os.eventfd_write(guest.queues[index].kick, 1)

    return attack


NEXT, WRITE, INDIRECT = vhost.NEXT, vhost.WRITE, vhost.INDIRECT
GOOD = (vhost.MIB, 100, 0, 0)
packed = vhost.DESCRIPTOR.pack

FROM_GUEST: list[tuple[str, Attack, str]] = [
    ("available index a ring and one ahead", jump(65), "available"),
    ("available index far ahead", jump(40000), "available"),
    ("available index behind", jump(-1), "available"),
    ("head outside", chain(GOOD, head=64), "chain_index"),
    ("head far outside", chain(GOOD, head=0xFFFF), "chain_index"),
    ("next outside", chain((vhost.MIB, 20, NEXT, 64)), "chain_index"),
    ("empty buffer", chain((vhost.MIB, 0, 0, 0)), "chain_length"),
    ("empty buffer in the middle", chain((vhost.MIB, 60, NEXT, 1), (0, 0, NEXT, 2), GOOD), "chain_length"),
    ("buffer beyond the end", chain((END - 10, 100, 0, 0)), "chain_address"),
    ("buffer of 4 GiB", chain((vhost.MIB, 0xFFFFFFFF, 0, 0)), "chain_address"),
    ("buffer that wraps", chain((TOP - 50, 100, 0, 0)), "chain_address"),
    ("buffer nowhere", chain((1 << 40, 100, 0, 0)), "chain_address"),
    ("buffer at the front-end's address", chain((vhost.USER, 100, 0, 0)), "chain_address"),
    ("buffer to write", chain((vhost.MIB, 100, WRITE, 0)), "chain_direction"),
    ("buffer to write, later", chain((vhost.MIB, 100, NEXT, 1), (vhost.MIB, 9, WRITE, 0)), "chain_direction"),
    ("indirect in indirect", indirect(packed(vhost.MIB, 16, INDIRECT, 0)), "chain_indirect"),
    ("indirect of no length", indirect(packed(*GOOD), 0), "chain_indirect"),
    ("indirect of odd length", indirect(packed(*GOOD), 17), "chain_indirect"),
    ("indirect too large", indirect(packed(*GOOD), 16 * 1025), "chain_indirect"),
    ("indirect that goes on", indirect(packed(*GOOD), flags=INDIRECT | NEXT), "chain_indirect"),
    ("indirect nowhere", chain((END - 16, 32, INDIRECT, 0)), "chain_address"),
    ("indirect loop of one", indirect(packed(vhost.MIB, 20, NEXT, 0)), "chain_loop"),
    ("indirect loop of two", indirect(packed(vhost.MIB, 1, NEXT, 1) + packed(vhost.MIB, 1, NEXT, 0)), "chain_loop"),
    ("indirect next outside", indirect(packed(vhost.MIB, 1, NEXT, 1)), "chain_index"),
]


@pytest.mark.parametrize(("attack", "reason"), [row[1:] for row in FROM_GUEST], ids=[row[0] for row in FROM_GUEST])
def test_a_bad_chain_to_send(port: Port, attack: Attack, reason: str) -> None:
    guest = port.frontend().start()
    guest.transmit(frame(b"before"), head=10)
    assert port.arrived() == [frame(b"before")]
    attack(guest)
    assert guest.connection.closed()
    refused(port, reason)


TO_GUEST: list[tuple[str, Attack, str]] = [
    ("available index ahead", jump(65, RX), "available"),
    ("head outside", chain((vhost.MIB, 2048, WRITE, 0), index=RX, head=64), "chain_index"),
    ("buffer to read", chain((vhost.MIB, 2048, 0, 0), index=RX), "chain_direction"),
    ("buffer nowhere", chain((END, 2048, WRITE, 0), index=RX), "chain_address"),
    ("no room for the header", chain((vhost.MIB, 11, WRITE, 0), index=RX), "chain_length"),
    ("empty", chain((vhost.MIB, 0, WRITE, 0), index=RX), "chain_length"),
]


@pytest.mark.parametrize(("attack", "reason"), [row[1:] for row in TO_GUEST], ids=[row[0] for row in TO_GUEST])
def test_a_bad_buffer_to_receive(port: Port, attack: Attack, reason: str) -> None:
    guest = port.frontend().start()
    attack(guest)
    port.inject(frame(to_vm=True))
    assert guest.connection.closed()
    refused(port, reason)
    assert port.counted(FROM_PORT, "down") == 1


def test_an_indirect_table_that_was_not_negotiated(port: Port) -> None:
    guest = port.frontend(features=vhost.VERSION_1 | vhost.PROTOCOL_FEATURES).start()
    indirect(packed(*GOOD))(guest)
    assert guest.connection.closed()
    refused(port, "chain_indirect")


def test_a_range_across_two_regions(port: Port) -> None:
    guest = port.frontend()
    guest.negotiate()
    half = guest.memory_size // 2
    regions = [Region(0, half, vhost.USER), Region(half, half, vhost.USER + 4 * half, half)]
    guest.connection.send(
        Request.SET_MEM_TABLE,
        struct.pack("<II", 2, 0) + b"".join(region.pack() for region in regions),
        (guest.file, guest.file),
    )
    guest.address_queue(TX)
    guest.start_queue(TX)
    guest.enable(TX)
    chain((half - 50, 100, 0, 0))(guest)
    assert guest.connection.closed()
    refused(port, "chain_address")


def test_frames_taken_before_a_bad_chain_are_not_lost(port: Port) -> None:
    guest = port.frontend().start()
    data = frame(b"good", 1000)
    guest.tx.describe(0, guest.place(vhost.NO_HEADER + data), 1012)
    guest.tx.describe(1, END, 100)
    guest.tx.offer(0)
    guest.tx.offer(1)
    guest.tx.publish()
    assert port.arrived() == [data]
    refused(port, "chain_address")


@pytest.mark.parametrize(
    ("length", "verdict"), [(1, "runt"), (12, "runt"), (25, "runt"), (12 + 65554, "oversized"), (200000, "oversized")]
)
def test_a_chain_that_is_no_frame_is_dropped_only(port: Port, length: int, verdict: str) -> None:
    guest = port.frontend().start()
    chain((vhost.MIB, length, 0, 0))(guest)
    assert guest.tx.wait_used() == [(0, 0)]
    assert port.counted(FROM_VM, verdict) == 1
    guest.transmit(frame(b"next"))
    assert port.arrived() == [frame(b"next")]


PIECES = 24  # CHAIN_PARTS of core/virtqueue.h


def pieces(last: tuple[int, int, int, int]) -> Attack:
    """`PIECES` good descriptors of one byte each, and ``last`` behind them."""
    return chain(*((vhost.MIB + i, 1, NEXT, i + 1) for i in range(PIECES)), last)


LONG: list[tuple[str, Attack]] = [
    ("honest", lambda guest: guest.transmit(frame(size=1500), pieces=40)),
    ("loop of one", chain((vhost.MIB, 20, NEXT, 0))),
    ("loop of two", chain((vhost.MIB, 1, NEXT, 1), (vhost.MIB, 1, NEXT, 0))),
    # What is wrong behind the last piece that a frame may have shows that nobody went there.
    ("nowhere", pieces((END, 1, 0, 0))),
    ("next outside", pieces((vhost.MIB, 1, NEXT, 64))),
    ("to write", pieces((vhost.MIB, 1, WRITE, 0))),
]


@pytest.mark.parametrize("attack", [row[1] for row in LONG], ids=[row[0] for row in LONG])
def test_a_chain_of_more_pieces_than_a_frame_has_is_given_back_and_not_walked_to_its_end(
    port: Port, attack: Attack
) -> None:
    """A chain as long as its table costs the guest one index; it must not cost the forwarder a step for each piece."""
    guest = port.frontend().start()
    attack(guest)
    assert guest.tx.wait_used() == [(0, 0)]
    assert port.counted(FROM_VM, "oversized") == 1
    guest.transmit(frame(b"next"))
    assert port.arrived() == [frame(b"next")]


def test_a_guest_that_writes_to_everything_meanwhile(port: Port) -> None:
    """Rings and buffers change at random while frames flow: faults may come, the process may not go."""
    import random

    seed = random.randrange(1 << 32)
    print("seed", seed)
    generator = random.Random(seed)
    until = time.monotonic() + 2
    rounds = 0
    while time.monotonic() < until:
        guest = Frontend(port.path).start()
        guest.give_buffers(32)
        for i in range(40):
            queue = guest.queues[generator.randrange(2)]
            at = queue.base + generator.randrange(queue.bytes(queue.size))
            try:
                guest.transmit(frame(b"%d" % i), head=i % 64)
                _testing.memory_inject(port.port, frame(b"%d" % i, 60 + 40 * i, to_vm=True))
                guest.memory[at] = generator.randrange(256)
                os.eventfd_write(queue.kick, 1)
            except (OSError, IndexError):
                break
        rounds += 1
        guest.close()
        assert eventually(lambda: not port.vm.up())
        while port.arrived(0):
            pass
    assert rounds > 5
    before = sum(port.state()["faults"].values())
    assert before > 0
    time.sleep(0.05)
    while port.arrived(50):
        pass
    still_works(port)


# The Python side.


def test_it_takes_a_listening_socket_only(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
        plain.bind(str(tmp_path / "socket"))
        with pytest.raises(ValueError, match="listening"):
            _testing.vhost_user(plain.fileno(), LIMIT, True, FROM_VM)
    with pytest.raises(OSError, match="cannot use the vhost-user socket"):
        _testing.vhost_user(9999, LIMIT, True, FROM_VM)


@pytest.mark.parametrize(("memory", "direction"), [(0, 1), (-1, 1), (1, 2), (1, -1)])
def test_its_numbers_are_checked(memory: int, direction: int) -> None:
    with pytest.raises(ValueError, match="max_memory must be 1 byte or more, direction_from 0"):
        _testing.vhost_user(0, memory, True, direction)


def test_only_a_vhost_user_endpoint_has_such_a_state() -> None:
    with pytest.raises(TypeError, match="vhost_user"):
        _testing.vhost_user_state(_testing.memory(2, 100, FROM_PORT))


def test_it_closes_what_it_opened(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        made = Port(tmp_path)
        made.frontend().start().give_buffers(2)
        made.close()
        os.unlink(made.path)
        del made
    assert len(os.listdir("/proc/self/fd")) == before
