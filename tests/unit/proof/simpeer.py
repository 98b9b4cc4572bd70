"""An appliance in a thread: the VM behind a socket, and whatever sabotage a test asks for.

Written with struct alone, so that it shares no frame builder with the probes that it checks.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proof.scan.numbered import FRAGMENT, IGMP, NO_NEXT, UDP_LITE
from proof.wire.frame import ARP, ICMP, ICMP6, IPV4, NEIGHBOUR_SOLICIT, TCP, UDP, Frame, parse
from proof.wire.frame_log import FrameLog
from proof.wire.target import Target, mac_bytes
from proof.wire.wire import StreamWire, encode

HOST_MAC = "52:54:00:00:00:01"
TARGET = Target(
    vm_mac="02:53:4c:00:00:01", vm_ipv4="192.168.42.1", host_macs={"mgmt0": HOST_MAC}, prefix="192.168.42.0/28"
)


def ether(dst: bytes, src: bytes, kind: int, body: bytes) -> bytes:
    return dst + src + struct.pack("!H", kind) + body


def ipv4(src: bytes, dst: bytes, proto: int, body: bytes) -> bytes:
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0, src, dst) + body


def ipv6(src: bytes, dst: bytes, proto: int, body: bytes) -> bytes:
    return struct.pack("!IHBB16s16s", 0x60000000, len(body), proto, 255, src, dst) + body


def arp_reply(frame: Frame, mac: bytes) -> bytes:
    sender = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + frame.arp_target
    return ether(frame.src, mac, ARP, sender + frame.src + frame.ip_src)


@dataclass
class Stack:
    """One network stack: its MAC and addresses, the open TCP ports, what it does to the others."""

    mac: bytes
    addresses: set[bytes]
    open: set[int] = field(default_factory=set)
    drop_closed: bool = False
    answers_udp: set[int] = field(default_factory=set)
    any_mac: bool = False
    """Take frames for any MAC, as a misconfigured bridge port would."""
    filtered: set[int] = field(default_factory=set)
    """TCP and UDP ports of which nothing is heard."""
    refuses: int = 0
    """Say of each n-th closed UDP port or unknown protocol that it is so; 0: of none."""
    swallows: set[int] = field(default_factory=set)
    """Protocols that are taken without a word."""
    speaks: set[int] = field(default_factory=set)
    """Protocols that answer in kind."""
    refused: int = 0

    def answer(self, frame: Frame) -> bytes | None:
        if frame.tags == (0,):  # a priority tag: untagged, and answered without
            frame = parse(frame.raw[:12] + frame.raw[16:], 0)
        if frame.kind == ARP:
            return arp_reply(frame, self.mac) if frame.arp_op == 1 and frame.arp_target in self.addresses else None
        if frame.proto == ICMP6 and frame.icmp_type == NEIGHBOUR_SOLICIT and frame.nd_target in self.addresses:
            body = b"\x88\0\0\0\x60\0\0\0" + frame.nd_target + b"\x02\x01" + self.mac
            return ether(frame.src, self.mac, 0x86DD, ipv6(frame.nd_target, frame.ip_src, ICMP6, body))
        if frame.ip_dst not in self.addresses or (frame.dst != self.mac and not self.any_mac) or frame.tags:
            return None
        proto, body = self._answer_ip(frame)
        if not body:
            return None
        packet = (ipv4 if frame.kind == IPV4 else ipv6)(frame.ip_dst, frame.ip_src, proto, body)
        return ether(frame.src, self.mac, frame.kind or 0, packet)

    def _answer_ip(self, frame: Frame) -> tuple[int, bytes]:
        """Return protocol and body of the answer; an empty one for silence."""
        proto = frame.proto
        is_ipv4 = frame.kind == IPV4
        if proto is None or proto in self.swallows or frame.dport in self.filtered:
            return 0, b""
        if proto == (IGMP if is_ipv4 else NO_NEXT):
            return 0, b""
        if proto in self.speaks:
            return proto, b"hello"
        if proto == TCP:
            return TCP, self._answer_tcp(frame)
        if proto == UDP and frame.dport in self.answers_udp:
            return UDP, struct.pack("!HHHH", frame.dport, frame.sport or 0, 12, 0) + b"boo!"
        if proto == (ICMP if is_ipv4 else ICMP6):
            reply = {8: 0, 128: 129}.get(frame.icmp_type or 0)
            body = struct.pack("!BBHHH", reply or 0, 0, 0, frame.icmp_id, frame.icmp_seq)
            return proto, b"" if reply is None else body
        if proto == FRAGMENT and not is_ipv4:  # an atomic fragment: as if its header were not there
            raw = frame.raw
            return self._answer_ip(parse(raw[:20] + raw[54:55] + raw[21:54] + raw[62:], 0))
        return self._refuse(frame)

    def _answer_tcp(self, frame: Frame) -> bytes:
        is_open = frame.dport in self.open
        if frame.flags != 2 or frame.dport is None or frame.sport is None or (not is_open and self.drop_closed):
            return b""
        flags, ack = (0x12 if is_open else 0x14), (frame.seq + 1) & 0xFFFFFFFF
        return struct.pack("!HHIIBBHHH", frame.dport, frame.sport, 77, ack, 0x50, flags, 0, 0, 0)

    def _refuse(self, frame: Frame) -> tuple[int, bytes]:
        self.refused += 1
        if not self.refuses or self.refused % self.refuses:
            return 0, b""
        is_port, quoted = frame.proto in (UDP, UDP_LITE), frame.raw[14:562]
        if frame.kind == IPV4:
            return ICMP, struct.pack("!BBHI", 3, 3 if is_port else 2, 0, 0) + quoted
        head = struct.pack("!BBHI", *((1, 4, 0, 0) if is_port else (4, 1, 0, 6)))
        return ICMP6, head + quoted


def vm_stack(target: Target = TARGET) -> Stack:
    own = {socket.inet_aton(target.vm_ipv4), socket.inet_pton(socket.AF_INET6, target.vm_ipv6)}
    return Stack(mac_bytes(target.vm_mac), own, set(target.tcp_open), refuses=1)


@dataclass
class Peer:
    """The far end of a wire: stacks that answer, a loss, and a hook that sees every frame."""

    stacks: list[Stack]
    loss: float = 0.0
    extra: Callable[[Frame], list[bytes]] = lambda frame: []
    heard: Counter[bytes] = field(default_factory=Counter)
    dropped: int = 0

    def serve(self, sock: socket.socket) -> None:
        rng, data = random.Random(1), bytearray()
        while chunk := sock.recv(1 << 16):
            data += chunk
            replies = []
            while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
                raw = bytes(data[4 : 4 + size])
                del data[: 4 + size]
                self.heard[raw] += 1
                if self.loss and rng.random() < self.loss:
                    self.dropped += 1
                    continue
                frame = parse(raw, 0)
                replies += [reply for stack in self.stacks if (reply := stack.answer(frame)) is not None]
                replies += self.extra(frame)
            if replies:
                sock.sendall(encode(replies))


@contextmanager
def wired(peer: Peer, frame_log: FrameLog | None = None) -> Iterator[StreamWire]:
    """Connect a wire to the peer for the time of the context."""
    near, far = socket.socketpair()
    thread = threading.Thread(target=_serve, args=(peer, far), daemon=True)
    thread.start()
    wire = StreamWire(near, frame_log=frame_log)
    wire.mark_power_on()
    try:
        yield wire
    finally:
        wire.close()
        thread.join(5)
        far.close()


def _serve(peer: Peer, sock: socket.socket) -> None:
    try:
        peer.serve(sock)
    except OSError:
        return  # the test closed the wire
