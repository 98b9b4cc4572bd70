"""A vhost-user front-end with a guest's two virtqueues, for tests: what QEMU and a driver do, and what they must not.

Sources: QEMU docs/interop/vhost-user (messages), virtio 1.2 section 2.7 (split virtqueues) and 5.1 (network device).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from enum import IntEnum

MIB = 1 << 20
USER = 0x7F00_0000_0000
"""Where this front-end says that it has guest-physical address 0."""
HEADER = struct.Struct("<BBHHHHH")
"""struct virtio_net_hdr_mrg_rxbuf: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers."""
NO_HEADER = HEADER.pack(0, 0, 0, 0, 0, 0, 0)
NEXT, WRITE, INDIRECT = 1, 2, 4
RX, TX = 0, 1
DESCRIPTOR = struct.Struct("<QIHH")

VERSION_1, PROTOCOL_FEATURES, INDIRECT_DESC, EVENT_IDX = 1 << 32, 1 << 30, 1 << 28, 1 << 29
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN = 1 << 0, 1 << 1, 1 << 7, 1 << 8, 1 << 9
HOST_TSO4, HOST_TSO6, HOST_ECN, MRG_RXBUF, CTRL_VQ = 1 << 11, 1 << 12, 1 << 13, 1 << 15, 1 << 17


class Request(IntEnum):
    """Messages of the front-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    SET_VRING_ENDIAN = 23
    ADD_MEM_REG = 37


def memfd(size: int, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    """A file of guest memory; sealed as QEMU's memory-backend-memfd does."""
    file = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    if seals:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


@dataclass
class Region:
    """One entry of SET_MEM_TABLE."""

    guest: int
    size: int
    user: int
    offset: int = 0

    def pack(self) -> bytes:
        """As it goes over the socket."""
        return struct.pack("<QQQQ", self.guest, self.size, self.user, self.offset)


class Connection:
    """The socket, message by message."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(5)
        self.socket.connect(path)

    def send(self, request: int, payload: bytes = b"", files: tuple[int, ...] = (), flags: int = 1) -> None:
        """One message, right or wrong."""
        self.raw(struct.pack("<III", request, flags, len(payload)) + payload, files)

    def raw(self, data: bytes, files: tuple[int, ...] = ()) -> None:
        """Bytes and descriptors. The back end may have hung up already for what was said before."""
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        with contextlib.suppress(BrokenPipeError):
            sent = self.socket.sendmsg([data], control)
            if sent < len(data):
                self.socket.sendall(data[sent:])

    def receive(self) -> tuple[int, int, bytes]:
        """One reply: request, flags, payload. EOFError if the back end closed."""
        request, flags, size = struct.unpack("<III", self._exactly(12))
        return request, flags, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError("the back end closed the connection")
            data += more
        return data

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """Send and take the answer."""
        self.send(request, payload)
        answered, flags, answer = self.receive()
        assert (answered, flags) == (request, 5)
        return answer

    def closed(self, seconds: float = 3) -> bool:
        """Whether the back end hangs up in time."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Queue:
    """A virtqueue as the driver sees it. All of it lies at ``base`` of the guest's memory: table, available, used."""

    def __init__(self, memory: mmap.mmap, base: int, size: int, event_index: bool) -> None:
        self.memory, self.base, self.size, self.event_index = memory, base, size, event_index
        self.table = base
        self.available = base + 16 * size
        self.used = (self.available + 6 + 2 * size + 3) & ~3
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.next = 0
        self.seen = 0
        # Words are written at once, as a driver does; struct.pack_into() clears them first, which the device may see.
        self._words = memoryview(memory).cast("H")

    @staticmethod
    def bytes(size: int) -> int:
        """How much room it needs."""
        return 16 * size + 6 + 2 * size + 3 + 6 + 8 * size

    def word(self, at: int) -> int:
        """A 16-bit word of the memory."""
        return self._words[at // 2]

    def put_word(self, at: int, value: int) -> None:
        """The same, written."""
        self._words[at // 2] = value & 0xFFFF

    def describe(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write a descriptor."""
        DESCRIPTOR.pack_into(self.memory, self.table + 16 * index, address, length, flags, following)

    def offer(self, head: int) -> None:
        """Put a chain into the available ring, unseen as yet."""
        self.put_word(self.available + 4 + 2 * (self.next % self.size), head)
        self.next = (self.next + 1) & 0xFFFF

    def publish(self) -> None:
        """Let the device see what was offered, and knock if it wants to hear."""
        before = self.word(self.available + 2)
        self.put_word(self.available + 2, self.next)
        if self.wants_kick(before):
            os.eventfd_write(self.kick, 1)

    def wants_kick(self, before: int) -> bool:
        """Virtio 1.2, 2.7.10."""
        if not self.event_index:
            return not self.word(self.used) & 1
        event = self.word(self.used + 4 + 8 * self.size)
        return (self.next - event - 1) & 0xFFFF < (self.next - before) & 0xFFFF

    def used_index(self) -> int:
        """How far the device is."""
        return self.word(self.used + 2)

    def take_used(self) -> list[tuple[int, int]]:
        """What came back since the last call: (head, bytes written)."""
        found = []
        while self.seen != self.used_index():
            found.append(struct.unpack_from("<II", self.memory, self.used + 4 + 8 * (self.seen % self.size)))
            self.seen = (self.seen + 1) & 0xFFFF
        if self.event_index:
            self.put_word(self.available + 4 + 2 * self.size, self.seen)
        return found

    def wait_used(self, count: int = 1, seconds: float = 3, by_call: bool = True) -> list[tuple[int, int]]:
        """The same, at least ``count`` of them, by interrupt only."""
        found = self.take_used()
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            if by_call:
                ready, _, _ = select.select([self.call], [], [], max(0.0, deadline - time.monotonic()))
                if ready:
                    os.eventfd_read(self.call)
            else:
                time.sleep(0.002)
            found += self.take_used()
        return found

    def close(self) -> None:
        """Give the eventfds back."""
        self._words.release()
        os.close(self.kick)
        os.close(self.call)


@dataclass
class Frontend:
    """A VM: memory, two queues, a connection. ``start()`` does what QEMU does when a driver is ready."""

    path: str
    features: int = VERSION_1 | PROTOCOL_FEATURES | MRG_RXBUF | INDIRECT_DESC | EVENT_IDX
    size: int = 64
    buffer: int = 2048
    memory_size: int = 4 * MIB
    file: int = -1
    connection: Connection = field(init=False)
    memory: mmap.mmap = field(init=False)
    queues: list[Queue] = field(init=False)

    def __post_init__(self) -> None:
        if self.file < 0:
            self.file = memfd(self.memory_size)
        self.memory = mmap.mmap(self.file, self.memory_size)
        event_index = bool(self.features & EVENT_IDX)
        self.queues = [Queue(self.memory, (1 + 16 * i) * 4096, self.size, event_index) for i in (RX, TX)]
        self.heap = 1 * MIB
        self.connection = Connection(self.path)

    @property
    def rx(self) -> Queue:
        """The guest's receive queue."""
        return self.queues[RX]

    @property
    def tx(self) -> Queue:
        """The guest's transmit queue."""
        return self.queues[TX]

    def region(self) -> Region:
        """All of the memory in one."""
        return Region(0, self.memory_size, USER)

    def negotiate(self) -> int:
        """Features both ways; returns what was offered."""
        offered = int.from_bytes(self.connection.ask(Request.GET_FEATURES), "little")
        protocol = int.from_bytes(self.connection.ask(Request.GET_PROTOCOL_FEATURES), "little")
        self.connection.send(Request.SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
        self.connection.ask(Request.GET_QUEUE_NUM)
        self.connection.send(Request.SET_OWNER)
        self.connection.send(Request.SET_FEATURES, struct.pack("<Q", self.features))
        return offered

    def share(self) -> None:
        """SET_MEM_TABLE."""
        self.connection.send(Request.SET_MEM_TABLE, struct.pack("<II", 1, 0) + self.region().pack(), (self.file,))

    def address_queue(self, index: int) -> None:
        """Size, base, addresses."""
        queue = self.queues[index]
        self.connection.send(Request.SET_VRING_NUM, struct.pack("<II", index, queue.size))
        self.connection.send(Request.SET_VRING_BASE, struct.pack("<II", index, queue.used_index()))
        addresses = (USER + queue.table, USER + queue.used, USER + queue.available, 0)
        self.connection.send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, *addresses))

    def start_queue(self, index: int) -> None:
        """Kick, call."""
        queue = self.queues[index]
        self.connection.send(Request.SET_VRING_KICK, struct.pack("<Q", index), (queue.kick,))
        self.connection.send(Request.SET_VRING_CALL, struct.pack("<Q", index), (queue.call,))

    def enable(self, index: int, on: bool = True) -> None:
        """SET_VRING_ENABLE, acknowledged."""
        self.connection.send(Request.SET_VRING_ENABLE, struct.pack("<II", index, on), flags=9)
        assert self.connection.receive()[::2] == (Request.SET_VRING_ENABLE, bytes(8))

    def start(self) -> Frontend:
        """Everything, up to rings that run."""
        self.negotiate()
        self.share()
        for index in (RX, TX):
            self.address_queue(index)
            self.start_queue(index)
        for index in (RX, TX):
            self.enable(index)
        return self

    def reconnect(self) -> Frontend:
        """As QEMU with reconnect-ms: the guest goes on, the state is told anew."""
        self.connection.close()
        self.connection = Connection(self.path)
        return self.start()

    def stop(self) -> list[int]:
        """As when the driver resets: the bases that the back end tells."""
        bases = []
        for index in (RX, TX):
            answer = self.connection.ask(Request.GET_VRING_BASE, struct.pack("<II", index, 0))
            bases.append(struct.unpack("<II", answer)[1])
        return bases

    def place(self, data: bytes) -> int:
        """Put bytes somewhere into the guest's memory; returns their address."""
        if self.heap + len(data) > self.memory_size:
            self.heap = 1 * MIB
        at = self.heap
        self.memory[at : at + len(data)] = data
        self.heap += (len(data) + 63) & ~63
        return at

    def transmit(self, frame: bytes, header: bytes = NO_HEADER, pieces: int = 1, head: int = 0) -> None:
        """Send a frame as a chain of ``pieces`` descriptors."""
        data = header + frame
        step = -(-len(data) // pieces)
        at = self.place(data)
        for i in range(pieces):
            length = min(step, len(data) - i * step)
            self.tx.describe(head + i, at + i * step, length, NEXT if i < pieces - 1 else 0, head + i + 1)
        self.tx.offer(head)
        self.tx.publish()

    def give_buffers(self, count: int, length: int | None = None) -> None:
        """Receive buffers, one descriptor each."""
        length = length or self.buffer
        self.buffers = [2 * MIB + i * length for i in range(count)]
        self.buffer = length
        for head, at in enumerate(self.buffers):
            self.rx.describe(head, at, length, WRITE)
            self.rx.offer(head)
        self.rx.publish()

    def receive(self, seconds: float = 3) -> list[tuple[tuple[int, ...], bytes]]:
        """The frames that came, with their headers; waits for one. Buffers go back to the device."""
        used = self.rx.wait_used(1, seconds)
        frames = []
        while used:
            first = used[0]
            at = self.buffers[first[0]]
            header = HEADER.unpack_from(self.memory, at)
            data = b""
            for head, length in used[: header[6]]:
                data += self.memory[self.buffers[head] : self.buffers[head] + length]
                self.rx.offer(head)
            used = used[header[6] :]
            frames.append((header, data[HEADER.size :]))
        self.rx.publish()
        return frames

    def close(self) -> None:
        """The VM ends."""
        self.connection.close()
        for queue in self.queues:
            queue.close()
        self.memory.close()
        os.close(self.file)
