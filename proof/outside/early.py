"""Fires at the port from power-on, before any service is up: nothing but the VM may ever answer, not even firmware.

Theory of operation. A thread sends a mixture, one frame every 5 ms, while the machine takes frames: three in four
ask by ARP for an address of the prefix, each of a /24 within two seconds, so that a door that is open no longer
than that is met. Every so often there is a ping to the VM, which cannot answer yet. The first that it does answer
is the control: the wire keeps the order of frames, so whatever was sent before that ping was taken by the machine
before it, and the VM's answer was seen on the very wire on which everybody else stayed silent. Who spoke until the
VM did is in the ledger.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from itertools import chain, cycle, islice
from socket import inet_aton

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from proof.result import Result, Verdict
from proof.scan.controls import ipv4_path, ipv6_path
from proof.scan.ports import GENERIC, TCP_PORTS, UDP_PAYLOADS
from proof.wire import frame as fr
from proof.wire.craft import FramePath, arp_request, neighbour_solicit, ping, tcp_syn, udp
from proof.wire.frame_log import Offences
from proof.wire.neighbour import answering
from proof.wire.target import BROADCAST, Target, eui64, mac_bytes
from proof.wire.wire import Tap, Wire, WireError

INTERVAL = 0.005
"""Seconds between two frames: few enough to leave a machine that starts alone."""
CONTROL_EVERY = 64
WALK = 3
"""Frames of the walk through the prefix for each of the others."""
LAST_TRIES, LAST_INTERVAL = 12, 0.25
"""Pings at the end, and seconds between them, for as long as none was answered."""
SPORT = 19400
MAX_CONTROLS = 0x10000
"""Sequence numbers of a ping: more controls than this are not told apart, and no more are sent."""


def _offers(target: Target, rng: random.Random) -> Iterator[bytes]:
    """What a network boot would take: leases and boot files from a server that nobody asked (RFC 2131, PXE 2.1)."""
    server, lease = target.tester_ipv4, target.vm_ipv4
    for mac in target.host_macs.values():
        for kind in ("offer", "ack"):
            for port in (68, 4011):
                options = [("message-type", kind), ("server_id", server), ("vendor_class_id", b"PXEClient"), "end"]
                reply = BOOTP(
                    op=2, xid=rng.getrandbits(32), yiaddr=lease, siaddr=server, chaddr=mac_bytes(mac), file=b"boot.efi"
                )
                ip = IP(src=server, dst="255.255.255.255") / UDP(sport=67, dport=port)
                for dst in (mac, BROADCAST):
                    yield bytes(Ether(src=target.tester_mac, dst=dst) / ip / reply / DHCP(options=options))


def _link_layer(target: Target) -> Iterator[bytes]:
    """Wake-on-LAN for each of the host's MACs, and LLDP to its group and to them."""
    lldp = bytes.fromhex("0207040274657374010402073161060200780000")
    for mac in target.host_macs.values():
        magic = b"\xff" * 6 + mac_bytes(mac) * 16
        for dst in (mac, BROADCAST):
            yield bytes(Ether(src=target.tester_mac, dst=dst, type=0x0842) / Raw(magic))
            yield udp(FramePath(target.tester_mac, dst, target.tester_ipv4, "255.255.255.255"), SPORT, 9, magic)
        yield bytes(Ether(src=target.tester_mac, dst=mac, type=0x88CC) / Raw(lldp))
    yield bytes(Ether(src=target.tester_mac, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(lldp))


def _questions(target: Target, rng: random.Random) -> Iterator[bytes]:
    """ARP, ND, ping, SYN, BOOTP and TFTP requests, to every address of the host at each of its MACs."""
    v4, v6 = ipv4_path(target), ipv6_path(target)
    for mac in target.host_macs.values():
        addresses = (*target.host_ipv4, target.vm_ipv4, target.vm_link_ipv4)
        for path in (*(v4.to(mac=mac, ip=ip) for ip in addresses), v6.to(mac=mac, ip=eui64(mac))):
            if path.is_ipv6:
                yield neighbour_solicit(path)
                yield neighbour_solicit(path, multicast=False)
            elif path.dst_ip != target.vm_ipv4:  # a second ARP for the VM could be taken for the wait's own
                yield arp_request(path)
                yield arp_request(path, ethernet_dst=mac)
            yield ping(path, rng.getrandbits(16), 1)
            for port in TCP_PORTS:
                yield tcp_syn(path, SPORT, port, rng.getrandbits(32))
            for port, payload in UDP_PAYLOADS.items():
                yield udp(path, SPORT, port, payload)
            yield udp(path, SPORT, 4011, GENERIC)


def mixture(target: Target, rng: random.Random) -> tuple[bytes, ...]:
    """Return the frames that are fired again and again: everything in random order, the walk in between."""
    frames = list(chain(_offers(target, rng), _link_layer(target), _questions(target, rng)))
    rng.shuffle(frames)
    path, spared = ipv4_path(target).to(mac=BROADCAST), (target.vm_ipv4, target.tester_ipv4)
    walk = cycle([arp_request(path.to(ip=str(ip))) for ip in IPv4Network(target.prefix) if str(ip) not in spared])
    return tuple(chain.from_iterable((frame, *islice(walk, WALK)) for frame in frames))


class EarlyProbe:
    """What was fired and what came of it; see `probing_from_power_on`."""

    def __init__(self, wire: Wire, target: Target, rng: random.Random) -> None:
        self._wire, self._target = wire, target
        self._frames, self._path = mixture(target, rng), ipv4_path(target)
        self._ident = rng.getrandbits(16)
        self._stop = threading.Event()
        self._sent: list[float] = []
        """When each frame was sent (`time.monotonic`); at `INTERVAL` a boot makes a few thousand."""
        self._controls: list[int] = []
        """How many frames had been sent before each control."""
        self._heard: tuple[float, int] | None = None
        """When the first answered control was answered, and which it was."""
        self._blocked = 0
        self._trouble = ""

    def run(self, tap: Tap) -> None:
        """Fire until `stop`, then until a control is answered or the tries are over."""
        try:
            while not self._stop.wait(INTERVAL):
                self._listen(tap)
                if len(self._sent) >= CONTROL_EVERY * (len(self._controls) + 1):
                    self._control()
                else:
                    self._fire()
            with answering(self._wire, self._target):
                for _ in range(LAST_TRIES):
                    self._listen(tap)
                    if self._heard is not None:
                        return
                    self._control()
                    self._listen(tap, LAST_INTERVAL)
        except WireError as error:
            self._trouble = f"wire failed: {error}"

    def stop(self) -> None:
        """End the firing."""
        self._stop.set()

    def _fire(self) -> None:
        # A machine that takes nothing is not to find a heap of frames when it does: the probes that follow would wait.
        if not self._wire.writable():
            self._blocked += 1
            return
        self._wire.send(self._frames[len(self._sent) % len(self._frames)])
        self._sent.append(time.monotonic())

    def _control(self) -> None:
        if self._heard is None and len(self._controls) < MAX_CONTROLS and self._wire.writable():
            self._wire.send(ping(self._path, self._ident, len(self._controls)))
        self._controls.append(len(self._sent))

    def _listen(self, tap: Tap, timeout: float = 0.0) -> None:
        mac, address = mac_bytes(self._target.vm_mac), inet_aton(self._target.vm_ipv4)
        for frame in tap.take(timeout):
            said = (frame.proto, frame.icmp_type, frame.icmp_id, frame.src, frame.ip_src)
            ours = said == (fr.ICMP, 0, self._ident, mac, address) and frame.icmp_seq < len(self._controls)
            if ours and self._heard is None:
                self._heard = (frame.time, frame.icmp_seq)

    def result(self) -> Result:
        """Return what the time before the VM's first frame has shown."""
        frame_log, target = self._wire.frame_log, self._target
        tried = "from power-on: ARP, ND, ping, SYN, DHCP, PXE and TFTP, wake-on-LAN and LLDP at every MAC of the host "
        tried += f"({', '.join(target.host_macs) or 'none known'})"
        first = frame_log.first_accepted if frame_log is not None else None
        offences = _until(frame_log.offences(), first.time if first is not None else None) if frame_log else Offences()
        sent = self._sent if first is None else [when for when in self._sent if when < first.time]
        taken = min(len(sent), self._controls[self._heard[1]]) if self._heard is not None else 0
        span = ((first.time if first is not None else time.monotonic()) - sent[0]) if sent else 0.0
        evidence = f"{len(sent)} frames sent in {span:.1f} s before the VM's first"
        evidence += f", {self._blocked} times the machine took none" if self._blocked else ""
        if offences:
            verdict, evidence = Verdict.HOLE, f"{evidence}; {offences.reasons()}"
        elif not taken or frame_log is None:
            verdict = Verdict.NOT_TESTED
            why = self._trouble or ("no ledger was kept" if frame_log is None else "none of them is known to be taken")
            evidence = f"{evidence}; {why}"
        else:
            verdict, evidence = Verdict.SEALED, f"{evidence}, answered by nobody"
        return Result(
            "early", "power-on", tried, verdict, evidence, self._seen(taken, len(sent)), span, offences.summaries()
        )

    def _seen(self, taken: int, sent: int) -> str:
        if self._heard is None:
            return f"none of {len(self._controls)} interleaved pings of the VM was answered"
        began = self._wire.powered_on_at
        after = f" {self._heard[0] - began:.1f} s after power-on" if began is not None else ""
        return (
            f"ping {self._heard[1] + 1} of the VM answered on the same wire{after}: {taken} of {sent} taken before it"
        )


def _until(offences: Offences, moment: float | None) -> Offences:
    """Return the kinds of offence that were first met before ``moment``; all of them if there was none."""
    early = Offences()
    early.by_reason = {
        reason: entry for reason, entry in offences.by_reason.items() if moment is None or entry.frames[0].time < moment
    }
    return early


@contextmanager
def probing_from_power_on(wire: Wire, target: Target, rng: random.Random) -> Iterator[EarlyProbe]:
    """Fire while the context lasts; ask what came of it (`EarlyProbe.result`) after it.

    Begin with the wire connected and the machine still paused; end once the VM answers. Raises nothing for what the
    far end does.
    """
    shots = EarlyProbe(wire, target, rng)
    with wire.tap() as tap:
        thread = threading.Thread(target=shots.run, args=(tap,), name="early", daemon=True)
        thread.start()
        try:
            yield shots
        finally:
            shots.stop()
            thread.join(LAST_TRIES * LAST_INTERVAL + 25)
