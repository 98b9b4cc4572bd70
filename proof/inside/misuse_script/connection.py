"""Part of the script that attacks the instruction protocol: the plan, what is counted, TLS connections to the backend.

No outcome is taken from silence: a line goes over a connection on which a heartbeat was answered just before
(`open_connection`). Needs the standard library alone.
"""

import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PLAN: dict[str, Any] = json.loads(sys.argv[1])
PLACE = (PLAN["address"], PLAN["port"])
FOLDER: str = PLAN["folder"]
MAX_LINE: int = PLAN["max_line"]
MARGIN: float = PLAN["margin"]
HEARTBEAT: dict[str, Any] = {"type": "vm.heartbeat"}
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")
OPEN = "neither refused nor closed"
LIMITED = ("limited", "replayed")
"""A valid request may get these outcomes too, because all connections of the VM share one rate and one sequence."""


ORIGIN = {"service": "https", "address": "192.0.2.7"}
INSTRUCTIONS: tuple[dict[str, Any], ...] = (
    HEARTBEAT,
    {"type": "status.get"},
    {"type": "ports.list"},
    {"type": "session.close"},
    {"type": "system.reboot"},
    {"type": "hostname.set", "hostname": "taken"},
    {"type": "password.set", "old": "x", "new": "y" * 12},
)


class Budget:
    """When the class of attacks, or the control under way, has to end (`time.monotonic` seconds)."""

    end = time.monotonic() + PLAN["budget"]


BUDGET = Budget()


class Unreachable(Exception):
    """The backend could not be reached, so an attack was not tried."""


class Tally:
    """Counts attempts by outcome and keeps the forbidden outcomes; safe from several threads."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.notes: list[str] = []
        self.mark = 0
        self._lock = threading.Lock()

    def add(self, what: str, outcome: str, allowed: tuple[str, ...]) -> None:
        """Count one attempt; an outcome that is not in ``allowed`` is a hole."""
        with self._lock:
            self.counts[outcome] += 1
            if outcome not in allowed and len(self.wrong) < 20:
                self.wrong.append(f"{what}: {outcome}"[:200])

    def require(self, what: str, *, holds: bool) -> None:
        """Count one check of a limit; a hole if it does not hold."""
        self.add(what, "kept" if holds else "not kept", ("kept",))


class Clock:
    """Sequence numbers for valid requests: above every one seen so far, the front-end's own included."""

    def __init__(self) -> None:
        self.last = 0
        self._lock = threading.Lock()

    def next(self, step: int = 1) -> int:
        """Return the first of ``step`` unused numbers."""
        with self._lock:
            first = max(time.time_ns(), self.last + 1)
            self.last = first + step - 1
            return first

    def seen(self, seq: int) -> None:
        """Use numbers above ``seq`` from now on."""
        with self._lock:
            self.last = max(self.last, seq)


CLOCK = Clock()


def request(do: Any, seq: Any, **more: Any) -> bytes:
    """Return one line of the protocol, with its newline; ``do`` is the instruction."""
    return json.dumps({"v": 1, "seq": seq, "do": do, **more}).encode() + b"\n"


def context(stem: str | None = "link", folder: str = FOLDER) -> ssl.SSLContext:
    """Return the front-end's TLS settings with the certificate ``stem`` of ``folder``, or with none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(f"{FOLDER}/backend.crt")
    if stem:
        made.load_cert_chain(f"{folder}/{stem}.crt", f"{folder}/{stem}.key")
    return made


OWN = context()


def tcp_connection() -> socket.socket:
    """Return a TCP connection, retried for ``recovery`` seconds as the backend limits their rate; or `Unreachable`."""
    deadline = min(BUDGET.end, time.monotonic() + PLAN["recovery"])
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unreachable("no time left to connect")
        try:
            sock = socket.create_connection(PLACE, timeout=min(left, 10.0))
        except OSError:
            time.sleep(0.05)
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A small send buffer, so that what was sent is close to what the backend has read.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        return sock


def reset(sock: socket.socket) -> None:
    """Close with a reset (socket(7), SO_LINGER)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Connection:
    """A TLS connection of which each record can be changed before it is sent."""

    def __init__(self, tls: ssl.SSLContext = OWN) -> None:
        self.sock = tcp_connection()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self.incoming, self.outgoing, server_hostname=PLAN["name"])
        self.said = bytearray()

    def last_flight(self) -> bytes:
        """Do the handshake up to our last flight, and return that; `OSError` or `EOFError` if the backend closes."""
        while True:
            try:
                self.tls.do_handshake()
                return self.outgoing.read()
            except ssl.SSLWantReadError:
                self.sock.settimeout(MARGIN)
                self.sock.sendall(self.outgoing.read())
                self._pull(MARGIN)

    def handshake(self) -> "Connection":
        """Do the whole handshake; `OSError` or `EOFError` if the backend closes."""
        self.sock.sendall(self.last_flight())
        return self

    def sealed(self, data: bytes) -> bytes:
        """Return the records that carry ``data``, unsent."""
        self.tls.write(data)
        return self.outgoing.read()

    def send(self, data: bytes) -> int:
        """Send data; return how many bytes were sent. If the backend has closed, `line` tells."""
        start = 0
        with suppress(OSError):
            self.sock.settimeout(MARGIN)
            while start < len(data):
                self.sock.sendall(self.sealed(data[start : start + 4096]))
                start += 4096
        return start

    def _pull(self, timeout: float) -> None:
        self.sock.settimeout(max(0.01, timeout))
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError
        self.incoming.write(data)

    def line(self, timeout: float) -> bytes | None:
        """Return the next line, empty at the end of the connection, None after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.said:
            if len(self.said) > 16 * MAX_LINE:
                return bytes(self.said)
            try:
                if not (data := self.tls.read(1 << 14)):
                    return b""
                self.said += data
            except ssl.SSLWantReadError:
                if time.monotonic() > deadline:
                    return None
                try:
                    self._pull(deadline - time.monotonic())
                except TimeoutError:
                    return None
                except (OSError, EOFError):
                    return b""
            except OSError:  # an alert
                return b""
        line, _, rest = bytes(self.said).partition(b"\n")
        self.said = bytearray(rest)
        return line

    def outcome(self, timeout: float) -> str:
        """Return the outcome of the next reply as text, within ``timeout`` seconds; its ``last_seq`` is noted."""
        line = self.line(timeout)
        if line is None:
            return OPEN
        if not line:
            return "closed"
        outcome, error = parse_reply(line)
        with suppress(ValueError, TypeError):
            CLOCK.seen(int(error.get("last_seq", 0)))
        return outcome

    def ask(self, do: Any, *, patient: bool = True, **more: Any) -> str:
        """Send a valid request and return its outcome; retry while it is replayed or, if ``patient``, rate limited."""
        deadline, outcome = time.monotonic() + MARGIN, OPEN
        while time.monotonic() < deadline:
            self.send(request(do, CLOCK.next(), **more))
            outcome = self.outcome(deadline - time.monotonic())
            if outcome != "replayed" and (outcome != "limited" or not patient):
                break
            time.sleep(0.1)
        return outcome

    def heartbeat(self) -> str:
        """Send a heartbeat and return its outcome."""
        return self.ask(HEARTBEAT)


def parse_reply(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return the outcome of a reply (the code of an error, or ``effect <type>``), and its result object."""
    try:
        reply = json.loads(line.decode())
        result, _ = reply["result"], int(reply["seq"])
        kind = str(result["type"])
        return (str(result["code"]) if kind == "error" else f"effect {kind}"), result
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"unreadable reply {line[:60]!r}", {}


def open_connection() -> Connection:
    """Return a connection on which a heartbeat was just answered; `Unreachable` if there is none in time."""
    said, deadline = "", min(BUDGET.end, time.monotonic() + PLAN["recovery"])
    while time.monotonic() < deadline:
        try:
            made = Connection().handshake()
            if (said := made.heartbeat()) == "effect done":
                return made
            made.sock.close()
        except (OSError, EOFError) as error:
            said = repr(error)
        time.sleep(0.1)
    raise Unreachable(f"no connection on which a heartbeat is answered: {said}")


def run_in_threads(jobs: list[Callable[[], None]], threads: int) -> None:
    """Run jobs in so many threads and wait for them; the first exception is raised at the end."""
    lost: list[Exception] = []
    todo = iter(jobs)
    lock = threading.Lock()

    def work() -> None:
        while not lost:
            with lock:
                job = next(todo, None)
            if job is None:
                return
            try:
                job()
            except Exception as error:
                lost.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, BUDGET.end - time.monotonic()) + 3 * MARGIN)
    if lost:
        raise lost[0]
    if any(worker.is_alive() for worker in workers) or next(todo, None) is not None:
        raise Unreachable("not done in time")
