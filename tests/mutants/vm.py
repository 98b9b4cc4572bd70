"""Holes in the front-end VM: what it offers at the port, what it forwards, what it is made of."""

from __future__ import annotations

from tests.mutants.mutant import ODD, PORT_STAGE, Mutant, qemu, vm_listener
from tests.mutants.plants import Code, Edit, InVm, background

_ADVERT = """
import socket, time
from struct import pack
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("access"))"""
_ADVERTISE = """
while True:
    s.sendto(pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0)); time.sleep(0.3)"""

VM: tuple[Mutant, ...] = (
    # The VM.
    Mutant(
        "vm-port-tcp",
        "VM",
        "The VM has one more TCP port open.",
        vm_listener("0.0.0.0", 40123),
        PORT_STAGE,
        ("port/tcp-ipv4*",),
        ODD,
    ),
    Mutant(
        "vm-port-tcp-ipv6",
        "VM",
        "The VM has a TCP port open that only IPv6 reaches.",
        vm_listener("::", 40124, family="AF_INET6"),
        PORT_STAGE,
        ("port/tcp-ipv6*",),
        ODD,
    ),
    Mutant(
        "vm-port-udp",
        "VM",
        "A service in the VM waits for datagrams and never answers.",
        vm_listener("0.0.0.0", 40125, udp=True),
        PORT_STAGE,
        ("port/udp-ipv4*",),
        ODD,
    ),
    Mutant(
        "vm-forwards",
        "VM",
        "The VM forwards packets between the port and the link.",
        InVm(("sysctl -q -w net.ipv4.ip_forward=1",)),
        "forwarding",
        ("forwarding/*",),
    ),
    Mutant(
        "vm-answers-for-others",
        "VM",
        "The VM has one more address on the port.",
        InVm(("ip addr add 192.168.42.99/32 dev access",)),
        PORT_STAGE,
        ("host/*", "passive/*"),
    ),
    Mutant(
        "vm-is-a-router",
        "VM",
        "The VM advertises itself as a router.",
        InVm(background(_ADVERT, ready=_ADVERTISE)),
        PORT_STAGE,
        ("passive/*",),
    ),
    Mutant(
        "vm-extra-nic",
        "VM",
        "The VM has one more NIC.",
        qemu('*("-netdev", "hubport,id=more,hubid=7", "-device", "virtio-net-device,netdev=more")'),
        "devices",
        ("devices/*",),
    ),
    Mutant(
        "vm-extra-disk",
        "VM",
        "The VM sees a file of the host as a disk.",
        qemu(
            '*("-drive", "id=more,if=none,format=raw,readonly=on,file=/usr/share/sallyport/frontend/initrd", '
            '"-device", "virtio-blk-device,drive=more")'
        ),
        "devices",
        ("devices/*",),
    ),
    Mutant(
        "link-key-reuse",
        "VM",
        "The VM is handed the host's own key of the link.",
        Code(
            "sallyport-vm",
            (
                Edit(
                    "backend/guests/vm.py",
                    "    return words\n",
                    '    return [*words, "-fw_cfg", "name=opt/sallyport/backend.key,file=/run/sallyport/guest/key"]\n',
                ),
            ),
            (
                "cp /run/sallyport/link/backend.key /run/sallyport/guest/key",
                "chgrp sallyport-vm /run/sallyport/guest/key && chmod 0440 /run/sallyport/guest/key",
            ),
        ),
        "devices",
        ("devices/*",),
    ),
)
