"""Floods a NIC of the VM and meanwhile sends heartbeats to the backend. See `proof.remote_script`.

Usage: argument 1 is a plan, JSON. `begin` starts a process in the background and returns at once: the process sends
heartbeats for ``rest`` seconds, then floods for ``seconds`` and goes on sending heartbeats. `end` waits until that is
over, sends a heartbeat on a fresh connection, and answers with all figures. Needs root and nothing but the standard
library.
"""

import contextlib
import fcntl
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

PLAN: dict[str, Any] = json.loads(sys.argv[1])
RESULT: str = PLAN["file"]
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h
SIOCGIFADDR = 0x8915  # linux/sockios.h
ETH_P_LOCAL = 0x88B5
"""An EtherType for local experiments (IEEE 802a-2003)."""
BROADCAST = b"\xff" * 6
HEARTBEAT_INTERVAL, ANSWER_TIMEOUT = 0.2, 5.0
"""Seconds between two heartbeats, and until one counts as not answered."""


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(proto: int, src: bytes, dst: bytes, body: bytes) -> bytes:
    """Return an IPv4 packet."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0, src, dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def syn(src: bytes, dst: bytes, sport: int, dport: int, seq: int) -> bytes:
    """Return a TCP SYN in its packet."""
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, 0, 0x50, 2, 64240, 0, 0)
    pseudo = src + dst + struct.pack("!BBH", 0, 6, len(head))
    return ipv4(6, src, dst, head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:])


def address(interface: str) -> bytes:
    """Return the interface's own IPv4 address (netdevice(7)); 0.0.0.0 if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", interface.encode()))[20:24]
        except OSError:
            return bytes(4)


def frames(kind: str, own: bytes, here: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield 256 frames of a kind, each at least 60 bytes, the shortest without FCS (IEEE 802.3 clause 4.4.2)."""
    peer = bytes.fromhex(PLAN["peer_mac"].replace(":", ""))
    there = socket.inet_aton(PLAN["peer_ip"])
    for _ in range(256):
        match kind:
            case "syn":
                packet = syn(here, there, rng.randrange(1024, 32768), PLAN["port"], rng.getrandbits(32))
                frame = peer + own + b"\x08\x00" + packet
            case "arp":
                request = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own, here, bytes(6), there)
                frame = BROADCAST + own + b"\x08\x06" + request
            case "broadcast":
                body = struct.pack("!HHHH", rng.randrange(1024, 65536), rng.randrange(1, 65536), 26, 0) + bytes(18)
                frame = BROADCAST + own + b"\x08\x00" + ipv4(17, here, b"\xff" * 4, body)
            case "spoofed":
                frame = peer + b"\x02" + rng.randbytes(5) + struct.pack("!H", ETH_P_LOCAL)
            case _:
                frame = peer + own + struct.pack("!H", ETH_P_LOCAL) + rng.randbytes(8)
        yield frame.ljust(60, b"\0")


def sent(interface: str) -> int:
    """Return how many frames the NIC has sent."""
    with open(f"/sys/class/net/{interface}/statistics/tx_packets") as file:
        return int(file.read())


class Nic:
    """A NIC to be flooded."""

    def __init__(self, interface: str, kind: str) -> None:
        self._name = interface
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.bind((interface, 0))
        self._socket.setblocking(False)
        with open(f"/sys/class/net/{interface}/address") as file:
            own = bytes.fromhex(file.read().strip().replace(":", ""))
        self._frames = list(frames(kind, own, address(interface), random.Random(PLAN["seed"])))

    def flood(self, seconds: float) -> dict[str, Any]:
        """Send as fast as this processor can for so many seconds; ``sent`` is the count of the NIC itself."""
        before, began, tried = sent(self._name), time.monotonic(), 0
        while time.monotonic() < began + seconds:
            for frame in self._frames:
                # A full ring is what a flood wants: BlockingIOError or ENOBUFS is no failure.
                with contextlib.suppress(OSError):
                    self._socket.send(frame)
            tried += len(self._frames)
        took = time.monotonic() - began
        return {"tried": tried, "sent": sent(self._name) - before, "seconds": took}


class BackendClient:
    """A TLS connection to the backend, with the front-end's own keys, that sends heartbeats."""

    def __init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(PLAN["folder"] + "/backend.crt")
        context.load_cert_chain(PLAN["folder"] + "/link.crt", PLAN["folder"] + "/link.key")
        plain = socket.create_connection((PLAN["address"], PLAN["port"]), timeout=ANSWER_TIMEOUT)
        self.tls = context.wrap_socket(plain, server_hostname=PLAN["name"])
        self.file = self.tls.makefile("rb")
        self.last = 0

    def heartbeat(self) -> str:
        """Send a heartbeat and return its outcome; `OSError` or `ValueError` if there is no answer."""
        seq = max(time.time_ns(), self.last + 1)
        self.tls.sendall(json.dumps({"v": 1, "seq": seq, "do": {"type": "vm.heartbeat"}}).encode() + b"\n")
        line = self.file.readline(8192)
        if not line:
            raise OSError("closed")
        result = json.loads(line)["result"]
        self.last = max(seq, int(result.get("last_seq", 0)))
        return str(result.get("code", result["type"]))

    def close(self) -> None:
        """Close the connection."""
        self.tls.close()


def heartbeats(until: Any) -> dict[str, Any]:
    """Send heartbeats until ``until()`` is true; return the answer times in seconds, and the failures."""
    times: list[float] = []
    failed: list[str] = []
    client = None
    while not until():
        began = time.monotonic()
        try:
            client = client or BackendClient()
            outcome = client.heartbeat()
            if outcome in ("done", "limited", "replayed"):
                times.append(time.monotonic() - began)
            else:
                failed.append(outcome)
        except (OSError, ValueError, KeyError, TypeError) as error:
            failed.append(repr(error)[:80])
            client = None
        time.sleep(HEARTBEAT_INTERVAL)
    if client:
        client.close()
    return {"times": times[:1000], "failed": failed[:20]}


def background(ready: int) -> None:
    """Send heartbeats, then flood while sending heartbeats; leave the result in a file.

    ``ready`` is a file descriptor: one byte is written to it when the NIC is open.
    """
    forked, nic = time.monotonic(), Nic(PLAN["interface"], PLAN["kind"])
    os.write(ready, b"1")
    nothing = {"times": [], "failed": ["did not end"]}
    answer: dict[str, Any] = {"rest": nothing, "during": nothing}

    def start_heartbeats(stop: threading.Event, name: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answer.update({name: heartbeats(stop.is_set)}), daemon=True)
        thread.start()
        return thread

    rested, over = threading.Event(), threading.Event()
    first = start_heartbeats(rested, "rest")
    time.sleep(PLAN["rest"])
    rested.set()
    first.join(2 * ANSWER_TIMEOUT)
    second = start_heartbeats(over, "during")
    answer["delay"] = time.monotonic() - forked
    answer |= nic.flood(PLAN["seconds"])
    over.set()
    second.join(2 * ANSWER_TIMEOUT)
    with open(RESULT + ".new", "w") as file:
        json.dump(answer, file)
    os.rename(RESULT + ".new", RESULT)


def begin() -> dict[str, Any]:
    """Start `background` in a process of its own."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RESULT)
    here, there = os.pipe()
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        try:
            background(there)
        except Exception as error:
            os.write(there, repr(error).encode()[:200])
        os._exit(0)
    os.close(there)
    said = os.read(here, 200)
    return {"begun": said == b"1", "trouble": "" if said == b"1" else said.decode(errors="replace")}


def end() -> dict[str, Any]:
    """Wait for the flood's end, then for an answer on a fresh connection."""
    deadline = time.monotonic() + PLAN["rest"] + PLAN["seconds"] + 5 * ANSWER_TIMEOUT
    while not os.path.exists(RESULT) and time.monotonic() < deadline:
        time.sleep(0.05)
    with open(RESULT) as file:
        answer: dict[str, Any] = json.load(file)
    began, answer["after"] = time.monotonic(), None
    while time.monotonic() < began + PLAN["recovery"]:
        try:
            client = BackendClient()
            outcome = client.heartbeat()
            client.close()
            if outcome == "done":
                answer["after"] = time.monotonic() - began
                break
        except (OSError, ValueError, KeyError, TypeError):
            pass
        time.sleep(0.1)
    return answer
