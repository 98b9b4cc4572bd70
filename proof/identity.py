"""Finds out which device is behind an interface, whether it is the intended one, and whether others are there too."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from socket import inet_aton

from backend.protocol import link_plan
from proof.wire import craft
from proof.wire import frame as fr
from proof.wire.frame import Frame
from proof.wire.interface import CouldNotTest
from proof.wire.target import BROADCAST, MAC, Target
from proof.wire.wire import TAP_FRAMES, Tap, Wire, WireError
from rootfs.base.errors import SallyportError

ANSWER_TIMEOUT = 30.0
"""Seconds for the first answer of a device that should be running."""
LISTEN_AFTER_ANSWER = 1.5
"""Seconds of listening, after the first answer, for a second one and for other stations."""
ASK_EVERY = 0.5
"""Seconds between two ARP requests."""

Ask = Callable[[str], str]
"""Asks the user a question and returns what was typed."""


@dataclass(frozen=True)
class Identity:
    """The device: its VM's MAC at the port, and the burned-in MAC of the port, empty if it is not known."""

    vm_mac: str
    port_mac: str = ""


def normal_mac(text: str, option: str) -> str:
    """Return a MAC address in lower case with colons; an empty text stays empty.

    Raises:
        SallyportError: it is no MAC address.
    """
    mac = text.strip().lower().replace("-", ":")
    if mac and not MAC.match(mac):
        raise SallyportError(
            f"{option}: {text!r} is not a MAC address", f"write it as {link_plan.ACCESS_MAC_PREFIX}:12:34:56"
        )
    return mac


def tester_address(interface: IPv4Interface) -> str:
    """Return the address that the probes take in the management network: the last one, or the one before it."""
    last = interface.network[-2]
    return str(last if interface.ip != last else interface.network[-3])


@dataclass
class Speakers:
    """The stations that were heard.

    ``answers`` has pairs (Ethernet source, hardware address in the ARP reply) for the management address, ``speakers``
    the source MACs of all frames.
    """

    answers: set[tuple[str, str]]
    speakers: set[str]


def listen(
    wire: Wire, tap: Tap, interface: IPv4Interface, timeout: float = ANSWER_TIMEOUT
) -> tuple[Speakers, list[Frame]]:
    """Ask by ARP for the management address until somebody answers, then listen on for `LISTEN_AFTER_ANSWER` seconds.

    Raises:
        WireError: the interface fails, or somebody floods it.
    """
    asking = craft.FramePath(Target.tester_mac, BROADCAST, tester_address(interface), str(interface.ip))
    question, wanted = craft.arp_request(asking), inet_aton(asking.dst_ip)
    answers: set[tuple[str, str]] = set()
    heard: list[Frame] = []
    deadline, ask_at = time.monotonic() + timeout, 0.0
    while (now := time.monotonic()) < deadline:
        if now >= ask_at and wire.writable():
            wire.send(question)
            ask_at = now + ASK_EVERY
        frames = tap.take(0.1)
        heard += frames
        if len(heard) > TAP_FRAMES:
            raise WireError(f"more than {TAP_FRAMES} frames came before anything was asked")
        found = {(f.src.hex(":"), f.arp_hw.hex(":")) for f in frames if f.arp_op == fr.ARP_REPLY and f.ip_src == wanted}
        if found and not answers:
            deadline = time.monotonic() + LISTEN_AFTER_ANSWER
        answers |= found
    return Speakers(answers, {frame.src.hex(":") for frame in heard}), heard


def identify(heard_from: Speakers, interface: IPv4Interface, *, mac: str, port_mac: str) -> Identity:
    """Return the device, from the stations that were heard.

    The host may be heard beside its VM, under the port's burned-in address, whose last three bytes are the VM's. That
    is the same device, and the judge reports it as a hole; any other station is a reason to stop.

    Raises:
        CouldNotTest: nobody, another device or several have answered, or other stations are on the wire.
        SallyportError: ``mac`` or ``port_mac`` cannot be right.
    """
    if mac and not mac.startswith(link_plan.ACCESS_MAC_PREFIX):
        raise SallyportError(
            f"{mac} is not the address of a front-end VM, which begins with {link_plan.ACCESS_MAC_PREFIX}",
            "after that it has the last three bytes of the port's own address, which is on the device's label",
        )
    if not heard_from.answers:
        raise CouldNotTest(
            f"nobody answered ARP for {interface.ip}",
            "is the device up, the cable in its management port, and the profile the device's own?",
        )
    macs = sorted({hardware for _, hardware in heard_from.answers})
    vms = [found for found in macs if found.startswith(link_plan.ACCESS_MAC_PREFIX)]
    vm_mac = mac or (vms[0] if len(vms) == 1 else "")
    # If only the host itself answers, go on only if the user named exactly its address.
    if not vm_mac or not {vm_mac, port_mac} & set(macs):
        wanted = f"not {mac}, which was confirmed" if mac else "which is not one front-end VM"
        raise CouldNotTest(
            f"{', '.join(macs)} answered for {interface.ip}, {wanted}",
            "nothing further was sent; look at the cable, and compare with the label of the device's port",
        )
    if port_mac and port_mac[8:] != vm_mac[8:]:
        raise SallyportError(
            f"{port_mac} is not the port of the VM {vm_mac}: their last three bytes differ",
            "--port-mac is the burned-in address of the device's management port, not of this machine's",
        )
    others = {*heard_from.speakers, *(name for pair in heard_from.answers for name in pair)}
    others -= {vm_mac, link_plan.BACKEND_MAC, link_plan.BRIDGE_MAC, link_plan.FRONTEND_MAC}
    ports = sorted(name for name in others if name[8:] == vm_mac[8:])
    if strangers := sorted(others - set(ports)):
        raise CouldNotTest(
            f"{', '.join(strangers[:4])} also send frames on this wire, besides {vm_mac}",
            "connect the device directly, without a switch; if it already is, the device itself sends under that "
            "address: that is a hole, and the capture has the frames",
        )
    return Identity(vm_mac, port_mac or (ports[0] if len(ports) == 1 else ""))


def confirm(identity: Identity, ask: Ask | None) -> None:
    """Have the user confirm the device by typing its MAC address.

    Raises:
        CouldNotTest: there is no terminal to ask at, or something else was typed.
    """
    if ask is None:
        raise CouldNotTest(
            f"{identity.vm_mac} answered, but nobody confirmed that this is the device to attack",
            f"after comparing it with the device's label, name it: `--mac {identity.vm_mac}`",
        )
    typed = normal_mac(
        ask(
            f"{identity.vm_mac} answers. Its last three bytes are on the label of the port. Type the address to go on: "
        ),
        "your answer",
    )
    if typed != identity.vm_mac:
        raise CouldNotTest(f"{identity.vm_mac} was not confirmed", "nothing further was sent")
