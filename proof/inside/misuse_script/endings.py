"""Part of the script that attacks the instruction protocol: connections that are slow, idle, or end too early."""

import random
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from proof.inside.misuse_script.connection import (
    BUDGET,
    HEARTBEAT,
    MARGIN,
    OPEN,
    OWN,
    PLAN,
    Connection,
    Tally,
    Unreachable,
    open_connection,
    request,
    reset,
    run_in_threads,
    tcp_connection,
)
from proof.inside.misuse_script.controls import Bystander


def send_slowly(
    tally: Tally, what: str, send: Callable[[bytes], object], data: bytes, ended: Callable[[float], str], limit: float
) -> None:
    """Send a byte a second, or nothing; the backend must end the connection within ``limit`` seconds."""
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


def tcp_end(sock: socket.socket) -> Callable[[float], str]:
    """Return a function that tells whether a TCP connection has ended; anything it receives must be TLS."""
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


def client_hello() -> bytes:
    """Return a TLS client's first flight."""
    out = ssl.MemoryBIO()
    tls = OWN.wrap_bio(ssl.MemoryBIO(), out, server_hostname=PLAN["name"])
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def slow(tally: Tally, rng: random.Random) -> None:
    """Attack class: lines and handshakes that do not end, beside a well-behaved connection."""
    jobs: list[Callable[[], None]] = []

    def line(tell: str, data: bytes, limit: float) -> None:
        current = open_connection()
        send_slowly(tally, tell, lambda byte: current.send(byte) if byte else None, data, current.outcome, limit)
        current.sock.close()

    def shake(tell: str, data: bytes) -> None:
        sock = tcp_connection()
        send_slowly(tally, tell, sock.sendall, data, tcp_end(sock), PLAN["handshake_s"])
        sock.close()

    heartbeat = request(HEARTBEAT, tally.mark)
    jobs += [partial(line, "a line of a byte a second", heartbeat, PLAN["line_s"])] * 2
    jobs += [
        partial(shake, "a handshake that does not begin", b""),
        partial(shake, "a byte a second of it", client_hello()),
    ]
    if PLAN["full"]:
        jobs.append(partial(line, "a connection that says nothing", b"", PLAN["idle_s"]))
    with Bystander(tally):
        run_in_threads(jobs, len(jobs))


def cut(tally: Tally, rng: random.Random) -> None:
    """Attack class: connections that end within a handshake, a record or a line, by a close or a reset."""
    heartbeat = request(HEARTBEAT, tally.mark)
    sample = open_connection()
    sizes = {"client hello": len(client_hello()), "record": len(sample.sealed(heartbeat)), "line": len(heartbeat)}
    sample.sock.close()
    shaking = Connection()
    sizes["last flight"] = len(shaking.last_flight())
    shaking.sock.close()
    jobs: list[Callable[[], None]] = []
    for part, size in sizes.items():
        step = 1 if part in ("record", "line") else 4
        offsets = list(range(rng.randrange(step), size, step))
        chosen = offsets if PLAN["full"] else rng.sample(offsets, min(10, len(offsets)))
        jobs += [partial(_cut, tally, part, at, heartbeat, hard=rng.random() < 0.5) for at in chosen]
        # All but the last byte, the newline in case of the line.
        jobs += [partial(_cut, tally, part, size - 1, heartbeat, hard=hard) for hard in (False, True)]
    rng.shuffle(jobs)
    run_in_threads(jobs, 3)


def _cut(tally: Tally, part: str, at: int, heartbeat: bytes, *, hard: bool) -> None:
    """End a connection after ``at`` bytes of a part of it."""
    while True:
        try:
            if part == "client hello":
                made, data = Connection(), client_hello()[:at]
            elif part == "last flight":
                made = Connection()
                data = made.last_flight()[:at]
            else:
                made = open_connection()
                data = made.sealed(heartbeat)[:at] if part == "record" else made.sealed(heartbeat[:at]) if at else b""
            made.sock.sendall(data)
            break
        except (OSError, EOFError):  # the backend was full
            if time.monotonic() > BUDGET.end:
                raise Unreachable("no time left") from None
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
        outcome = made.outcome(limit) if part in ("record", "line") else tcp_end(made.sock)(limit)
        made.sock.close()
    tally.add(f"an end after {at} bytes of the {part}", outcome, ("reset by us", "closed", "incomplete"))
