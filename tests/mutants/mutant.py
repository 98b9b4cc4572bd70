"""What a mutant is, and what several of them plant."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutants.plants import Code, Edit, InVm, OnHost, Plant, background

ON_PORT = "ip netns exec mgmt "
PORT_STAGE = "outside"
ODD = range(39936, 40448)
"""Where planted listeners hide; a mutant whose sweep asks these alone needs seconds for it."""
_TCP = """
import socket
s = socket.socket(socket.{family}); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(({address!r}, {port})); s.listen()"""
_UDP = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(({address!r}, {port}))"""


@dataclass(frozen=True)
class Mutant:
    """A hole, how it is planted, and who must find it.

    Args:
        name: for the command line and the report.
        layer: port, link, host, VM, backend, tree, image or boot.
        hole: what is wrong, as a sentence.
        plant: how.
        stage: the stage of the proof that looks for it.
        found: results (``group/name``, shell patterns) of which one at least must be a hole.
        ports: that the sweeps ask: a quick run would find an odd one by luck only, a full one always.
    """

    name: str
    layer: str
    hole: str
    plant: Plant
    stage: str
    found: tuple[str, ...]
    ports: range = range(65536)


def listener(address: str, port: int, *, netns: str = "", udp: bool = False, family: str = "AF_INET") -> OnHost:
    code = (_UDP if udp else _TCP).format(address=address, port=port, family=family)
    return OnHost(background(code, netns=netns))


def vm_listener(address: str, port: int, *, udp: bool = False, family: str = "AF_INET") -> InVm:
    code = (_UDP if udp else _TCP).format(address=address, port=port, family=family)
    return InVm(background(code))


def qemu(words: str, lines: tuple[str, ...] = ()) -> Code:
    """The VM's QEMU gets more words, after ``lines`` were run in the host's root shell."""
    old = '*("-device", "virtio-rng-device"),'
    return Code("sallyport-vm", (Edit("backend/guests/vm.py", old, f"{old} {words},"),), lines)
