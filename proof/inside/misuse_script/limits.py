"""Part of the script that attacks the instruction protocol: sequence numbers, rates, connections, sessions."""

import json
import random
import socket
import threading
import time
from contextlib import suppress

from proof.inside.misuse_script.connection import (
    BUDGET,
    CLOCK,
    HEARTBEAT,
    INSTRUCTIONS,
    LIMITED,
    MARGIN,
    ORIGIN,
    PLACE,
    PLAN,
    Connection,
    Tally,
    Unreachable,
    open_connection,
    parse_reply,
    request,
    reset,
)
from proof.inside.misuse_script.controls import Bystander, last_seq


def sequence(tally: Tally, rng: random.Random) -> None:
    """Attack class: sequence numbers that were used before or are far ahead, and unknown versions."""
    one, two = open_connection(), open_connection()
    for _ in range(20):  # until no other heartbeat comes between
        seq = CLOCK.next(8)
        line = request(HEARTBEAT, seq)
        one.send(line)
        if (outcome := one.outcome(MARGIN)) not in LIMITED:
            break
        time.sleep(0.1)
    tally.add("the line that is to be replayed", outcome, ("effect done",))
    for where, what in ((one, "the same connection"), (two, "another connection")):
        where.send(line)
        tally.add(f"a replay on {what}", where.outcome(MARGIN), ("replayed",))
        where.send(request(HEARTBEAT, seq - 1))
        tally.add(f"an older seq on {what}", where.outcome(MARGIN), ("replayed",))
    pair = request(HEARTBEAT, CLOCK.next())
    one.send(pair + pair + pair)
    said = [one.outcome(MARGIN) for _ in range(3)]
    tally.add("the same line three times in one record", said[1], LIMITED)
    tally.add("the same line three times in one record", said[2], LIMITED)
    for ahead in (2**63 - 1, 2**63 - 2, rng.randrange(2**62 + 2**60, 2**63)):
        one.send(request(HEARTBEAT, ahead))
        tally.add(f"seq {ahead}", one.outcome(MARGIN), ("replayed",))
    for v in (0, 2, -1, 3, 99, 2**31, 2**63):
        one.send(json.dumps({"v": v, "seq": tally.mark, "do": HEARTBEAT}).encode() + b"\n")
        tally.add(f"version {v}", one.outcome(MARGIN), ("version", "malformed"))
    tally.require("the sequence after numbers that run ahead", holds=last_seq(tally) < tally.mark)
    one.sock.close()
    two.sock.close()


def pipelined(tally: Tally, rng: random.Random) -> None:
    """Attack class: thousands of valid requests at once; answered in order, and no faster than declared."""
    # The front-end's own numbers are nanoseconds: ours stay ahead of them even at half the rate, with room between.
    number, stride = PLAN["pipelined"], int(2e9 / PLAN["request_rate"])
    last = last_seq(tally)
    current = open_connection()
    first = max(last, time.time_ns()) + 2**32
    seqs = [first + stride * i for i in range(number)]
    CLOCK.seen(seqs[-1])
    began = time.monotonic()
    # One thread at a time has the TLS object: seal first, then send while replies are read.
    data = current.sealed(b"".join(request(HEARTBEAT, seq) for seq in seqs))
    sender = threading.Thread(target=_push, args=(current.sock, data), daemon=True)
    sender.start()
    answered = granted = 0
    for seq in seqs:
        line = current.line(min(BUDGET.end - time.monotonic(), PLAN["line_s"] + MARGIN))
        if not line:
            break
        outcome, _ = parse_reply(line)
        answered, granted = answered + 1, granted + (outcome == "effect done")
        tally.add("a pipelined heartbeat", outcome, ("effect done", *LIMITED))
        if json.loads(line).get("seq") != seq:
            tally.require("the order of replies", holds=False)
            break
    took = time.monotonic() - began
    reset(current.sock)
    tally.notes.append(f"{answered} of {number} answered in {took:.1f} s, {granted} granted")
    tally.require(f"every one of {number} requests is answered", holds=answered == number)
    allowed = PLAN["request_burst"] + PLAN["request_rate"] * took
    tally.require(f"at most {allowed:.0f} are granted ({granted} were)", holds=granted <= allowed + 5)
    if not granted:
        raise Unreachable("no pipelined heartbeat was granted")


def _push(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)


def connections(tally: Tally, rng: random.Random) -> None:
    """Attack class: more connections than are accepted; at most the declared number is served at once."""
    with Bystander(tally):
        held: list[Connection] = []
        failed, deadline = 0, time.monotonic() + 15.0
        while len(held) < 3 * PLAN["connections"] and failed < 8 and time.monotonic() < deadline:
            try:
                made = Connection().handshake()
                if made.heartbeat() != "effect done":
                    raise EOFError
                held.append(made)
            except (OSError, EOFError):
                failed += 1
        alive = sum(one.heartbeat() == "effect done" for one in held)
        tally.notes.append(f"{alive} connections at once were served")
        tally.require(
            f"at most {PLAN['connections']} connections are served at once", holds=alive < PLAN["connections"]
        )
        for one in held:
            one.sock.close()
        if not held:
            raise Unreachable("none of the connections was served")
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
    """Attack class: instructions without an operator's session, and guesses at passwords."""
    current = open_connection()
    tokens = [None, "A" * 43, "_" * 43, "-" * 43, "".join(rng.choices("ABCDEFabcdef0123456789-_", k=43))]
    for do in INSTRUCTIONS[1:]:
        for token in tokens:
            outcome = current.ask(do, patient=False, token=token)
            tally.add(f"{do['type']} with the token {token}", outcome, ("denied", "limited"))
    checked = 0
    for guess in range(8):
        do = {"type": "session.open", "user": "admin", "password": f"guess {rng.random()}", **ORIGIN}
        outcome = current.ask(do, patient=False)
        checked += outcome == "denied"
        tally.add(f"guess {guess} at the password", outcome, ("denied", "limited"))
    tally.notes.append(f"{checked} of 8 guesses at the password were checked")
    tally.require("guesses at the password are slowed down", holds=0 < checked < 8)
    # Root in the VM can name any address as the origin of a guess.
    guesses, checked, began = int(PLAN["password_burst"]) + 30, 0, time.monotonic()
    for guess in range(guesses):
        if time.monotonic() > BUDGET.end - MARGIN:
            raise Unreachable(f"no time left after {guess} of {guesses} guesses from as many addresses")
        do = {"type": "session.open", "user": "admin", "password": f"guess {rng.random()}", "service": "ssh"}
        outcome = current.ask(do | {"address": f"2001:db8:{rng.getrandbits(16):x}::{guess:x}"}, patient=False)
        checked += outcome == "denied"
        tally.add(f"guess {guess} from another address", outcome, ("denied", "limited"))
    allowed = PLAN["password_burst"] + PLAN["password_rate"] * (time.monotonic() - began)
    tally.notes.append(f"{checked} of {guesses} guesses were checked, each from another address")
    kept = f"at most {allowed:.0f} of {guesses} guesses from as many addresses are checked"
    tally.require(kept, holds=checked <= allowed)
    current.sock.close()
