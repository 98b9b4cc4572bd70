"""Frames that must be dropped are counted by the drop counters: a control for everything that stays unanswered.

Theory of operation. Each class of frames that the policy of the port refuses (backend/forwarder/core/policy.h) is sent
in a number of its own, between pings that the VM answers. A frame that was sent before an answered ping was judged
before it, as the wire and the data path keep the order; so the counters are read once per try, and the one of the
class must have risen by exactly that number. Who else is on the port (a neighbour's ARP, IPv6's own messages) sends
whole frames of known types to known addresses: that moves `rx_passed`, and none of the counters that are asked for.

All classes are first tried together, each counter by one class at a time. What did not count right is tried again
alone: then frames that were counted as passed instead are those of the class, and that is a hole.

Left out, because no frame can show them from outside: `rx_runt` (QEMU and network cards pad what they send to 60
bytes, and then no header is cut off), `rx_rate` (200,000 frames/s are more than an emulated machine receives),
`rx_offload` (a wire has no offload requests), `rx_no_buffer`, `rx_down` and `rx_failed` (the VM's or the kernel's
doing).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from proof.result import Result, Verdict
from proof.scan.controls import ipv4_path, ipv6_path, ping_control, send_until_answered
from proof.wire.craft import FramePath, arp_request, ether, tagged, udp
from proof.wire.neighbour import answering
from proof.wire.target import BROADCAST, Target
from proof.wire.wire import Tap, Wire, WireError

GROUP = "drops"
ROUNDS = 3
"""How often a class is tried: once together with others, then alone."""
MIN_FRAMES, MAX_FRAMES = 40, 90
"""Frames of one class in one try: a random number, so that a counter cannot be right by chance."""
PINGS = 4
"""Pings among the frames of each class, besides the one before and the one after."""
PING_TIMEOUT = 5.0
REREADS = 3
"""How often counters are read again while one of them still has to rise."""
FLOOD_SECONDS = 2.0
"""Seconds: at once are sent the broadcasts that the allowed rate would take so long for, and the burst."""
PASSED = "rx_passed"
SLOW_GROUP = "01:80:c2:00:00:02"
"""IEEE 802.1Q, table 8-1. Cards keep the one of pause frames (…:01) to themselves."""
SPORT = 19011
BODY = 46
"""Bytes of the shortest payload (IEEE 802.3); in the type field it is the length of an IEEE 802.3 frame."""
Read = Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class Allowed:
    """What the deployed policy allows (`[forwarder]` of the device profile); the defaults are the profile's."""

    ethertypes: tuple[int, ...] = (0x0800, 0x0806, 0x86DD)
    tags: int = 0
    max_frame: int = 1514
    group_rate: int = 2000
    group_burst: int = 512


@dataclass(frozen=True)
class FrameClass:
    """Frames that the policy refuses: ``counter`` says why, ``make`` returns one of them from a random mark."""

    name: str
    tried: str
    counter: str
    make: Callable[[bytes], bytes]


def classes(target: Target, allowed: Allowed) -> Iterator[FrameClass]:
    """Yield each class that ``allowed`` refuses and that reaches the port."""
    v4, vm = ipv4_path(target), target.vm_mac
    yield from _unknown_types(target, allowed)
    for address in (*target.host_ipv4, target.vm_link_ipv4):
        yield from _link_addresses(target, address)
    plain = _datagrams(v4)
    for depth in range(allowed.tags + 1, 4):
        tried = f"UDP to the VM behind {depth} VLAN tags"
        yield FrameClass(f"tags-{depth}", tried, "rx_tags", partial(_behind, plain, depth))
    if not allowed.tags:
        # One priority tag is none, and passes (see `_passing`); it hides nothing that comes behind it.
        twice = partial(_prioritised, lambda mark: tagged(plain(mark), 0))
        yield FrameClass("tags-priority-twice", "UDP to the VM behind two tags of VLAN 0", "rx_tags", twice)
        hidden = partial(_prioritised, partial(_behind, plain, 1))
        yield FrameClass("tags-priority-vlan", "UDP to the VM behind a tag of VLAN 0 and one of 42", "rx_tags", hidden)
        tried = "UDP to the VM behind an 802.1ad tag of VLAN 0"
        yield FrameClass("tags-priority-ad", tried, "rx_tags", lambda mark: tagged(plain(mark), 0, 0x88A8))
    group = f"{int(vm[:2], 16) | 1:02x}{vm[2:]}"
    for name, tried, mac in (("source-vm", "the VM's own MAC", vm), ("source-group", "a group's MAC", group)):
        yield FrameClass(name, f"{tried} as source", "rx_spoofed", _datagrams(replace(v4, src_mac=mac)))
    # Only the port's own MAC: a card that is not promiscuous drops frames to others before they are counted.
    if port := target.host_macs.get("mgmt0"):
        yield FrameClass("to-host", f"UDP to the port's MAC {port}", "rx_destination", _datagrams(v4.to(mac=port)))
    tried = "UDP to the group of slow protocols, which no bridge forwards"
    yield FrameClass("to-next-bridge", tried, "rx_destination", _datagrams(v4.to(mac=SLOW_GROUP)))
    over = allowed.max_frame + 1
    if over <= 1518:  # a longer one does not reach every port whose MTU is 1500
        tried = f"UDP to the VM in a frame of {over} bytes"
        yield FrameClass("oversized", tried, "rx_oversized", lambda mark: plain(mark.ljust(over - 42, b"\0")))


def _prioritised(make: Callable[[bytes], bytes], mark: bytes) -> bytes:
    return tagged(make(mark), 0, priority=5)


def _unknown_types(target: Target, allowed: Allowed) -> Iterator[FrameClass]:
    """Yield EtherTypes that the policy does not list, and none at all."""
    for kind in (0x88B5, 0x88CC, 0x8847, 0x8863, 0x0842):
        if kind not in allowed.ethertypes:
            tried, make = f"EtherType 0x{kind:04x} to the VM", partial(_typed, target, kind)
            yield FrameClass(f"ethertype-{kind:04x}", tried, "rx_ethertype", make)
    yield FrameClass("802.3", "IEEE 802.3 with LLC to the VM", "rx_ethertype", partial(_typed, target, BODY))


def _typed(target: Target, kind: int, mark: bytes) -> bytes:
    return ether(target.tester_mac, target.vm_mac, kind, (b"\x42\x42\x03" + mark).ljust(BODY, b"\0"))


def _link_addresses(target: Target, address: str) -> Iterator[FrameClass]:
    """Yield IPv4 to and from an address of the link, and ARP for it."""
    v4, counter = ipv4_path(target), "rx_link_address"
    to = v4.to(ip=address)
    yield FrameClass(f"link-ipv4-{address}", f"IPv4 for {address} at the VM's MAC", counter, _datagrams(to))
    request = arp_request(to, ethernet_dst=BROADCAST)
    yield FrameClass(f"link-arp-{address}", f"ARP for {address} to all", counter, lambda mark: request + mark)
    pretended = _datagrams(replace(v4, src_ip=address))
    yield FrameClass(f"link-source-{address}", f"IPv4 from {address} to the VM", counter, pretended)


def _datagrams(path: FramePath) -> Callable[[bytes], bytes]:
    """Return what makes marked datagrams to the discard port, which is closed: the VM would refuse one that passes."""
    return lambda mark: udp(path, SPORT, 9, mark)


def _behind(make: Callable[[bytes], bytes], depth: int, mark: bytes) -> bytes:
    frame = make(mark)
    for _ in range(depth):
        frame = tagged(frame, 42)
    return frame


@dataclass
class _ClassState:
    """One class under test, and what its tries showed."""

    kind: FrameClass
    sent: int = 0
    rose: int = 0
    tries: int = 0
    exact: bool = False
    suspicions: int = 0
    trouble: str = ""
    duration: float = 0.0
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Try:
    """One try: how much the counters rose, and how many frames were sent that may pass."""

    delta: Mapping[str, int]
    permitted: int
    answered: int
    asked: int

    @property
    def is_good(self) -> bool:
        """Whether every ping was answered and counted."""
        return self.answered == self.asked and self.delta.get(PASSED, 0) >= self.answered

    @property
    def excess(self) -> int:
        """How many more frames were counted as passed than were sent that may pass."""
        return self.delta.get(PASSED, 0) - self.permitted


class _CounterTest:
    """Sends classes of frames between pings and reads the counters."""

    def __init__(self, wire: Wire, tap: Tap, read: Read, target: Target, rng: random.Random) -> None:
        self._wire, self._tap, self._read, self._rng = wire, tap, read, rng
        self._paths = (ipv4_path(target), ipv6_path(target))
        self._before = dict(read())
        self._asked = self._answered = 0

    @property
    def names(self) -> frozenset[str]:
        """The counters that there are."""
        return frozenset(self._before)

    def ping(self, *, priority: bool = False) -> bool:
        """Send the VM a ping, which must pass, with or without a priority tag; return whether it was answered."""
        self._asked += 1
        probe = ping_control(self._rng.choice(self._paths), self._rng)
        if priority:
            probe = replace(probe, frame=tagged(probe.frame, 0, priority=5))
        seen = send_until_answered(self._wire, self._tap, probe, timeout=PING_TIMEOUT)[0] is not None
        self._answered += seen
        return seen

    def send(self, cases: Sequence[_ClassState]) -> _Try:
        """Send a random number of frames of each class among pings; return what was counted, and set ``rose``."""
        before, self._asked, self._answered = self._wire.sent, 0, 0
        for case, count in zip(cases, self._rng.sample(range(MIN_FRAMES, MAX_FRAMES), len(cases)), strict=True):
            case.sent, case.tries = 0, case.tries + 1
            frames = [case.kind.make(self._rng.randbytes(8)) for _ in range(count)]
            step = -(-count // PINGS)
            for start in range(0, count, step):
                if not self.ping():
                    break
                self._wire.send_many(frames[start : start + step])
                case.sent += len(frames[start : start + step])
        self.ping()
        permitted = self._wire.sent - before - sum(case.sent for case in cases)
        delta = self._delta({PASSED: self._answered} | {case.kind.counter: case.sent for case in cases})
        for case in cases:
            case.rose = delta.get(case.kind.counter, 0)
        return _Try(delta, permitted, self._answered, self._asked)

    def permitted(self, count: int, *, priority: bool = False) -> _Try:
        """Send nothing but so many pings, with or without priority tags; return what was counted."""
        before, self._asked, self._answered = self._wire.sent, 0, 0
        while self._asked < count and self.ping(priority=priority):
            pass
        sent = self._wire.sent - before
        return _Try(self._delta({PASSED: self._answered}), sent, self._answered, self._asked)

    def _delta(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Read until each counter has risen as wanted, a few times; return how all rose since the last call."""
        delta: dict[str, int] = {}
        for _ in range(1 + REREADS):
            after = dict(self._read())
            delta = {name: after[name] - self._before.get(name, 0) for name in after}
            if all(delta.get(name, 0) >= count for name, count in wanted.items()):
                break
        self._before = {name: self._before.get(name, 0) + rise for name, rise in delta.items()}
        return delta

    def flood(self, frames: Sequence[bytes]) -> tuple[dict[str, int], float]:
        """Send frames at once; return how the counters rose and how long it was until a ping behind them came back."""
        began = time.monotonic()
        self._wire.send_many(frames)
        took = time.monotonic() - began
        answered = self.ping()
        took = max(took, time.monotonic() - began) if answered else float("inf")
        return self._delta({}), took


def run_counters(
    wire: Wire,
    read: Read,
    target: Target,
    *,
    rng: random.Random,
    rounds: int = ROUNDS,
    allowed: Allowed | None = None,
) -> list[Result]:
    """Send frames that must be dropped and find each on its counter; never raises for what the far end does.

    Args:
        wire: on the port; nobody but the probes and the appliance should be there.
        read: returns the forwarder's counters in frames, named as in backend/forwarder/counters.py. A counter that
            is not there is not this way's to keep, and its classes are left out.
        target: what is promised at the port.
        rng: makes the marks and the numbers.
        rounds: tries of each class, at least one.
        allowed: the deployed policy; the profile's defaults if none is given.
    """
    policy, began = allowed or Allowed(), time.monotonic()
    cases = [_ClassState(kind) for kind in classes(target, policy)]
    results: list[Result] = []
    trouble = ""
    try:
        with answering(wire, target), wire.tap() as tap:
            counter_test = _CounterTest(wire, tap, read, target, rng)
            cases = [case for case in cases if case.kind.counter in counter_test.names]
            results += [_passing(counter_test), _passing(counter_test, priority=True)]
            if results[0].verdict is not Verdict.CONTROL:
                raise WireError("what must pass is not answered, or not counted")
            _together(counter_test, cases)
            for _ in range(rounds - 1):
                for case in [case for case in cases if not case.exact or case.suspicions]:
                    _alone(counter_test, case)
            if "rx_group_rate" in counter_test.names and policy.group_rate:
                results.append(_group_rate(counter_test, rng, target, policy))
    # ``read`` may raise anything: the result is then not tested, and the proof goes on.
    except Exception as error:
        trouble = str(error) if isinstance(error, WireError) else f"{type(error).__name__}: {error}"
    if not cases or (trouble and not results):
        why = trouble or "the forwarder keeps none of these counters"
        tried = "frames that must be dropped, each found on its counter"
        return [*results, Result(GROUP, "counters", tried, Verdict.NOT_TESTED, why, "none", time.monotonic() - began)]
    return results + [_judge(case, trouble) for case in cases]


def _together(counter_test: _CounterTest, cases: Sequence[_ClassState]) -> None:
    """Try all classes once, each counter by one of them at a time."""
    left = list(cases)
    while left:
        counters: set[str] = set()
        batch: list[_ClassState] = []
        for case in left:
            if case.kind.counter not in counters:
                counters.add(case.kind.counter)
                batch.append(case)
        left = [case for case in left if case not in batch]
        began = time.monotonic()
        seen = counter_test.send(batch)
        for case in batch:
            case.duration += (time.monotonic() - began) / len(batch)
            _note(case, seen, alone=False)


def _alone(counter_test: _CounterTest, case: _ClassState) -> None:
    began = time.monotonic()
    seen = counter_test.send([case])
    case.duration += time.monotonic() - began
    _note(case, seen, alone=True)


def _note(case: _ClassState, seen: _Try, *, alone: bool) -> None:
    """Write down what one try showed."""
    case.exact = seen.is_good and case.rose == case.sent
    missing = case.sent - case.rose
    # On an idle port no other traffic can account for exactly as many passed frames as are missing.
    case.suspicions += alone and seen.is_good and missing > 0 and seen.excess >= missing
    case.trouble = ""
    if not seen.is_good:
        case.trouble = f"control unseen: {seen.answered} of {seen.asked} pings answered, "
        case.trouble += f"{PASSED} +{seen.delta.get(PASSED, 0)}"
    elif not case.exact:
        case.trouble = f"{case.kind.counter} rose by {case.rose} instead of {case.sent}"
    case.said.append(
        f"{case.sent} sent, {case.kind.counter} +{case.rose}; {seen.answered} of {seen.asked} pings answered, "
        f"{PASSED} +{seen.delta.get(PASSED, 0)} for {seen.permitted} frames that may pass"
    )


def _judge(case: _ClassState, trouble: str) -> Result:
    said = case.said[-1] if case.said else "not tried"
    control = f"{said}; others' traffic does not move {case.kind.counter}"
    if case.suspicions:
        verdict = Verdict.HOLE
        evidence = f"counted as passed in {case.suspicions} of {case.tries} tries; the last: {said}"
    elif case.exact:
        verdict, evidence = Verdict.SEALED, f"{case.sent} frames sent, {case.kind.counter} rose by exactly that"
        evidence += f" at try {case.tries}" if case.tries > 1 else ""
    else:
        verdict, evidence = Verdict.NOT_TESTED, case.trouble or trouble or "not tried"
    return Result(GROUP, case.kind.name, case.kind.tried, verdict, evidence, control, case.duration)


def _passing(counter_test: _CounterTest, *, priority: bool = False) -> Result:
    """Return the control: pings are answered and counted as passed, so these are the counters of the VM's datapath.

    With ``priority`` they have a tag of VLAN 0, which is no VLAN (IEEE 802.1Q, 6.9.1): the control of tagged frames.
    """
    began, what = time.monotonic(), "pings behind a priority tag" if priority else "pings"
    tried = f"{what} to the VM raise rx_passed and are answered"
    seen = counter_test.permitted(2 * PINGS, priority=priority)
    rose = seen.delta.get(PASSED, 0)
    evidence = f"{seen.answered} of {seen.asked} pings answered, {PASSED} rose by {rose}"
    verdict = Verdict.CONTROL if seen.is_good else Verdict.NOT_TESTED
    return Result(
        GROUP,
        "passing-priority" if priority else "passing",
        tried,
        verdict,
        evidence,
        "is itself the control",
        time.monotonic() - began,
    )


def _group_rate(counter_test: _CounterTest, rng: random.Random, target: Target, policy: Allowed) -> Result:
    """Return the result of a flood of broadcasts: above their rate they are dropped, below it they pass."""
    began = time.monotonic()
    count = policy.group_burst + int(policy.group_rate * FLOOD_SECONDS)
    probe = arp_request(ipv4_path(target).to(ip="192.0.2.1"), ethernet_dst=BROADCAST)
    delta, took = counter_test.flood([probe + rng.randbytes(8) for _ in range(count)])
    dropped, passed = delta.get("rx_group_rate", 0), delta.get(PASSED, 0)
    may_pass = policy.group_burst + policy.group_rate * took
    tried = f"{count} broadcasts at once, where {policy.group_rate}/s and {policy.group_burst} at a time may pass"
    evidence = f"rx_group_rate rose by {dropped}, {PASSED} by {passed}, in {took:.2f} s"
    control = "a ping behind them was answered" if took < float("inf") else "no ping behind them was answered"
    if took < float("inf") and passed > may_pass + PINGS + count // 10:
        verdict = Verdict.HOLE
    elif took == float("inf") or not dropped or not passed:
        verdict = Verdict.NOT_TESTED
    else:
        verdict = Verdict.SEALED
    return Result(GROUP, "group-rate", tried, verdict, evidence, control, time.monotonic() - began)
