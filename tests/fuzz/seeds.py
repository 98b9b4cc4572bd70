"""The first inputs of the fuzz targets, named after what they are: made when they are needed, not kept in the tree.

The layout of an input is described at the head of each target. An input that broke something once is kept, under
``found/<target>/``, so that it is tried for ever.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.unit.forwarder import lan_frames

FOUND = Path(__file__).parent / "found"

NEGOTIATE, SAY, RAW, CHAIN, POKE, AVAILABLE, RECEIVE, SEND = range(8)
TURN, EVENTS, CONNECTION, FILES, FLOOD, FLUSH = range(8, 14)
NO_TURN = 0x80

MESSAGES = [
    "get-features",
    "set-features",
    "set-owner",
    "reset-owner",
    "set-mem-table",
    "set-vring-num",
    "set-vring-addr",
    "set-vring-base",
    "get-vring-base",
    "set-vring-kick",
    "set-vring-call",
    "set-vring-err",
    "get-protocol-features",
    "set-protocol-features",
    "get-queue-num",
    "set-vring-enable",
    "send-rarp",
    "zero",
    "reserved",
    "net-set-mtu",
    "get-config",
    "add-mem-reg",
]
KINDS = [
    "eventfd",
    "waiting-eventfd",
    "full-semaphore",
    "unsealed",
    "write-sealed",
    "grow-sealed",
    "short",
    "epoll",
    "pipe",
    "socket",
    "device",
    "folder",
    "read-only",
    "path-only",
    "lingering",
]
OFFLOADS = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13
FEATURES = 1 << 15 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32


def record(what: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> bytes:
    """One ``struct record``."""
    return struct.pack("<BBBBIQ", what, a & 255, b & 255, c & 255, d & 0xFFFFFFFF, e & (1 << 64) - 1)


def vhost_user() -> Iterator[tuple[str, bytes]]:
    """Front-ends: honest ones, and ones with one thing wrong."""
    ready = record(NEGOTIATE, 8, 8, e=FEATURES | OFFLOADS)
    plain = record(NEGOTIATE, 4, 4, e=1 << 32)
    to_guest = record(CHAIN, 1, c=0, d=2048 << 16) + record(SEND, d=1000)
    to_port = record(CHAIN, 1, c=1, d=60 << 16) + record(RECEIVE, 63) + record(FLUSH)
    yield "both-ways", ready + to_guest + to_port
    yield "both-ways-without-features", plain + to_guest + to_port
    yield "gso-frame-cut", plain + record(CHAIN, 1, c=0, d=2048 << 16) * 8 + record(SEND, 0, 8, d=20000)
    yield "no-buffer-and-then-another-guest", plain + record(SEND)
    for number, name in enumerate(MESSAGES):
        for state, before in (("first", b""), ("running", ready)):
            for ring in (0, 1, 2) if name.startswith(("set-vring", "get-vring")) else (0,):
                message = record(SAY, number, 1, ring, d=2 if "mem" in name else 64)
                yield f"{state}-{name}-{ring}", before + message + to_guest + to_port
        yield f"running-{name}-wrong-size", ready + record(SAY, number, 4, d=264)
        yield f"running-{name}-descriptors", ready + record(SAY, number, 128, d=9)
    for number, name in enumerate(KINDS):
        yield f"memory-{name}", record(SAY, 4, number << 3, d=1) + record(FILES, 0, d=0) + ready + to_port
        swapped = record(SAY, 4, number << 3, d=2) + record(FILES, 0, d=0)
        yield f"memory-{name}-while-running", ready + swapped + to_port + to_guest
        for request in ("kick", "call"):
            message = record(SAY, MESSAGES.index(f"set-vring-{request}"), number << 3, 1)
            yield f"{request}-{name}", ready + message + to_port + record(TURN, 3)
    # Descriptors that are left in a connection which is closed for another reason.
    lingering = record(SAY | NO_TURN, 0, len(KINDS) - 1 << 3 | 128, d=1)
    yield "descriptors-unread", record(RAW | NO_TURN, d=12) + b"\xff" * 12 + lingering + record(TURN) * 2
    yield "descriptors-too-many", record(SAY, 0, len(KINDS) - 1 << 3 | 128, d=12)
    for kind, name in enumerate(("size", "guest-address", "user-address", "offset"), 3):
        for value in (0, 1, 0x1000, 0x9000, (1 << 63) - 0x1000, (1 << 64) - 0x1000, (1 << 64) - 0x8000):
            message = record(SAY, 4, 0, kind << 3, d=1, e=value)
            yield f"region-{name}-{value:x}", message + record(CHAIN, 1, c=1) + record(RECEIVE)
    yield "regions-that-overlap", record(SAY, 4, 0, 7 << 3, d=2, e=0x0000)
    yield "regions-side-by-side", record(SAY, 4, 0, 7 << 3, d=8 | 0x10100 << 8, e=0)
    for shift, name in enumerate(("table", "used", "available"), 4):
        for value in (
            1,
            2,
            4,
            0x2FFC,
            0x3FFE,
            0x4FF0,
            0x7000,
            0x8000,
            (1 << 64) - 0x4000,
            (1 << 64) - 0x7F0000000000 - 16,
        ):
            message = record(SAY, 6, 0, 1 << shift | 1, e=value)
            yield f"ring-{name}-{value:x}", ready + message + to_port
    full = record(EVENTS, 2, 1, 1)
    yield (
        "call-full-and-waiting",
        ready + full + record(CHAIN, 1, c=1, d=60 << 16) + record(RECEIVE, 63) + record(FLUSH),
    )
    yield "kick-never-ends", ready + record(EVENTS, 1, c=1, e=(1 << 64) - 2) + record(TURN, 1) * 4
    yield "kick-is-call", ready + record(EVENTS, 5, c=1) + to_port + record(TURN, 1) * 3
    for number, name in enumerate(("half-closed", "replaced", "again", "second")):
        yield f"connection-{name}", ready + to_guest + record(CONNECTION, number, 3) + ready + to_port
    yield "reconnects", (ready + record(CONNECTION, 2)) * 12
    for number in range(4):
        yield f"replies-nobody-reads-{number}", record(FLOOD, number, d=599) + record(TURN) * 40
    yield "memory-shrinks", ready + record(CHAIN, 1, c=1, d=900 << 16) + record(FILES, 0, d=0) + to_port
    yield "memory-has-holes", ready + record(FILES, 1) + to_guest + to_port
    yield (
        "header-in-pieces",
        b"".join(record(RAW, d=len(piece)) + piece for piece in (b"\x01\0\0", b"\0\x01\0\0\0\0", b"\0\0\0")),
    )
    yield (
        "payload-in-pieces",
        b"".join(
            record(RAW, d=len(piece)) + piece
            for piece in (struct.pack("<IIII", 2, 1, 8, 0), struct.pack("<I", 1), struct.pack("<III", 17, 1, 0))
        ),
    )
    yield "descriptors-in-the-middle", record(RAW, 0, d=4) + b"\x05\0\0\0" + record(RAW, 2, d=4) + b"\x01\0\0\0"
    yield "available-too-far", ready + record(AVAILABLE, 127, c=1) * 3 + record(RECEIVE)
    yield "changed-while-held", ready + record(CHAIN, 3, c=1, d=900 << 16) + record(RECEIVE, 1, d=0x3000, e=-1)


def virtqueue() -> Iterator[tuple[str, bytes]]:
    """Rings: honest ones, and each fault that a descriptor or an index can have."""
    descriptor, head, index, _bytes, chain, send, receive, sleep = range(8)
    inner, tx = 1, 2

    def start(options: int = 0, sizes: int = 4, at: int = 0, e: int = 0) -> bytes:
        return record(0, options, sizes, sizes, d=at, e=e)

    for at in (0, 0xFFFE):
        honest = start(at=at)
        place = f"{at:x}"
        yield f"to-guest-{place}", honest + record(chain, 0, c=0, d=2000 << 16) * 4 + record(send, 1, d=1486) * 4
        yield f"to-guest-in-parts-{place}", honest + record(chain, 9, 3, d=2000 << 16) + record(send, 6, d=900, e=99)
        yield (
            f"merged-{place}",
            honest
            + b"".join(record(chain, 0, i << 2, d=500 << 16 | i * 600) for i in range(12))
            + record(send, 0, d=4000),
        )
        yield f"to-port-{place}", honest + record(chain, 1, 2, 1, d=900 << 16) + record(receive, 63)
        yield f"to-port-indirect-{place}", honest + record(chain, 20, 3, 1, d=9000 << 16) + record(receive, 63)
        yield (
            f"batch-{place}",
            honest + record(chain, 1, 2, 1, d=60 << 16) + record(head, 0, 10, 1) + record(receive, 4) * 4,
        )
    yield "merged-not-negotiated", start(2) + record(chain, d=100 << 16) * 3 + record(send, d=900)
    yield "not-enough-buffers", start() + record(chain, d=100 << 16) + record(send, d=900) * 3
    yield "only-header-fits", start() + record(chain, d=11 << 16) * 3 + record(send, d=900)
    yield "less-than-header-fits", start() + record(chain, d=3 << 16) * 3 + record(send, d=900)
    yield "tag", start() + record(chain, d=2000 << 16) + record(send, 4, d=100)
    yield "tag-at-the-end-of-a-part", start() + record(chain, 7, d=2000 << 16) + record(send, 6, d=900)
    yield (
        "event-index",
        start(4) + record(sleep, c=1) + record(chain, 1, 2, 1, d=60 << 16) + record(receive) + record(sleep, c=0),
    )
    wrong = {
        "loop": (1, 0, 100, 0),
        "next-outside": (1, 0, 100, 9999),
        "zero-length": (0, 0, 0, 0),
        "longest-length": (0, 0, 0xFFFFFFFF, 0),
        "wrong-direction": (2, 0, 100, 0),
        "end-of-region": (0, 4, 0x80, 0x80),
        "beyond-region": (0, 4, 0x81, 0x80),
        "beyond-both": (0, 12, 0x81, 0x80),
        "below-region": (0, 128, 0x81, 0x80),
        "below-both": (0, 136, 0x81, 0x80),
        "address-zero": (0, 16, 100, 0),
        "address-largest": (0, 16, 100, 0xFFFFFFFFFFFF),
        "in-the-rings": (0, 32, 0x3000, 0x3000),
        "indirect": (0, 64, 16, 0),
        "indirect-empty": (0, 64, 0, 0),
        "indirect-odd": (0, 64, 17, 0),
        "indirect-huge": (0, 64, 0xFFFFFFF0, 0),
        "indirect-and-next": (1, 64, 16, 0),
    }
    for name, (flags, variant, length, e) in wrong.items():
        for ring, end in ((0, record(send, d=900)), (1, record(receive, 63))):
            flag = flags ^ (0 if ring else 2)
            e_word = (e & 0xFFFFFFFFFFFF) | (e << 48 if e > 0xFF and "next" in name else 0)
            bad = record(descriptor, 0, variant | (tx if ring else 0), flag, d=length, e=e_word)
            inside = record(descriptor, 0, inner, flag & 2, d=600, e=0x100)
            yield f"{name}-{ring}", start() + inside + bad + record(head, 0, 0, ring) + end * 2
            again = record(descriptor, 0, inner | variant, flag, d=length, e=e_word)
            outer = record(descriptor, 0, 64 | (tx if ring else 0), 0, d=16)
            yield f"{name}-nested-{ring}", start() + again + outer + record(head, 0, 0, ring) + end * 2
    for ring, end in ((0, record(send, d=900)), (1, record(receive, 63))):
        beyond = record(descriptor, 5, tx if ring else 0, 0 if ring else 2, d=600, e=0x100)
        yield f"head-outside-but-good-{ring}", start(0, 2) + beyond + record(head, 5, 0, ring) + end
        yield f"head-outside-{ring}", start() + record(head, 255, 0, ring, d=16) + end
        yield f"index-too-far-{ring}", start() + record(index, 1, 0, ring, d=17) + end
        yield f"index-behind-{ring}", start() + record(index, 1, 0, ring, d=0xFFFF) + end
        yield f"indirect-not-negotiated-{ring}", start(1) + record(chain, 3, 1, ring, d=900 << 16) + end
        yield (
            f"largest-queue-{ring}",
            start(0, 8) + record(chain, 1, 0, ring, d=900 << 16) + record(head, 0, 63, ring) * 4 + end,
        )
        yield f"smallest-queue-{ring}", start(0, 0) + record(chain, 0, 0, ring, d=900 << 16) + end * 2
        yield f"most-parts-{ring}", start(0, 8) + record(chain, 23, 2, ring, d=9000 << 16) + end
        yield f"too-many-parts-{ring}", start(0, 8) + record(chain, 27, 2, ring, d=9000 << 16) + end


def offload() -> Iterator[tuple[str, bytes]]:
    """``struct choice``: each kind of frame, and each field of the virtio header wrong."""

    def choice(build: int, options: int = 0, payload: int = 4000, **change: int) -> bytes:
        fields = (
            "split", "flags", "gso_type", "tcp_flags", "gso_size", "csum_start", "csum_offset", "hdr_len", "lay_at",
            "seed", "first",
        )  # fmt: skip
        return struct.pack(
            "<BBHBBBBHHHHHBB4x",
            build,
            options,
            payload,
            *(change.get(name, 100 if name == "split" else 0) for name in fields),
        )

    tcp, udp, six, beside, padding, kernel = 1, 3, 4, 32, 64, 128
    for name, kind in (("tcp4", tcp), ("tcp6", tcp | six), ("udp4", udp), ("udp6", udp | six)):
        whole = 1 if kind & 3 == udp else 0
        yield name, choice(kind)
        yield f"{name}-checksum-only", choice(kind, gso_type=0 if whole else 4 if kind & six else 1, gso_size=1448)
        yield f"{name}-options", choice(kind, 0xA5)
        yield f"{name}-odd-payload", choice(kind, 0, 1447, split=1, first=1)
        yield f"{name}-longest", choice(kind, 0, 65535, split=200)
        yield f"{name}-empty", choice(kind, 0, 0)
        yield f"{name}-many-parts", choice(kind, 0x33, 9000, split=1)
        yield f"{name}-one-tag", choice(kind | 8)
        yield f"{name}-two-tags", choice(kind | 16)
        yield f"{name}-three-tags", choice(kind | 24)
        yield f"{name}-tag-beside", choice(kind | beside)
        yield f"{name}-padding", choice(kind | padding)
        yield f"{name}-kernel", choice(kind | kernel)
        yield f"{name}-flags", choice(kind, tcp_flags=0x80 | 0x08 | 0x01)
        yield f"{name}-segments-all-full", choice(kind, 0, 3 * 1448, tcp_flags=0x80 | 0x08 | 0x01)
        yield f"{name}-segments-of-one-byte", choice(kind, gso_size=1448 ^ 1)
        yield f"{name}-segments-of-256", choice(kind, 0, 65535, gso_size=1448 ^ 256)
        yield f"{name}-segments-too-small", choice(kind, 0, 65535, gso_size=1448 ^ 200)
        yield f"{name}-segment-of-zero", choice(kind, gso_size=1448)
        yield f"{name}-other-type", choice(kind, gso_type=5)
        yield f"{name}-ecn", choice(kind, gso_type=0x80)
        yield f"{name}-no-checksum-asked", choice(kind, flags=1)
        yield f"{name}-checksum-elsewhere", choice(kind, csum_start=2)
        yield f"{name}-checksum-outside", choice(kind, csum_start=0xFFF0)
        yield f"{name}-checksum-offset", choice(kind, csum_offset=0xFFFE)
        yield f"{name}-kernel-outside", choice(kind | kernel, csum_start=0xFFF0, hdr_len=0xFF00, gso_size=1448 ^ 1)
        yield f"{name}-ip-header-short", choice(kind, lay_at=14) + b"\x01"
        yield f"{name}-ip-length", choice(kind, lay_at=16) + b"\xff\xff\xff\xff"
        yield f"{name}-fragment", choice(kind, lay_at=20) + b"\x20\x01"
        yield f"{name}-tcp-offset", choice(kind, lay_at=46) + b"\xf0"
        yield f"{name}-tcp-offset-6", choice(kind, lay_at=66) + b"\xf0"
    yield "raw-arp", choice(0) + b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + b"\0" * 46
    yield "raw-shortest", choice(0) + b"\2" * 14


def policy() -> Iterator[tuple[str, bytes]]:
    """A policy of HEAD bytes, and a frame: what passes, and each reason not to."""
    vm, other, group = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 9)), b"\xff" * 6

    def head(tags: int = 1, from_vm: int = 0, beside: int = 0, wire: int = 0, **at: int) -> bytes:
        fields = bytearray(32)
        fields[0] = tags
        fields[16] = from_vm | beside << 1
        fields[17:19] = wire.to_bytes(2, "big")
        fields[20:32] = bytes((0, 100, 7, 1, 9, 3, 200, 77, 0, 5, 60, 31))
        for name, value in at.items():
            fields[int(name[2:])] = value
        return bytes(fields)

    ipv4 = b"\x08\x00\x45\0\0\x2e\0\0\0\0\x40\x11\0\0\x0a\0\0\x01\x0a\0\0\x02" + b"\0" * 26
    arp = b"\x08\x06\0\x01\x08\0\x06\x04\0\x01" + other + b"\x0a\0\0\x09" + b"\0" * 6 + b"\x0a\0\0\x01" + b"\0" * 18
    link = bytes((169, 254, 1, 7))
    for name, rest in (("ipv4", ipv4), ("arp", arp), ("ipv6", b"\x86\xdd\x60" + b"\0" * 47)):
        for tags, front in enumerate((b"", b"\x81\0\0\7", b"\x88\xa8\0\7\x81\0\0\7", b"\x81\0\0\7" * 3)):
            yield f"{name}-from-port-{tags}-tags", head(2) + vm + other + front + rest
            yield f"{name}-from-vm-{tags}-tags", head(2, 1) + other + vm + front + rest
            yield f"{name}-tag-beside-and-{tags}", head(2, 1, 1) + group + vm + front + rest
            yield f"{name}-cut-{tags}", head(2) + vm + other + front + rest[:8]
            yield f"{name}-priority-and-{tags}-tags", head(0) + vm + other + b"\x81\0\xa0\0" + front + rest
            yield f"{name}-priority-beside-and-{tags}-tags", head(1, 1, 2) + other + vm + front + rest
        yield f"{name}-spoofed", head(1, 1) + vm + other + rest
        yield f"{name}-from-group", head() + vm + group + rest
        yield f"{name}-for-another", head() + other + other + rest
        yield f"{name}-priority-of-802.1ad", head(0) + vm + other + b"\x88\xa8\0\0" + rest
        yield f"{name}-to-the-next-bridge", head() + b"\x01\x80\xc2\0\0\2" + other + rest
        yield f"{name}-broadcast", head() + group + other + rest
        yield f"{name}-too-long", head(wire=9000) + vm + other + rest
        yield f"{name}-not-allowed", head(at1=14) + vm + other + rest
    yield "ipv4-from-link", head() + vm + other + ipv4.replace(b"\x0a\0\0\x01", link)
    yield "ipv4-to-link", head(1, 1) + other + vm + ipv4.replace(b"\x0a\0\0\x02", link)
    yield "arp-of-link", head() + vm + other + arp.replace(b"\x0a\0\0\x09", link)
    yield "arp-for-link", head(1, 1) + other + vm + arp.replace(b"\x0a\0\0\x01", link)
    yield "no-link", head(at4=9) + vm + other + ipv4.replace(b"\x0a\0\0\x01", link)
    yield "length-field", head() + vm + other + b"\0\x27" + b"\x42\x42\x03" + b"\0" * 44
    yield "empty", head()
    yield "one-byte", head() + b"\2"
    yield "cut-in-the-type", head() + vm + other + b"\x08"
    yield "cut-in-a-tag", head() + vm + other + b"\x81\0\0"
    yield "no-rate", head(at21=0) + vm + other + ipv4


def lan() -> Iterator[tuple[str, bytes]]:
    """Guests' frames: each that the guest LAN's own tests deliver or see refused, and what a frame may be besides."""
    split, beside, segments = 4, 8, 16

    def sent(frame: bytes, how: int = 0) -> bytes:
        return bytes([how]) + len(frame).to_bytes(2, "big") + frame

    frames = lan_frames.DELIVERED | {name: bytes(packet) for name, (_, packet) in lan_frames.REFUSED.items()}
    for name, frame in frames.items():
        yield re.sub(r"\W+", "-", name.lower().replace("'s", "")), sent(frame)
    yield "several", b"".join(sent(frames[name]) for name in ("IPv4", "IPv4 with options", "ARP request", "IPv6"))
    yield "from-the-last-port", sent(lan_frames.udp4(2, 0), 2)
    yield "two-parts", sent(lan_frames.udp4(0, 1, bytes(300)), split)
    yield "tag-beside", sent(lan_frames.udp4(0, 1), beside)
    yield "segments", sent(lan_frames.udp4(0, 1, bytes(3000)), split | segments)


MAKERS: Mapping[str, Callable[[], Iterator[tuple[str, bytes]]]] = {
    made.__name__: made for made in (vhost_user, virtqueue, offload, policy, lan)
}
"""By name of the target."""


def write(target: str, folder: Path) -> None:
    """Write a target's inputs into a folder, which is made: those that are made here, and what fuzzing once found."""
    folder.mkdir(parents=True)
    for name, content in MAKERS[target]():
        (folder / name).write_bytes(content)
    for found in sorted((FOUND / target).glob("*")):
        shutil.copyfile(found, folder / f"found-{found.name}")
