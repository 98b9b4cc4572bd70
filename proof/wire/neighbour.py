"""Answers ARP and neighbour discovery for the tester; without that the VM could not send its replies."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from proof.wire import frame as fr
from proof.wire.craft import FramePath, arp_reply, neighbour_advert
from proof.wire.frame import Frame
from proof.wire.target import Target, mac_bytes
from proof.wire.wire import Tap, Wire, WireError


def is_question(frame: Frame) -> bool:
    """Whether anybody's address is asked for."""
    return frame.arp_op == fr.ARP_REQUEST or (frame.icmp_type == fr.NEIGHBOUR_SOLICIT and frame.proto == fr.ICMP6)


def answer(frame: Frame, target: Target) -> bytes | None:
    """Return the tester's answer to a question about its own address; everything else is ``None``."""
    asker = frame.src.hex(":")
    if frame.src == mac_bytes(target.tester_mac) or frame.tags or frame.broken:
        return None
    if frame.arp_op == fr.ARP_REQUEST and frame.arp_target == socket.inet_aton(target.tester_ipv4):
        ipv4 = str(ipaddress.IPv4Address(frame.ip_src))
        return arp_reply(FramePath(target.tester_mac, asker, target.tester_ipv4, ipv4))
    own = socket.inet_pton(socket.AF_INET6, target.tester_ipv6)
    if frame.icmp_type == fr.NEIGHBOUR_SOLICIT and frame.proto == fr.ICMP6 and frame.nd_target == own:
        if not any(frame.ip_src):
            return None  # duplicate address detection for the tester's own address: let it have it
        ipv6 = str(ipaddress.IPv6Address(frame.ip_src))
        return neighbour_advert(FramePath(target.tester_mac, asker, target.tester_ipv6, ipv6))
    return None


@contextmanager
def answering(wire: Wire, target: Target) -> Iterator[None]:
    """Answer for the tester while the context lasts.

    In a thread of its own: the wire's reader must never wait for a peer that itself waits to be read.
    """
    stop = threading.Event()

    def serve(tap: Tap) -> None:
        try:
            while not stop.is_set():
                replies = [reply for frame in tap.take(0.2) if (reply := answer(frame, target)) is not None]
                if replies:
                    wire.send_many(replies[:64])
        except WireError:
            return  # the probes get the same error and report it

    with wire.tap(is_question) as tap:
        thread = threading.Thread(target=serve, args=(tap,), name="neighbour", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(2)
