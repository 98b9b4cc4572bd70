"""The segment behind a network interface of the tester's machine: the same probes at a real device.

Theory of operation. `preflight` looks at the interface before anything is sent and refuses whatever would let the
probes hit the wrong network. `PacketWire` then opens two packet sockets (packet(7)): one receives all frames in
promiscuous mode, but not those that this machine sends; one sends. Promiscuous mode and the sockets end with the wire,
so that the interface is afterwards as it was. Frames that the kernel had to drop are counted and reported to every tap,
because silence proves nothing where frames were lost.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from proof.result import EXIT_NOT_TESTED
from proof.wire.frame_log import FrameLog
from proof.wire.pcapng import OUTBOUND, Capture
from proof.wire.wire import MAX_FRAME, SEND_TIMEOUT, Wire, WireError
from rootfs.base.errors import SallyportError

# linux/if_packet.h; the socket module knows only some of them.
SOL_PACKET, ETH_P_ALL = 263, 3
PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 1, 1
PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 6, 8, 23
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
_AUXDATA = struct.Struct("=I12xHH")
"""struct tpacket_auxdata: status, then length, captured length, two offsets, tag, EtherType of the tag."""
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40  # linux/sockios.h, linux/if.h
_HEADER = 14
"""Bytes of an Ethernet header; Linux refuses to send less (dev_validate_header), and a NIC pads to 60 anyway."""

BUFFER = 64 << 20
"""Bytes of receive buffer: about 80,000 short frames as the kernel accounts them."""
BURST = 256
"""Frames that are read before the kernel's count of dropped frames is read again."""
WAKE = 0.1
"""Seconds after which the reader checks whether it has to end."""
JUMBO = 9000
"""Bytes of MTU that most cards support; longer frames than the device's MTU are tried up to this interface's MTU."""
IP_TIMEOUT = 10.0
CARRIER_EVERY = 0.2
"""Seconds between two looks for a carrier."""
KINDS = ("", "veth", "tun")
"""Kinds of link (ip-link(8)) with one far end: a card has no kind; veth and tap are for experiments."""
_UPPER = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")


class CouldNotTest(SallyportError):
    """The device could not be probed at all, so the proof has no result."""

    exit_code = EXIT_NOT_TESTED


@dataclass(frozen=True)
class Facts:
    """What `preflight` found: ``mtu`` in bytes, ``addresses`` of this machine's kernel there, ``warnings`` to print."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _ip(*words: str) -> list[dict[str, Any]]:
    """Return what ``ip -json`` lists; empty if the object does not exist.

    Raises:
        CouldNotTest: ip(8) is not installed, or does not end.
    """
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise CouldNotTest("ip(8) is not installed, so the interface cannot be examined", "apt-get install iproute2")
    try:
        done = subprocess.run([program, "-json", *words], capture_output=True, timeout=IP_TIMEOUT, check=False)
        return list(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.strip() else []
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise CouldNotTest(f"ip {' '.join(words)} gave no usable answer: {error}") from error


def preflight(name: str, carrier_timeout: float = 0.0) -> Facts:
    """Examine the interface ``name`` in the caller's network namespace; nothing is sent.

    ``patience`` is how many seconds to wait for a carrier, where the device was only just switched on.

    Raises:
        CouldNotTest: probes there would hit the wrong network, or could not be sent; says what to do.
    """
    found = _ip("-details", "link", "show", "dev", name)
    if not found:
        others = ", ".join(sorted(str(link.get("ifname")) for link in _ip("link", "show")))
        raise CouldNotTest(f"there is no network interface {name!r}", f"this machine has: {others}")
    link = found[0]
    name = str(link["ifname"])  # it may have been called by one of its alternative names
    _check_privilege(name)
    _check_place(name, link)
    addresses = _check_addresses(name)
    flags = link.get("flags", [])
    if "UP" not in flags:
        raise CouldNotTest(f"{name} is not up", f"sysctl -w net.ipv6.conf.{name}.disable_ipv6=1; ip link set {name} up")
    if not _wait_carrier(name, carrier_timeout):
        raise CouldNotTest(f"{name} is up but has no carrier", "plug in the cable, and switch the appliance on")
    warnings = []
    if addresses:
        warnings.append(
            f"{name} has {', '.join(addresses)}: this machine's own kernel sends and answers on the wire too; "
            f"silence it with `sysctl -w net.ipv6.conf.{name}.disable_ipv6=1`"
        )
    size = int(link.get("mtu", 0))
    if size < JUMBO:
        warnings.append(f"the MTU of {name} is {size}: longer frames cannot be tried; `ip link set {name} mtu {JUMBO}`")
    return Facts(name, str(link.get("address", "")), size, addresses, tuple(warnings))


def _wait_carrier(name: str, carrier_timeout: float) -> bool:
    deadline = time.monotonic() + carrier_timeout
    while "LOWER_UP" not in (_ip("link", "show", "dev", name) or [{}])[0].get("flags", []):
        if time.monotonic() >= deadline:
            return False
        time.sleep(CARRIER_EVERY)
    return True


def _check_privilege(name: str) -> None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError as error:
        raise CouldNotTest(
            f"raw frames on {name} need the capability CAP_NET_RAW, which this user does not have", "run it as root"
        ) from error


def _check_place(name: str, link: dict[str, Any]) -> None:
    """Refuse an interface whose far end is not the device alone."""
    kind = str(link.get("linkinfo", {}).get("info_kind", ""))
    if "LOOPBACK" in link.get("flags", []):
        raise CouldNotTest(f"{name} is the loopback interface", "name the port that the appliance is connected to")
    if link.get("link_type") != "ether" or kind not in KINDS:
        what = f"a {kind}" if kind else f"of type {link.get('link_type')}"
        raise CouldNotTest(
            f"{name} is no Ethernet port but {what}: frames would be changed on their way or go elsewhere too",
            "name the physical port that the cable is in",
        )
    if master := link.get("master"):
        raise CouldNotTest(
            f"{name} belongs to {master}: the probes would mix with all traffic of that bridge or bond",
            f"remove it from there: `ip link set {name} nomaster`",
        )
    uppers = [
        str(other.get("ifname"))
        for other in _ip("-details", "link", "show")
        if other.get("link") == name and other.get("linkinfo", {}).get("info_kind") in _UPPER
    ]
    if uppers:
        raise CouldNotTest(
            f"{', '.join(uppers)} of this machine use {name}, and would take part in what is probed",
            f"remove them, `ip link delete {uppers[0]}`, or name another port",
        )
    for family in ("-4", "-6"):
        for route in _ip(family, "route", "show", "default", "table", "all"):
            if name in (route.get("dev"), *(hop.get("dev") for hop in route.get("nexthops", []))):
                raise CouldNotTest(
                    f"{name} carries this machine's default route: the probes would go into your own network",
                    "name the port that leads to the appliance and nowhere else",
                )


def _check_addresses(name: str) -> tuple[str, ...]:
    """Return the interface's own addresses that may stay: link-local IPv6. Any other is refused."""
    listed = [info for link in _ip("address", "show", "dev", name) for info in link.get("addr_info", [])]
    addresses = [ip_interface(f"{info['local']}/{info['prefixlen']}") for info in listed if "local" in info]
    refused = [str(address) for address in addresses if address.version == 4 or not address.is_link_local]
    if refused:
        raise CouldNotTest(
            f"{name} has the address {', '.join(refused)}: this machine's own kernel would answer there with ARP and "
            "RST, and other programs would use the wire",
            f"give the probes a port of their own: `ip address flush dev {name}`, or move it into a namespace: `ip "
            f"netns add probe; ip link set {name} netns probe; ip -n probe link set {name} up`, and run it there: `ip "
            "netns exec probe ...`",
        )
    return tuple(str(address) for address in addresses)


def mtu(name: str) -> int:
    """Return the MTU of an interface in bytes; 0 if it is gone."""
    return int((_ip("link", "show", "dev", name) or [{}])[0].get("mtu", 0))


def missed(name: str) -> int:
    """Return how many frames the card itself had no room for since it exists; they never reach any socket."""
    links = _ip("-statistics", "-statistics", "link", "show", "dev", name)
    counters = links[0].get("stats64", {}).get("rx", {}) if links else {}
    return sum(int(counters.get(key, 0)) for key in ("over_errors", "missed_errors", "fifo_errors"))


def _receiver(name: str) -> socket.socket:
    """Return a promiscuous packet socket, which receives from now on.

    Raises:
        OSError: there is no such interface, it is not up, or CAP_NET_RAW is missing.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing is received before bind
    try:
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        except PermissionError:  # needs CAP_NET_ADMIN; else net.core.rmem_max is the limit
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        membership = struct.pack("IHH8s", socket.if_nametoindex(name), PACKET_MR_PROMISC, 0, b"")
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
        sock.bind((name, ETH_P_ALL))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _sender(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_TIMEOUT), 0))
        sock.bind((name, 0))
    except BaseException:
        sock.close()
        raise
    return sock


def with_tag(frame: bytes, ancillary: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Return ``frame`` with the 802.1Q or 802.1ad tag that the kernel has taken off (struct tpacket_auxdata)."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, tci, tpid = _AUXDATA.unpack_from(data)
            if status & TP_STATUS_VLAN_VALID:
                tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
    return frame


class PacketWire(Wire):
    """A wire over a network interface of this machine; `preflight` it first."""

    def __init__(self, name: str, *, frame_log: FrameLog | None = None, pcap: Path | None = None) -> None:
        """Open the sockets, receive from now on.

        Raises:
            WireError: the interface is gone or down, or this user may not open packet sockets.
        """
        self.name = name
        self.max_frame = mtu(name) + _HEADER
        try:
            self._missed = missed(name)
            self._in = _receiver(name)
            try:
                self._out = _sender(name)
                capture = Capture(pcap) if pcap is not None else None
            except BaseException:
                self._in.close()
                raise
        except OSError as error:
            raise WireError(f"cannot open {name}: {error.strerror or error}") from error
        super().__init__(frame_log=frame_log, capture=capture)
        self.connected_at = time.monotonic()
        self._connected.set()
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._receive, name="wire-read", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        """Receive until the wire ends (reader's thread)."""
        poll, buffer = select.poll(), bytearray(MAX_FRAME)
        poll.register(self._in, select.POLLIN)
        try:
            while not self._ended.is_set():
                if poll.poll(WAKE * 1000):
                    self._drain(buffer)
        except OSError as error:
            self._die(f"{self.name}: {error.strerror or error}")

    def _drain(self, buffer: bytearray) -> None:
        """Deliver what waits, at most `BURST` frames, then count what the kernel had to drop meanwhile."""
        view, now, frames = memoryview(buffer), time.monotonic(), []
        try:
            for _ in range(BURST):
                length, ancillary, _, _ = self._in.recvmsg_into([buffer], 64)
                frames.append(with_tag(bytes(view[:length]), ancillary))
        except BlockingIOError:
            pass
        finally:
            # Whatever ends the reading, what was read did arrive.
            self._deliver(frames, now)
        # Reading the counters sets them back to zero (packet(7)).
        _, dropped = struct.unpack("II", self._in.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        if dropped:
            self._lose(dropped)

    def send_many(self, frames: Sequence[bytes]) -> None:
        """Send frames one after the other.

        Raises:
            WireError: the wire is dead, stuck, without carrier, or a frame is too long for the interface. After the
                last two the wire can still be used.
        """
        if self.error is not None:
            raise WireError(self.error)
        if not self.carrier():
            raise WireError(f"{self.name} has no carrier: the cable is out, or the appliance is off")
        with self._send_lock:
            for frame in frames:
                self._send(frame if len(frame) >= _HEADER else frame.ljust(_HEADER, b"\0"))
                self.sent += 1
                if self.capture is not None:
                    self.capture.add(frame, OUTBOUND)

    def _send(self, frame: bytes) -> None:
        deadline, pause = 0.0, 0.0002
        while True:
            try:
                self._out.send(frame)
                return
            except OSError as error:
                if error.errno in (errno.EMSGSIZE, errno.EINVAL):
                    raise WireError(
                        f"{self.name} does not send a frame of {len(frame)} bytes; a greater MTU may help"
                    ) from error
                # The card's queue is full. The kernel does not wake a waiting sender, so retry, with growing pauses.
                now = time.monotonic()
                deadline = deadline or now + SEND_TIMEOUT
                if error.errno != errno.ENOBUFS or now > deadline:
                    self._die(f"cannot send on {self.name}: {error.strerror or error}")
                    raise WireError(self.error) from error
                time.sleep(pause)
                pause = min(2 * pause, 0.02)

    def carrier(self) -> bool:
        """Tell whether the interface is up and has a carrier (netdevice(7))."""
        with suppress(OSError):
            request = fcntl.ioctl(self._out, _SIOCGIFFLAGS, struct.pack("16sH22x", self.name.encode(), 0))
            return bool(struct.unpack_from("H", request, 16)[0] & _IFF_RUNNING)
        return False

    def writable(self) -> bool:
        """Tell whether a frame could leave now."""
        return self.error is None and self.carrier()

    def gaps(self) -> str:
        """Return how frames were lost since the wire was opened; an empty text if none were."""
        card = missed(self.name) - self._missed
        said = [f"{self.lost} frames arrived faster than they could be read"] if self.lost else []
        said += [f"the card of {self.name} had no room for {card} frames"] if card > 0 else []
        said += [self.error] if self.error is not None else []
        return "; ".join(said)

    def close(self) -> None:
        """End the wire and leave promiscuous mode; safe to call twice."""
        super().close()
        self._ended.set()
        if self._reader is not threading.current_thread():
            self._reader.join(10 * WAKE)
        self._in.close()
        self._out.close()
