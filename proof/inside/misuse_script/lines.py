"""Part of the script that attacks the instruction protocol: lines that are malformed, damaged at random, too long."""

import json
import random
from functools import partial
from typing import Any

from proof.inside.misuse_script.connection import (
    CLOCK,
    HEARTBEAT,
    INSTRUCTIONS,
    LIMITED,
    MARGIN,
    MAX_LINE,
    ORIGIN,
    PLAN,
    TOKEN,
    Tally,
    Unreachable,
    open_connection,
    request,
    run_in_threads,
)


def lines(tally: Tally, cases: list[tuple[str, bytes]]) -> None:
    """Send lines that must be refused, one by one; when a connection ends, the next one is opened."""
    current = open_connection()
    for what, line in cases:
        if current.heartbeat() != "effect done":
            current.sock.close()
            current = open_connection()
        current.send(line + b"\n")
        tally.add(what, current.outcome(PLAN["line_s"] + MARGIN), ("malformed", "version", "closed"))
    current.sock.close()


def malformed(tally: Tally, rng: random.Random) -> None:
    """Attack class: lines that are not JSON, or not a request."""
    mark = tally.mark
    good = request(HEARTBEAT, mark)[:-1]
    name: dict[str, Any] = {"type": "hostname.set", "hostname": "a"}
    value: Any
    do: Any
    things: dict[str, bytes] = {f"cut after {k} bytes": good[:k] for k in range(1, len(good), 1 if PLAN["full"] else 7)}
    for text in '[] {} "" 0 null true NaN [[]] {"v":1} nonsense GET'.split():  # noqa: SIM905 - short
        things[text] = text.encode()
    for value in (None, "1", 1.5, [], {}, -1, True, 0, 2**63, 2**64, -(2**63), 10**400, 1e300, "x" * 3000):
        things[f"seq {str(value)[:20]}"] = request(HEARTBEAT, value)[:-1]
    for raw in (b"1e400", b"05", b"+5", b"0x5", b"5.0", b"5e0", b"Infinity", b"5" * 3000):
        things[f"seq {raw[:9]!r}"] = good.replace(str(mark).encode(), raw)
    for value in (None, "1", 1.5, [], True, 10**30):
        things[f"version {value!r}"] = json.dumps({"v": value, "seq": mark, "do": HEARTBEAT}).encode()
    for do in (
        None,
        1,
        "vm.heartbeat",
        [],
        {},
        [HEARTBEAT],
        {"type": None},
        {"type": 1},
        {"type": HEARTBEAT},
        {"type": ["x"]},
    ):
        things[f"do {do!r}"] = request(do, mark)[:-1]
    for kind in ("", "vm.heartbeat ", "VM.HEARTBEAT", "vm.heartbeat\0", "exec", "done", "session", "shell", "vm.stop"):
        things[f"type {kind!r}"] = request({"type": kind}, mark)[:-1]
    for extra in ({"x": 1}, {"__class__": "y"}, {"Token": None}, {"v ": 1}, {"\0": 0}):
        things[f"more {extra!r}"] = request(HEARTBEAT, mark, **extra)[:-1]
        things[f"more in do {extra!r}"] = request(HEARTBEAT | extra, mark)[:-1]
    for value in ("", "x", "x" * 42, "x" * 44, "!" * 43, 1, [], {}, "x" * 42 + "\n", "\u00e4" * 43):
        things[f"token {len(str(value))} {value!r}"[:40]] = request(HEARTBEAT, mark, token=value)[:-1]
    for value in ("", "a b", "A", "-a", "a-", "a.b", "a" * 64, "a\n", "a\0", "../a", "$(a)", "\u00e4", 1, None, ["a"]):
        things[f"host name {len(str(value))} {value!r}"[:40]] = request(name | {"hostname": value}, mark)[:-1]
    for do in ({"type": "session.open"}, {"type": "session.open", "user": "admin", "password": "", **ORIGIN},
               {"type": "session.open", "user": "admin", "password": "x", "service": "telnet", "address": "::"},
               {"type": "session.open", "user": "admin", "password": "x", "service": "ssh", "address": "::%lo"},
               {"type": "session.open", "user": "admin", "password": "x" * 257, **ORIGIN}):  # fmt: skip
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
    # Two connections, as the front-end's own heartbeats need a part of the rate.
    run_in_threads([partial(lines, tally, cases[i::2]) for i in range(2)], 2)


def is_heartbeat(line: bytes) -> bool:
    """Whether a line is a request that needs no token, by this file's own reading of the schema."""
    try:
        found = json.loads(line.decode())
        if not isinstance(found, dict) or not found.keys() <= {"v", "seq", "do", "token"}:
            return False
        seq, token = found["seq"], found.get("token")
        known = token is None or (isinstance(token, str) and TOKEN.match(token) is not None)
        numbers = type(found["v"]) is int and found["v"] == 1 and type(seq) is int and 1 <= seq < 2**63
        return bool(numbers and found["do"] == HEARTBEAT and known)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


_FRAGMENTS = [*(bytes([one]) for one in b'[]{}":,\0\xff'), b"null", b"true", b"-1", b"1e9", b"\\u0000", b"\\ud800"]


def mutate(rng: random.Random) -> bytes:
    """Return a request that was damaged at random in one to four places."""
    token = "".join(rng.choices("ABCxyz019_-", k=43)) if rng.random() < 0.5 else None
    line = bytearray(request(rng.choice(INSTRUCTIONS), CLOCK.next(), token=token)[:-1])
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.choices(range(len(line) + 1), k=2))
        match rng.randrange(6):
            case 0 if line:
                line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
            case 1:
                del line[at : at + rng.randint(1, 4)]
            case 2:
                line[at:at] = rng.choice(_FRAGMENTS)
            case 3:
                line[at:at] = line[at : min(to, at + 200)]
            case 4:
                line[at:to] = line[at:to][::-1]
            case 5:
                line[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(line).replace(b"\n", b" ")[: MAX_LINE - 1]


def mutants(tally: Tally, rng: random.Random) -> None:
    """Attack class: damaged requests. One that is still a valid heartbeat may succeed; nothing else may."""

    def some(rng: random.Random, number: int) -> None:
        current = open_connection()
        for _ in range(number):
            line = mutate(rng)
            current.send(line + b"\n")
            outcome = current.outcome(PLAN["line_s"] + MARGIN)
            allowed: tuple[str, ...] = ("malformed", "version", "denied", *LIMITED)
            if is_heartbeat(line):
                allowed += ("effect done",)
            tally.add(repr(line), outcome, allowed)
            if outcome == "closed":
                raise Unreachable("the connection was closed on a mutant")
        current.sock.close()

    number = PLAN["mutants"] // 4
    run_in_threads([partial(some, random.Random(rng.getrandbits(64)), number) for _ in range(4)], 4)


def oversized(tally: Tally, rng: random.Random) -> None:
    """Attack class: lines at the length limit and above it."""
    for _ in range(20):  # the longest line there may be; another one's heartbeat may overtake its seq
        current = open_connection()
        current.send(request(HEARTBEAT, CLOCK.next())[:-1].ljust(MAX_LINE - 1) + b"\n")
        outcome = current.outcome(MARGIN)
        current.sock.close()
        if outcome not in LIMITED:
            break
    tally.add(f"a line of {MAX_LINE} bytes", outcome, ("effect done",))
    sizes = (MAX_LINE + 1, MAX_LINE + 2, 2 * MAX_LINE, 65536, 1 << 20, 16 << 20)
    heartbeat = request(HEARTBEAT, tally.mark)[:-1]
    tries = [(size, start, end) for size in sizes for start in (heartbeat, b"[") for end in (b"\n", b"")]
    for size, start, end in tries:
        current = open_connection()
        # A heartbeat may have spaces behind it (RFC 8259 section 2): only its length is wrong.
        taken = current.send(start.ljust(size - len(end), b" " if start is heartbeat else start) + end)
        if size > 4 << 20:
            tally.require(f"no more than 4 MiB of a line are taken ({taken} bytes were)", holds=taken <= 4 << 20)
        tally.add(f"a line of {size} bytes", current.outcome(PLAN["line_s"] + MARGIN), ("oversized", "closed"))
        current.sock.close()
