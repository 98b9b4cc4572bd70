"""Attacks the backend's instruction protocol, inside the VM: sent compressed as source text to ``python3 -c``.

Usage: ``misuse_script.py PLAN``, JSON: one class of attacks, its seed, where the backend is and what it declares.
Needs the standard library, and for certificates of its own the ``cryptography`` that the front-end carries. Prints one
line, ``SALLYPORT-MISUSE <crc32 hex> <base64 of zlib of JSON>``; `misuse` says what is in it and judges.

No outcome is taken from silence: a line goes over a connection on which a heartbeat was answered just before, and
whoever is refused a connection stands between two that were not. What must not be admitted has a ``seq`` above a mark:
the backend, asked for the largest that it has seen, tells whether something was admitted without a reply.
"""

import base64
import json
import os
import random
import re
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

PLAN: dict[str, Any] = json.loads(sys.argv[1])
PLACE = (PLAN["address"], PLAN["port"])
FOLDER: str = PLAN["folder"]
MAX_LINE: int = PLAN["max_line"]
MARGIN: float = PLAN["margin"]
END = time.monotonic() + PLAN["budget"]
BEAT: dict[str, Any] = {"type": "vm.heartbeat"}
AHEAD = 2**42
"""How far the mark lies above the present ``seq``: 73 minutes of the nanoseconds that the front-end counts."""
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")
OPEN = "neither refused nor closed"
LIMITED = ("limited", "replayed")
"""What a request that is in order may be told, as all of the VM's connections share one rate and one sequence."""


class Lost(Exception):
    """The backend was not reached: what was to be tried was not tried."""


class Tally:
    """What was tried and what came of it; threads share it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.notes: list[str] = []
        self.mark = 0
        self._lock = threading.Lock()

    def add(self, what: str, outcome: str, allowed: tuple[str, ...]) -> None:
        """Count one attempt; ``allowed`` are its innocent outcomes."""
        with self._lock:
            self.counts[outcome] += 1
            if outcome not in allowed and len(self.wrong) < 20:
                self.wrong.append(f"{what}: {outcome}"[:200])

    def must(self, what: str, *, holds: bool) -> None:
        """Count a limit that was looked at."""
        self.add(what, "kept" if holds else "not kept", ("kept",))


class Clock:
    """The ``seq`` of honest requests: above all that was seen, from the front-end's own side too."""

    def __init__(self) -> None:
        self.last = 0
        self._lock = threading.Lock()

    def next(self, step: int = 1) -> int:
        """Return the number to use; leave ``step`` numbers free behind it."""
        with self._lock:
            first = max(time.time_ns(), self.last + 1)
            self.last = first + step - 1
            return first

    def seen(self, seq: int) -> None:
        """Go on above ``seq``."""
        with self._lock:
            self.last = max(self.last, seq)


CLOCK = Clock()


def request(do: Any, seq: Any, **more: Any) -> bytes:
    """Return one line of the protocol."""
    return json.dumps({"v": 1, "seq": seq, "do": do, **more}).encode() + b"\n"


def context(stem: str | None = "link", folder: str = FOLDER) -> ssl.SSLContext:
    """Return the front-end's TLS with another identity, or none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(f"{FOLDER}/backend.crt")
    if stem:
        made.load_cert_chain(f"{folder}/{stem}.crt", f"{folder}/{stem}.key")
    return made


OWN = context()


def connected() -> socket.socket:
    """Return a TCP connection; the backend takes them slowly, so try for a while. `Lost` if there is none."""
    deadline = min(END, time.monotonic() + PLAN["recovery"])
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Lost("no time left to connect")
        try:
            sock = socket.create_connection(PLACE, timeout=min(left, 10.0))
        except OSError:
            time.sleep(0.05)
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What the far end takes is told from what lies in our own buffer.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        return sock


def reset(sock: socket.socket) -> None:
    """Close with a reset (socket(7), SO_LINGER)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Talk:
    """One TLS connection whose records pass through our hands."""

    def __init__(self, tls: ssl.SSLContext = OWN) -> None:
        self.sock = connected()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self.incoming, self.outgoing, server_hostname=PLAN["name"])
        self.said = bytearray()

    def last_flight(self) -> bytes:
        """Shake hands; return our last flight, unsent. `OSError` or `EOFError` if the far end leaves."""
        while True:
            try:
                self.tls.do_handshake()
                return self.outgoing.read()
            except ssl.SSLWantReadError:
                self.sock.settimeout(MARGIN)
                self.sock.sendall(self.outgoing.read())
                self._pull(MARGIN)

    def handshake(self) -> "Talk":
        """Shake hands; `OSError` or `EOFError` if the far end leaves."""
        self.sock.sendall(self.last_flight())
        return self

    def sealed(self, data: bytes) -> bytes:
        """Return the records that carry ``data``, unsent."""
        self.tls.write(data)
        return self.outgoing.read()

    def send(self, data: bytes) -> int:
        """Send; return how much was taken. A far end that has closed is found out by `line`."""
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
        """Return in a few words what comes within ``timeout`` seconds; go on above a ``seq`` that it names."""
        line = self.line(timeout)
        if line is None:
            return OPEN
        if not line:
            return "closed"
        outcome, error = told(line)
        with suppress(ValueError, TypeError):
            CLOCK.seen(int(error.get("last_seq", 0)))
        return outcome

    def ask(self, do: Any, *, patient: bool = True, **more: Any) -> str:
        """Send a request that is in order; the outcome, after as many tries as order and (if ``patient``) rate want."""
        deadline, outcome = time.monotonic() + MARGIN, OPEN
        while time.monotonic() < deadline:
            self.send(request(do, CLOCK.next(), **more))
            outcome = self.outcome(deadline - time.monotonic())
            if outcome != "replayed" and (outcome != "limited" or not patient):
                break
            time.sleep(0.1)
        return outcome

    def beat(self) -> str:
        """Have a heartbeat carried out."""
        return self.ask(BEAT)


def told(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return what a reply says: the code of an error, or ``effect ...``; and its result."""
    try:
        reply = json.loads(line.decode())
        result, _ = reply["result"], int(reply["seq"])
        kind = str(result["type"])
        return (str(result["code"]) if kind == "error" else f"effect {kind}"), result
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"unreadable reply {line[:60]!r}", {}


def talk() -> Talk:
    """Return a connection on which a heartbeat was answered just now; `Lost` if there is none in time."""
    said, deadline = "", min(END, time.monotonic() + PLAN["recovery"])
    while time.monotonic() < deadline:
        try:
            made = Talk().handshake()
            if (said := made.beat()) == "effect done":
                return made
            made.sock.close()
        except (OSError, EOFError) as error:
            said = repr(error)
        time.sleep(0.1)
    raise Lost(f"no connection on which a heartbeat is answered: {said}")


def control(tally: Tally) -> tuple[float | None, str]:
    """Ask on a fresh connection for what must be granted and what must be denied; seconds, or None and why not."""
    global END
    began = time.monotonic()
    END = began + PLAN["recovery"] + MARGIN
    try:
        fresh = talk()
    except Lost as error:
        return None, str(error)
    took = time.monotonic() - began
    tally.add("status.get without a session", fresh.ask({"type": "status.get"}), ("denied", *LIMITED))
    fresh.sock.close()
    return took, ""


def last_seq(tally: Tally) -> int:
    """Ask the backend for the largest ``seq`` it has seen, by one that is surely too old."""
    fresh = talk()
    try:
        fresh.send(request(BEAT, 1))
        outcome, error = told(fresh.line(MARGIN) or b"")
        if outcome != "replayed":
            tally.add("a heartbeat with seq 1 after one with a larger", outcome, ("replayed",))
        return int(error.get("last_seq", CLOCK.last))
    finally:
        fresh.sock.close()


class Bystander(threading.Thread):
    """A well-behaved connection from before the attack, such as the front-end's own."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._tally, self._talk, self._stop_it = tally, talk(), threading.Event()
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        """Ask and ask; stop when told to or left without an answer."""
        while not self._stop_it.wait(0.3):
            began = time.monotonic()
            outcome = self._talk.ask(BEAT, patient=False)
            self.times.append(time.monotonic() - began)
            self._tally.add("a connection from before the attack", outcome, ("effect done", *LIMITED))
            if outcome in ("closed", OPEN):
                return

    def __enter__(self) -> "Bystander":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join(2 * MARGIN)
        worst = max(self.times, default=-1.0)
        self._tally.notes.append(f"bystander asked {len(self.times)} times, slowest answer {worst:.2f} s")
        if not self.times:
            raise Lost("the bystander was never asked")
        self._talk.sock.close()


def at_once(jobs: list[Callable[[], None]], threads: int) -> None:
    """Do jobs in threads; the first `Lost` is raised at the end."""
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
        worker.join(max(0.0, END - time.monotonic()) + 3 * MARGIN)
    if lost:
        raise lost[0]
    if any(worker.is_alive() for worker in workers) or next(todo, None) is not None:
        raise Lost("not done in time")


def lines(tally: Tally, cases: list[tuple[str, bytes]]) -> None:
    """Send lines that must be refused, one by one; a connection that ends is followed by another."""
    current = talk()
    for what, line in cases:
        if current.beat() != "effect done":
            current.sock.close()
            current = talk()
        current.send(line + b"\n")
        tally.add(what, current.outcome(PLAN["line_s"] + MARGIN), ("malformed", "version", "closed"))
    current.sock.close()


def malformed(tally: Tally, rng: random.Random) -> None:
    """What is not JSON, or not a request."""
    mark = tally.mark
    good = request(BEAT, mark)[:-1]
    name: dict[str, Any] = {"type": "hostname.set", "hostname": "a"}
    value: Any
    do: Any
    things: dict[str, bytes] = {f"cut after {k} bytes": good[:k] for k in range(1, len(good), 1 if PLAN["full"] else 7)}
    for text in '[] {} "" 0 null true NaN [[]] {"v":1} nonsense GET'.split():  # noqa: SIM905 - short
        things[text] = text.encode()
    for value in (None, "1", 1.5, [], {}, -1, True, 0, 2**63, 2**64, -(2**63), 10**400, 1e300, "x" * 3000):
        things[f"seq {str(value)[:20]}"] = request(BEAT, value)[:-1]
    for raw in (b"1e400", b"05", b"+5", b"0x5", b"5.0", b"5e0", b"Infinity", b"5" * 3000):
        things[f"seq {raw[:9]!r}"] = good.replace(str(mark).encode(), raw)
    for value in (None, "1", 1.5, [], True, 10**30):
        things[f"version {value!r}"] = json.dumps({"v": value, "seq": mark, "do": BEAT}).encode()
    for do in (None, 1, "vm.heartbeat", [], {}, [BEAT], {"type": None}, {"type": 1}, {"type": BEAT}, {"type": ["x"]}):
        things[f"do {do!r}"] = request(do, mark)[:-1]
    for kind in ("", "vm.heartbeat ", "VM.HEARTBEAT", "vm.heartbeat\0", "exec", "done", "session", "shell", "vm.stop"):
        things[f"type {kind!r}"] = request({"type": kind}, mark)[:-1]
    for extra in ({"x": 1}, {"__class__": "y"}, {"Token": None}, {"v ": 1}, {"\0": 0}):
        things[f"more {extra!r}"] = request(BEAT, mark, **extra)[:-1]
        things[f"more in do {extra!r}"] = request(BEAT | extra, mark)[:-1]
    for value in ("", "x", "x" * 42, "x" * 44, "!" * 43, 1, [], {}, "x" * 42 + "\n", "\u00e4" * 43):
        things[f"token {len(str(value))} {value!r}"[:40]] = request(BEAT, mark, token=value)[:-1]
    for value in ("", "a b", "A", "-a", "a-", "a.b", "a" * 64, "a\n", "a\0", "../a", "$(a)", "\u00e4", 1, None, ["a"]):
        things[f"host name {len(str(value))} {value!r}"[:40]] = request(name | {"hostname": value}, mark)[:-1]
    for do in ({"type": "session.open"}, {"type": "session.open", "user": "admin", "password": "", **_FROM},
               {"type": "session.open", "user": "admin", "password": "x", "service": "telnet", "address": "::"},
               {"type": "session.open", "user": "admin", "password": "x", "service": "ssh", "address": "::%lo"},
               {"type": "session.open", "user": "admin", "password": "x" * 257, **_FROM}):  # fmt: skip
        things[f"do {do!r}"] = request(do, mark)[:-1]
    for raw in (b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x1b[2J"):
        things[f"{raw!r} before"] = raw + good
        things[f"{raw!r} behind"] = good + raw
        things[f"{raw!r} in a field"] = good.replace(b"vm.heart", b"vm." + raw + b"heart")
    for deep in (b"[", b'{"a":', b'{"do":', b"[[{"):
        things[f"{deep!r} without end"] = deep * ((MAX_LINE - 2) // len(deep))
        few = (MAX_LINE - 200) // (len(deep) + 2)
        things[f"{deep!r} in a field"] = good.replace(b'{"type": "vm.heartbeat"}', deep * few + b"1")
    things["two in a line"], things["two with a comma"] = good + good, good + b"," + good
    things["a comment"], things["single quotes"] = good + b"//", good.replace(b'"', b"'")
    cases = list(things.items())
    rng.shuffle(cases)
    # Two at a time: the front-end's own heartbeats need a part of the rate as well.
    at_once([partial(lines, tally, cases[i::2]) for i in range(2)], 2)


def is_heartbeat(line: bytes) -> bool:
    """Whether a line is a request that needs no token, by this file's own reading of the schema."""
    try:
        found = json.loads(line.decode())
        if not isinstance(found, dict) or not found.keys() <= {"v", "seq", "do", "token"}:
            return False
        seq, token = found["seq"], found.get("token")
        known = token is None or (isinstance(token, str) and TOKEN.match(token) is not None)
        numbers = type(found["v"]) is int and found["v"] == 1 and type(seq) is int and 1 <= seq < 2**63
        return bool(numbers and found["do"] == BEAT and known)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


_WORDS = [*(bytes([one]) for one in b'[]{}":,\0\xff'), b"null", b"true", b"-1", b"1e9", b"\\u0000", b"\\ud800"]
_FROM = {"service": "https", "address": "192.0.2.7"}
_DOS: tuple[dict[str, Any], ...] = (
    BEAT,
    {"type": "status.get"},
    {"type": "ports.list"},
    {"type": "session.close"},
    {"type": "system.reboot"},
    {"type": "hostname.set", "hostname": "taken"},
    {"type": "password.set", "old": "x", "new": "y" * 12},
)


def mutated(rng: random.Random) -> bytes:
    """Return a request after some accidents."""
    token = "".join(rng.choices("ABCxyz019_-", k=43)) if rng.random() < 0.5 else None
    line = bytearray(request(rng.choice(_DOS), CLOCK.next(), token=token)[:-1])
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.choices(range(len(line) + 1), k=2))
        match rng.randrange(6):
            case 0 if line:
                line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
            case 1:
                del line[at : at + rng.randint(1, 4)]
            case 2:
                line[at:at] = rng.choice(_WORDS)
            case 3:
                line[at:at] = line[at : min(to, at + 200)]
            case 4:
                line[at:to] = line[at:to][::-1]
            case 5:
                line[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(line).replace(b"\n", b" ")[: MAX_LINE - 1]


def mutants(tally: Tally, rng: random.Random) -> None:
    """Damaged requests. One that is still a good heartbeat may be granted; nothing else may."""

    def some(rng: random.Random, number: int) -> None:
        current = talk()
        for _ in range(number):
            line = mutated(rng)
            current.send(line + b"\n")
            outcome = current.outcome(PLAN["line_s"] + MARGIN)
            allowed: tuple[str, ...] = ("malformed", "version", "denied", *LIMITED)
            if is_heartbeat(line):
                allowed += ("effect done",)
            tally.add(repr(line), outcome, allowed)
            if outcome == "closed":
                raise Lost("the connection was closed on a mutant")
        current.sock.close()

    number = PLAN["mutants"] // 4
    at_once([partial(some, random.Random(rng.getrandbits(64)), number) for _ in range(4)], 4)


def oversized(tally: Tally, rng: random.Random) -> None:
    """Lines about and above the limit."""
    for _ in range(20):  # the longest line there may be; another one's heartbeat may overtake its seq
        current = talk()
        current.send(request(BEAT, CLOCK.next())[:-1].ljust(MAX_LINE - 1) + b"\n")
        outcome = current.outcome(MARGIN)
        current.sock.close()
        if outcome not in LIMITED:
            break
    tally.add(f"a line of {MAX_LINE} bytes", outcome, ("effect done",))
    sizes = (MAX_LINE + 1, MAX_LINE + 2, 2 * MAX_LINE, 65536, 1 << 20, 16 << 20)
    beat = request(BEAT, tally.mark)[:-1]
    tries = [(size, start, end) for size in sizes for start in (beat, b"[") for end in (b"\n", b"")]
    for size, start, end in tries:
        current = talk()
        # A heartbeat may have spaces behind it (RFC 8259 section 2): only its length is wrong.
        taken = current.send(start.ljust(size - len(end), b" " if start is beat else start) + end)
        if size > 4 << 20:
            tally.must(f"no more than 4 MiB of a line are taken ({taken} bytes were)", holds=taken <= 4 << 20)
        tally.add(f"a line of {size} bytes", current.outcome(PLAN["line_s"] + MARGIN), ("oversized", "closed"))
        current.sock.close()


def trickle(
    tally: Tally, what: str, send: Callable[[bytes], object], data: bytes, ended: Callable[[float], str], limit: float
) -> None:
    """Send a byte a second, or nothing, until the far end has had enough; it must within ``limit`` seconds."""
    began = time.monotonic()
    outcome = OPEN
    for at in range(1000):
        if time.monotonic() - began > limit + MARGIN:
            break
        with suppress(OSError):
            send(data[at : at + 1])
        if (outcome := ended(1.0)) != OPEN:
            break
    tally.add(what, outcome, ("incomplete", "closed"))
    tally.notes.append(f"{what}: {outcome} after {time.monotonic() - began:.1f} s")


def raw_end(sock: socket.socket) -> Callable[[float], str]:
    """Return what tells whether a bare TCP connection has ended; what it says instead must be TLS."""
    said = bytearray()

    def ended(timeout: float) -> str:
        sock.settimeout(timeout)
        try:
            while data := sock.recv(65536):
                said.extend(data[:65536])
                if b'"seq"' in said or b'"type"' in said or len(said) > 1 << 20:
                    return f"reply in plain text {bytes(said[:60])!r}"
        except TimeoutError:
            return OPEN
        except OSError:
            pass
        return "closed"

    return ended


def hello() -> bytes:
    """Return a TLS client's first flight."""
    out = ssl.MemoryBIO()
    tls = OWN.wrap_bio(ssl.MemoryBIO(), out, server_hostname=PLAN["name"])
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def slow(tally: Tally, rng: random.Random) -> None:
    """Lines and handshakes that do not end, beside a connection that behaves."""
    jobs: list[Callable[[], None]] = []

    def line(tell: str, data: bytes, limit: float) -> None:
        current = talk()
        trickle(tally, tell, lambda byte: current.send(byte) if byte else None, data, current.outcome, limit)
        current.sock.close()

    def shake(tell: str, data: bytes) -> None:
        sock = connected()
        trickle(tally, tell, sock.sendall, data, raw_end(sock), PLAN["handshake_s"])
        sock.close()

    beat = request(BEAT, tally.mark)
    jobs += [partial(line, "a line of a byte a second", beat, PLAN["line_s"])] * 2
    jobs += [partial(shake, "a handshake that does not begin", b""), partial(shake, "a byte a second of it", hello())]
    if PLAN["full"]:
        jobs.append(partial(line, "a connection that says nothing", b"", PLAN["idle_s"]))
    with Bystander(tally):
        at_once(jobs, len(jobs))


def strangers(folder: str) -> dict[str, tuple[str, str | None]]:
    """Make certificates that are not the pinned one; name to folder and stem."""
    known: dict[str, tuple[str, str | None]] = {"no certificate": (FOLDER, None)}
    if os.path.exists(f"{FOLDER}/web.crt"):
        known["the web page's certificate"] = (FOLDER, "web")
    import datetime

    # The image has no legacy algorithms, as front-end and backend want none; the library asks to be told.
    os.environ["CRYPTOGRAPHY_OPENSSL_NO_LEGACY"] = "1"
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with open(f"{FOLDER}/link.key", "rb") as file, open(f"{FOLDER}/link.crt", "rb") as certificate:
        own: Any = serialization.load_pem_private_key(file.read(), None)
        pinned = x509.load_pem_x509_certificate(certificate.read())
    new, start = Ed25519PrivateKey.generate(), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for stem, what, key, signer in (
        ("stranger", "a certificate signed by itself, with the front-end's name", new, new),
        ("twin", "another certificate for the front-end's own key", own, own),
        ("child", "a certificate signed by the front-end's key", new, own),
    ):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, stem)]) if stem == "child" else pinned.subject
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(pinned.subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=36500))
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(signer, None)
        pem = serialization.Encoding.PEM
        chain = made.public_bytes(pem) + (pinned.public_bytes(pem) if stem == "child" else b"")
        with open(f"{folder}/{stem}.crt", "wb") as file:
            file.write(chain)
        with open(f"{folder}/{stem}.key", "wb") as file:
            file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        known[what] = (folder, stem)
    return known


def tls(tally: Tally, rng: random.Random) -> None:
    """Who is not the front-end, or does not speak TLS 1.3, is not heard."""
    beat, first = request(BEAT, tally.mark), hello()
    bare = {
        "a heartbeat without TLS": beat,
        "HTTP": b"GET / HTTP/1.0\r\n\r\n",
        "an SSH greeting": b"SSH-2.0-x\r\n",
        "random bytes": rng.randbytes(512),
        "a TLS record longer than the longest": b"\x16\x03\x01\xff\xff" + rng.randbytes(512),
        "a client hello of SSL 2": b"\x80\x2e\x01\x00\x02" + rng.randbytes(41),
        "a heartbeat as TLS application data": b"\x17\x03\x03" + struct.pack("!H", len(beat)) + beat,
        "a client hello and a heartbeat behind it": first + beat,
        "a damaged client hello": first[:50] + rng.randbytes(len(first) - 50),
    }
    for what, data in bare.items():
        talk().sock.close()  # the backend takes connections just now
        sock = connected()
        with suppress(OSError):
            sock.sendall(data)
        tally.add(what, raw_end(sock)(PLAN["handshake_s"] + MARGIN), ("closed",))
        sock.close()
    with tempfile.TemporaryDirectory() as folder:
        tried = {what: context(stem, place) for what, (place, stem) in strangers(folder).items()}
        old = context()
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        tried["TLS 1.2"] = old
        for what, chosen in tried.items():
            talk().sock.close()
            made = Talk(chosen)
            try:
                made.handshake()
                made.send(beat)
                outcome = made.outcome(PLAN["handshake_s"] + MARGIN)
            except (OSError, EOFError):
                outcome = "closed"
            tally.add(what, outcome, ("closed",))
            made.sock.close()
    talk().sock.close()


def records(tally: Tally, rng: random.Random) -> None:
    """Records after the handshake that TLS does not know, among them a second handshake."""
    beat, first = request(BEAT, tally.mark), hello()

    def changed(at: int, current: Talk) -> bytes:
        record = bytearray(current.sealed(beat))
        record[at] ^= 1 << rng.randrange(8)
        return bytes(record)

    makers: dict[str, Callable[[Talk], bytes]] = {
        "a second client hello in the open": lambda _: first,
        "a second client hello within": lambda t: t.sealed(first + b"\n"),
        "a heartbeat in the open": lambda _: beat,
        "a heartbeat in an open record": lambda _: b"\x17\x03\x03" + struct.pack("!H", len(beat)) + beat,
        "a record longer than the longest": lambda _: b"\x17\x03\x03\x50\x00" + bytes(0x5000),
        "an alert in the open": lambda _: b"\x15\x03\x03\x00\x02\x02\x28",
        "many changes of cipher": lambda _: b"\x14\x03\x03\x00\x01\x01" * 100,
        **{f"a record with byte {at} changed": partial(changed, at) for at in (0, 5, 9, 30, -1)},
    }
    for what, make in makers.items():
        current = talk()
        with suppress(OSError):
            current.sock.sendall(make(current))
            # A record whose length was changed would be waited for.
            current.sock.shutdown(socket.SHUT_WR)
        tally.add(what, current.outcome(PLAN["line_s"] + MARGIN), ("closed", "malformed", "incomplete"))
        current.sock.close()
    current = talk()
    record = current.sealed(request(BEAT, CLOCK.next()))
    for what, allowed in (("a record", ("effect done", *LIMITED)), ("the same record again", ("closed",))):
        with suppress(OSError):
            current.sock.sendall(record)
        tally.add(what, current.outcome(PLAN["line_s"] + MARGIN), allowed)
    current.sock.close()


def cut(tally: Tally, rng: random.Random) -> None:
    """Connections that end within a handshake, a record or a line, in good order or by a reset."""
    beat = request(BEAT, tally.mark)
    sample = talk()
    sizes = {"client hello": len(hello()), "record": len(sample.sealed(beat)), "line": len(beat)}
    sample.sock.close()
    shaking = Talk()
    sizes["last flight"] = len(shaking.last_flight())
    shaking.sock.close()
    jobs: list[Callable[[], None]] = []
    for part, size in sizes.items():
        step = 1 if part in ("record", "line") else 4
        offsets = list(range(rng.randrange(step), size, step))
        chosen = offsets if PLAN["full"] else rng.sample(offsets, min(10, len(offsets)))
        jobs += [partial(_cut, tally, part, at, beat, hard=rng.random() < 0.5) for at in chosen]
        # All but the last byte, the newline in case of the line.
        jobs += [partial(_cut, tally, part, size - 1, beat, hard=hard) for hard in (False, True)]
    rng.shuffle(jobs)
    at_once(jobs, 3)


def _cut(tally: Tally, part: str, at: int, beat: bytes, *, hard: bool) -> None:
    """End a connection after ``at`` bytes of a part of it."""
    while True:
        try:
            if part == "client hello":
                made, data = Talk(), hello()[:at]
            elif part == "last flight":
                made = Talk()
                data = made.last_flight()[:at]
            else:
                made = talk()
                data = made.sealed(beat)[:at] if part == "record" else made.sealed(beat[:at]) if at else b""
            made.sock.sendall(data)
            break
        except (OSError, EOFError):  # the backend was full
            if time.monotonic() > END:
                raise Lost("no time left") from None
    outcome = "reset by us"
    if hard:
        reset(made.sock)
    else:
        with suppress(OSError):
            if part == "line":
                with suppress(ssl.SSLError):
                    made.tls.unwrap()
                made.sock.sendall(made.outgoing.read())
            made.sock.shutdown(socket.SHUT_WR)
        limit = PLAN["handshake_s"] + MARGIN
        outcome = made.outcome(limit) if part in ("record", "line") else raw_end(made.sock)(limit)
        made.sock.close()
    tally.add(f"an end after {at} bytes of the {part}", outcome, ("reset by us", "closed", "incomplete"))


def sequence(tally: Tally, rng: random.Random) -> None:
    """Numbers that were there before, that run ahead, and versions that nobody speaks."""
    one, two = talk(), talk()
    for _ in range(20):  # until no other heartbeat comes between
        seq = CLOCK.next(8)
        line = request(BEAT, seq)
        one.send(line)
        if (outcome := one.outcome(MARGIN)) not in LIMITED:
            break
        time.sleep(0.1)
    tally.add("the line that is to be replayed", outcome, ("effect done",))
    for where, what in ((one, "the same connection"), (two, "another connection")):
        where.send(line)
        tally.add(f"a replay on {what}", where.outcome(MARGIN), ("replayed",))
        where.send(request(BEAT, seq - 1))
        tally.add(f"an older seq on {what}", where.outcome(MARGIN), ("replayed",))
    pair = request(BEAT, CLOCK.next())
    one.send(pair + pair + pair)
    said = [one.outcome(MARGIN) for _ in range(3)]
    tally.add("the same line three times in one record", said[1], LIMITED)
    tally.add("the same line three times in one record", said[2], LIMITED)
    for ahead in (2**63 - 1, 2**63 - 2, rng.randrange(2**62 + 2**60, 2**63)):
        one.send(request(BEAT, ahead))
        tally.add(f"seq {ahead}", one.outcome(MARGIN), ("replayed",))
    for v in (0, 2, -1, 3, 99, 2**31, 2**63):
        one.send(json.dumps({"v": v, "seq": tally.mark, "do": BEAT}).encode() + b"\n")
        tally.add(f"version {v}", one.outcome(MARGIN), ("version", "malformed"))
    tally.must("the sequence after numbers that run ahead", holds=last_seq(tally) < tally.mark)
    one.sock.close()
    two.sock.close()


def pipelined(tally: Tally, rng: random.Random) -> None:
    """Thousands of good requests at once: answered in order, and no faster than declared."""
    # The front-end's own numbers are nanoseconds: ours stay ahead of them even at half the rate, with room between.
    number, stride = PLAN["pipelined"], int(2e9 / PLAN["request_rate"])
    last = last_seq(tally)
    current = talk()
    first = max(last, time.time_ns()) + 2**32
    seqs = [first + stride * i for i in range(number)]
    CLOCK.seen(seqs[-1])
    began = time.monotonic()
    # One thread at a time has the TLS object: seal first, then send while replies are read.
    data = current.sealed(b"".join(request(BEAT, seq) for seq in seqs))
    sender = threading.Thread(target=_push, args=(current.sock, data), daemon=True)
    sender.start()
    answered = granted = 0
    for seq in seqs:
        line = current.line(min(END - time.monotonic(), PLAN["line_s"] + MARGIN))
        if not line:
            break
        outcome, _ = told(line)
        answered, granted = answered + 1, granted + (outcome == "effect done")
        tally.add("a pipelined heartbeat", outcome, ("effect done", *LIMITED))
        if json.loads(line).get("seq") != seq:
            tally.must("the order of replies", holds=False)
            break
    took = time.monotonic() - began
    reset(current.sock)
    tally.notes.append(f"{answered} of {number} answered in {took:.1f} s, {granted} granted")
    tally.must(f"every one of {number} requests is answered", holds=answered == number)
    allowed = PLAN["request_burst"] + PLAN["request_rate"] * took
    tally.must(f"at most {allowed:.0f} are granted ({granted} were)", holds=granted <= allowed + 5)
    if not granted:
        raise Lost("no pipelined heartbeat was granted")


def _push(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)


def connections(tally: Tally, rng: random.Random) -> None:
    """More connections than are taken: at most the declared number lives, a bystander is still served."""
    with Bystander(tally):
        held: list[Talk] = []
        failed, deadline = 0, time.monotonic() + 15.0
        while len(held) < 3 * PLAN["connections"] and failed < 8 and time.monotonic() < deadline:
            try:
                made = Talk().handshake()
                if made.beat() != "effect done":
                    raise EOFError
                held.append(made)
            except (OSError, EOFError):
                failed += 1
        alive = sum(one.beat() == "effect done" for one in held)
        tally.notes.append(f"{alive} connections at once were served")
        tally.must(f"at most {PLAN['connections']} connections are served at once", holds=alive < PLAN["connections"])
        for one in held:
            one.sock.close()
        if not held:
            raise Lost("none of the connections was served")
        crowd: list[socket.socket] = []
        opened = 0
        deadline = time.monotonic() + (15.0 if PLAN["full"] else 6.0)
        while time.monotonic() < deadline and opened < PLAN["crowd"]:
            sock = socket.socket()
            sock.setblocking(False)
            with suppress(OSError):
                sock.connect_ex(PLACE)
            crowd.append(sock)
            opened += 1
            if len(crowd) > 400:  # file descriptors
                for old in crowd[:200]:
                    reset(old)
                del crowd[:200]
                time.sleep(1.0)
        for one_of_many in crowd:
            with suppress(OSError):
                one_of_many.send(b"\x16")
        time.sleep(1.0)
        for one_of_many in crowd:
            reset(one_of_many)
        tally.counts[f"{opened} connections begun"] = 1


def approval(tally: Tally, rng: random.Random) -> None:
    """Instructions without a session of an operator, and guesses at his password."""
    current = talk()
    tokens = [None, "A" * 43, "_" * 43, "-" * 43, "".join(rng.choices("ABCDEFabcdef0123456789-_", k=43))]
    for do in _DOS[1:]:
        for token in tokens:
            outcome = current.ask(do, patient=False, token=token)
            tally.add(f"{do['type']} with the token {token}", outcome, ("denied", "limited"))
    looked_at = 0
    for guess in range(8):
        do = {"type": "session.open", "user": "admin", "password": f"guess {rng.random()}", **_FROM}
        outcome = current.ask(do, patient=False)
        looked_at += outcome == "denied"
        tally.add(f"guess {guess} at the password", outcome, ("denied", "limited"))
    tally.notes.append(f"{looked_at} of 8 guesses at the password were looked at")
    tally.must("guesses at the password are slowed down", holds=0 < looked_at < 8)
    # Whoever has the VM says where a guess comes from.
    lies, looked_at, began = int(PLAN["look_burst"]) + 30, 0, time.monotonic()
    for guess in range(lies):
        if time.monotonic() > END - MARGIN:
            raise Lost(f"no time left after {guess} of {lies} guesses from as many addresses")
        do = {"type": "session.open", "user": "admin", "password": f"guess {rng.random()}", "service": "ssh"}
        outcome = current.ask(do | {"address": f"2001:db8:{rng.getrandbits(16):x}::{guess:x}"}, patient=False)
        looked_at += outcome == "denied"
        tally.add(f"guess {guess} as somebody else", outcome, ("denied", "limited"))
    allowed = PLAN["look_burst"] + PLAN["look_rate"] * (time.monotonic() - began)
    tally.notes.append(f"{looked_at} of {lies} guesses were looked at, each from another address")
    kept = f"at most {allowed:.0f} of {lies} guesses from as many addresses are looked at"
    tally.must(kept, holds=looked_at <= allowed)
    current.sock.close()


ATTACKS = (malformed, oversized, slow, tls, records, cut, sequence, connections, approval, mutants, pipelined)


def main() -> dict[str, Any]:
    """Control, attack, control."""
    global END
    tally, rng, budget = Tally(), random.Random(PLAN["seed"]), END
    attack = {one.__name__: one for one in ATTACKS}[PLAN["attack"]]
    before, trouble = control(tally)
    after, moved, counts = None, False, Counter[str]()
    if before is not None:
        END = budget
        tally.counts.clear()
        try:
            tally.mark = last_seq(tally) + AHEAD
            attack(tally, rng)
        except Exception as error:
            trouble = f"{type(error).__name__} {error}"
        counts = Counter(tally.counts)
        after, why = control(tally)
        trouble = trouble or why
        if after is not None and attack not in (mutants, pipelined):
            END = time.monotonic() + PLAN["recovery"]
            moved = last_seq(tally) >= tally.mark
    if moved:
        tally.wrong.append("a request that was refused or never complete moved the backend's sequence")
    answer = {"before": before, "after": after, "tried": sum(counts.values()), "counts": dict(counts)}
    return answer | {"wrong": tally.wrong, "notes": tally.notes[:20], "trouble": trouble[:300]}


packed = zlib.compress(json.dumps(main()).encode(), 9)
print("SALLYPORT-MISUSE", f"{zlib.crc32(packed):08x}", base64.b64encode(packed).decode(), flush=True)
os._exit(0)
