"""Probes the port from power-on, before any service is up: nothing but the VM may ever answer, not even firmware.

Theory of operation. A thread sends a mixture of frames, one every 5 ms, while the machine accepts frames. Three in four
are ARP requests for an address of the prefix; each address of a /24 is asked within two seconds, so that a hole that is
open for two seconds is met. After every 64 frames there is a ping to the VM, which cannot answer yet. The first ping
that it does answer is the control: the wire keeps the order of frames, so the machine received all that was sent before
that ping, and the VM's answer was seen on the wire on which nobody else answered. Every frame that was received before
the VM's first one is in the frame log.
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
"""Seconds between two frames: long enough not to slow down a booting machine."""
CONTROL_EVERY = 64
"""Frames between two pings of the VM."""
WALK = 3
"""ARP requests for addresses of the prefix after each other frame."""
LAST_TRIES, LAST_INTERVAL = 12, 0.25
"""Pings at the end, and seconds between them, until one is answered."""
SPORT = 19400
MAX_CONTROLS = 0x10000
"""Controls, at most: the sequence number that tells them apart has 16 bits (RFC 792)."""


def _offers(target: Target, rng: random.Random) -> Iterator[bytes]:
    """Yield offers that a network boot would accept: unsolicited leases and boot files (RFC 2131, PXE 2.1)."""
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
    """Yield wake-on-LAN for each of the host's MACs, and LLDP to its group and to them."""
    lldp = bytes.fromhex("0207040274657374010402073161060200780000")
    for mac in target.host_macs.values():
        magic = b"\xff" * 6 + mac_bytes(mac) * 16
        for dst in (mac, BROADCAST):
            yield bytes(Ether(src=target.tester_mac, dst=dst, type=0x0842) / Raw(magic))
            yield udp(FramePath(target.tester_mac, dst, target.tester_ipv4, "255.255.255.255"), SPORT, 9, magic)
        yield bytes(Ether(src=target.tester_mac, dst=mac, type=0x88CC) / Raw(lldp))
    yield bytes(Ether(src=target.tester_mac, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(lldp))


def _requests(target: Target, rng: random.Random) -> Iterator[bytes]:
    """Yield ARP, ND, ping, SYN, BOOTP and TFTP requests, to every address of the host at each of its MACs."""
    v4, v6 = ipv4_path(target), ipv6_path(target)
    for mac in target.host_macs.values():
        addresses = (*target.host_ipv4, target.vm_ipv4, target.vm_link_ipv4)
        for path in (*(v4.to(mac=mac, ip=ip) for ip in addresses), v6.to(mac=mac, ip=eui64(mac))):
            if path.is_ipv6:
                yield neighbour_solicit(path)
                yield neighbour_solicit(path, multicast=False)
            elif path.dst_ip != target.vm_ipv4:  # an answer could be taken for that to `wait_until_up`
                yield arp_request(path)
                yield arp_request(path, ethernet_dst=mac)
            yield ping(path, rng.getrandbits(16), 1)
            for port in TCP_PORTS:
                yield tcp_syn(path, SPORT, port, rng.getrandbits(32))
            for port, payload in UDP_PAYLOADS.items():
                yield udp(path, SPORT, port, payload)
            yield udp(path, SPORT, 4011, GENERIC)


def mixture(target: Target, rng: random.Random) -> tuple[bytes, ...]:
    """Return the frames that are sent over and over: all others in random order, ARP for the prefix in between."""
    frames = list(chain(_offers(target, rng), _link_layer(target), _requests(target, rng)))
    rng.shuffle(frames)
    path, spared = ipv4_path(target).to(mac=BROADCAST), (target.vm_ipv4, target.tester_ipv4)
    walk = cycle([arp_request(path.to(ip=str(ip))) for ip in IPv4Network(target.prefix) if str(ip) not in spared])
    return tuple(chain.from_iterable((frame, *islice(walk, WALK)) for frame in frames))


class EarlyProbe:
    """The probe from power-on: its thread, and its result; see `probing_from_power_on`."""

    def __init__(self, wire: Wire, target: Target, rng: random.Random) -> None:
        self._wire, self._target = wire, target
        self._frames, self._path = mixture(target, rng), ipv4_path(target)
        self._ident = rng.getrandbits(16)
        self._stop = threading.Event()
        self._sent: list[float] = []
        """When each frame was sent (`time.monotonic`); a boot has time for a few thousand at `INTERVAL`."""
        self._controls: list[int] = []
        """How many frames had been sent before each control."""
        self._heard: tuple[float, int] | None = None
        """When the first control was answered (`time.monotonic`), and which one."""
        self._blocked = 0
        self._trouble = ""

    def run(self, tap: Tap) -> None:
        """Send until `stop`, then only controls until one is answered or `LAST_TRIES` are over."""
        try:
            while not self._stop.wait(INTERVAL):
                self._listen(tap)
                if len(self._sent) >= CONTROL_EVERY * (len(self._controls) + 1):
                    self._control()
                else:
                    self._send()
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
        """Stop sending frames."""
        self._stop.set()

    def _send(self) -> None:
        # A machine that accepts no frames yet must not find a long queue later: the next probes would wait for it.
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
            own_reply = said == (fr.ICMP, 0, self._ident, mac, address) and frame.icmp_seq < len(self._controls)
            if own_reply and self._heard is None:
                self._heard = (frame.time, frame.icmp_seq)

    def result(self) -> Result:
        """Return the result for the time from power-on to the VM's first frame."""
        frame_log, target = self._wire.frame_log, self._target
        tried = "from power-on: ARP, ND, ping, SYN, DHCP, PXE and TFTP, wake-on-LAN and LLDP at every MAC of the host "
        tried += f"({', '.join(target.host_macs) or 'none known'})"
        first = frame_log.first_accepted if frame_log is not None else None
        offences = _until(frame_log.offences(), first.time if first is not None else None) if frame_log else Offences()
        sent = self._sent if first is None else [when for when in self._sent if when < first.time]
        taken = min(len(sent), self._controls[self._heard[1]]) if self._heard is not None else 0
        span = ((first.time if first is not None else time.monotonic()) - sent[0]) if sent else 0.0
        evidence = f"{len(sent)} frames sent in {span:.1f} s before the VM's first"
        evidence += f", {self._blocked} times the machine accepted none" if self._blocked else ""
        if offences:
            verdict, evidence = Verdict.HOLE, f"{evidence}; {offences.reasons()}"
        elif not taken or frame_log is None:
            verdict = Verdict.NOT_TESTED
            blind = "no frame log was kept" if frame_log is None else "it is not known that any of them was received"
            why = self._trouble or blind
            evidence = f"{evidence}; {why}"
        else:
            verdict, evidence = Verdict.SEALED, f"{evidence}, none answered"
        return Result(
            "early", "power-on", tried, verdict, evidence, self._seen(taken, len(sent)), span, offences.summaries()
        )

    def _seen(self, taken: int, sent: int) -> str:
        if self._heard is None:
            return f"none of {len(self._controls)} interleaved pings of the VM was answered"
        began = self._wire.powered_on_at
        after = f" {self._heard[0] - began:.1f} s after power-on" if began is not None else ""
        number = self._heard[1] + 1
        return f"ping {number} answered by the VM on the same wire{after}: {taken} of {sent} received before it"


def _until(offences: Offences, moment: float | None) -> Offences:
    """Return the kinds of offence whose first frame came before ``moment``; all kinds if it is None."""
    early = Offences()
    early.by_reason = {
        reason: entry for reason, entry in offences.by_reason.items() if moment is None or entry.frames[0].time < moment
    }
    return early


@contextmanager
def probing_from_power_on(wire: Wire, target: Target, rng: random.Random) -> Iterator[EarlyProbe]:
    """Send frames while the context lasts; `EarlyProbe.result` has the result after it.

    Enter with the wire connected and the machine still paused; leave once the VM answers. Never raises for what the far
    end does.
    """
    probe = EarlyProbe(wire, target, rng)
    with wire.tap() as tap:
        thread = threading.Thread(target=probe.run, args=(tap,), name="early", daemon=True)
        thread.start()
        try:
            yield probe
        finally:
            probe.stop()
            thread.join(LAST_TRIES * LAST_INTERVAL + 25)
