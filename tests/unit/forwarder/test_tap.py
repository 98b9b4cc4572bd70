"""Taps in a network namespace of their own: this host's kernel at one end, a guest in memory at the other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.lan import main as lan_module
from tests.unit.forwarder import _testing
from tests.unit.forwarder.lan_frames import ipv4, ipv6, mac, packed
from tests.unit.forwarder.rig import inside, ip, needs_root
from tests.unit.forwarder.switchboard import WAIT_MS, Switchboard, switchboard, table

pytestmark = [
    needs_root,
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this kernel has no tap: no /dev/net/tun"),
]

# linux/if_tun.h
TUNSETOFFLOAD = 0x400454D0
TUN_F_CSUM, TUN_F_TSO4 = 1, 2
TAP = "lan0"
HOST, GUEST = 1, 0


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace without addresses and without IPv6."""
    name = f"lan{secrets.token_hex(3)}"
    ip("netns", "add", name)
    try:
        subprocess.run(
            ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"],
            check=True,
            timeout=20,
        )
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "del", name)


@contextlib.contextmanager
def host_and_guest(namespace: str, mtu: int = 1500, offloads: int = 0) -> Iterator[Switchboard]:
    """The host with 10.0.0.2 on a tap, guest 0 with 10.0.0.1 in memory. ``offloads``: what the kernel may leave it."""
    with inside(namespace):
        descriptor = lan_module.open_tap(TAP)
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, offloads)
    endpoint = _testing.tap(descriptor, 1)
    os.close(descriptor)
    ip("-n", namespace, "link", "set", TAP, "address", mac(HOST).hex(":"), "mtu", str(mtu), "up")
    ip("-n", namespace, "addr", "add", f"{ipv4(HOST)}/24", "dev", TAP)
    ip("-n", namespace, "neigh", "add", ipv4(GUEST), "lladdr", mac(GUEST).hex(":"), "dev", TAP)
    entries = [*table(1), *((packed(address), HOST, mac(HOST)) for address in (ipv4(HOST), ipv6(HOST)))]
    with switchboard(1, slot_bytes=65535, max_frame=9014, entries=entries, extra=[endpoint]) as board:
        yield Switchboard(board.lan, [board.ports[0], endpoint])


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def datagram(load: bytes, *, summed: bool = True) -> bytes:
    """A UDP datagram of the guest to port 7 of the host; without the sum it is left for the receiver."""
    length = 8 + len(load)
    pseudo = packed(ipv4(GUEST)) + packed(ipv4(HOST)) + b"\0\x11" + length.to_bytes(2, "big")
    udp = (9).to_bytes(2, "big") + (7).to_bytes(2, "big") + length.to_bytes(2, "big")
    partial = bytes(~byte & 0xFF for byte in checksum(pseudo))
    value = checksum(pseudo + udp + b"\0\0" + load) if summed else partial
    head = b"\x45\0" + (20 + length).to_bytes(2, "big") + b"\0\0\0\0\x40\x11"
    head += checksum(head + b"\0\0" + pseudo[:8]) + pseudo[:8]
    return mac(HOST) + mac(GUEST) + b"\x08\0" + head + udp + value + load


@contextlib.contextmanager
def receiver(namespace: str) -> Iterator[socket.socket]:
    """The host's UDP socket."""
    with inside(namespace):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listener:
        listener.bind((ipv4(HOST), 7))
        listener.settimeout(WAIT_MS / 1000)
        yield listener


def until(board: Switchboard, port: int, verdict: str, least: int = 1) -> int:
    """Wait for a counter."""
    deadline = time.monotonic() + WAIT_MS / 1000
    while (count := board.counted(port).get(verdict, 0)) < least:
        assert time.monotonic() < deadline, board.counted(port)
        time.sleep(0.002)
    return count


def test_only_a_tap_with_the_virtio_header_will_do(namespace: str) -> None:
    with pytest.raises(OSError, match="not a tap") as caught:
        _testing.tap(-1, 1)
    assert caught.value.errno == errno.EBADF
    with Path("/dev/null").open() as null, pytest.raises(OSError, match="not a tap") as caught:
        _testing.tap(null.fileno(), 1)
    assert caught.value.errno == errno.ENOTTY
    with inside(namespace):
        from backend.common.tap import open_tap

        plain, descriptor = open_tap("plain0"), lan_module.open_tap(TAP)
    with pytest.raises(OSError, match="IFF_VNET_HDR") as caught:
        _testing.tap(plain, 1)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="direction_from"):
        _testing.tap(descriptor, 2)
    assert _testing.tap(descriptor, 1).up()
    os.close(plain)
    os.close(descriptor)


def test_datagrams_both_ways(namespace: str) -> None:
    with host_and_guest(namespace) as board, receiver(namespace) as host:
        for size in (1, 100, 1472):
            load = os.urandom(size)
            board.send(GUEST, datagram(load))
            assert host.recv(2000) == load
            host.sendto(load, (ipv4(GUEST), 9))
            (got,) = board.collect(GUEST, 1)
            assert got.startswith(mac(GUEST) + mac(HOST) + b"\x08\0")
            assert got.endswith(load)
        assert board.counted(GUEST) == board.counted(HOST) == {"passed": 3}


def test_a_jumbo_frame(namespace: str) -> None:
    with host_and_guest(namespace, mtu=9000) as board, receiver(namespace) as host:
        load = os.urandom(8972)
        host.sendto(load, (ipv4(GUEST), 9))
        (got,) = board.collect(GUEST, 1)
        assert (len(got), got[42:]) == (9014, load)
        board.send(GUEST, datagram(load))
        assert host.recv(9000) == load


def test_a_checksum_left_to_the_kernel_is_good_there_and_a_bad_one_is_not(namespace: str) -> None:
    with host_and_guest(namespace) as board, receiver(namespace) as host:
        assert _testing.memory_inject(board.ports[GUEST], datagram(b"partial", summed=False), (1, 0, 0, 0, 34, 6))
        assert host.recv(100) == b"partial"
        board.send(GUEST, datagram(b"wrong sum", summed=False), datagram(b"right sum"))
        assert host.recv(100) == b"right sum"


def test_work_that_the_kernel_leaves_is_handed_on(namespace: str) -> None:
    with host_and_guest(namespace, offloads=TUN_F_CSUM) as board, receiver(namespace) as host:
        host.sendto(b"partial", (ipv4(GUEST), 9))
        ((got, offload),) = _testing.memory_collect_offload(board.ports[GUEST], 1, WAIT_MS)
        flags, gso_type, _, gso_size, csum_start, csum_offset = offload
        assert (flags & 1, gso_type, gso_size, csum_start, csum_offset) == (1, 0, 0, 34, 6)
        assert got.endswith(b"partial")


def test_work_that_the_kernel_may_not_leave_is_done(namespace: str) -> None:
    with host_and_guest(namespace) as board, receiver(namespace) as host:
        host.sendto(b"whole", (ipv4(GUEST), 9))
        ((got, offload),) = _testing.memory_collect_offload(board.ports[GUEST], 1, WAIT_MS)
        assert offload[0] & 1 == 0
        pseudo = packed(ipv4(HOST)) + packed(ipv4(GUEST)) + b"\0\x11" + got[38:40]
        assert checksum(pseudo + got[34:]) == b"\0\0"
        assert got.endswith(b"whole")


def test_a_segmentation_left_to_the_kernel_is_taken_and_an_unknown_one_is_not(namespace: str) -> None:
    """4,000 bytes of TCP, to be cut at 1,000, to a port without a listener: the host's stack answers with a reset."""
    tcp = (9).to_bytes(2, "big") + (7).to_bytes(2, "big") + bytes(8) + b"\x50\x10\xff\xff" + bytes(4)
    whole = datagram(bytes(4000 + 12))
    whole = whole[:23] + b"\x06\0\0" + whole[26:34]
    whole = whole[:24] + checksum(whole[14:34]) + whole[26:] + tcp + bytes(4000)
    with host_and_guest(namespace) as board:
        assert _testing.memory_inject(board.ports[GUEST], whole, (1, 1, 54, 1000, 34, 16))
        (reset,) = board.collect(GUEST, 1)
        assert (reset[23], reset[47] & 4) == (6, 4)
        assert board.counted(GUEST) == {"passed": 1}
        assert _testing.memory_inject(board.ports[GUEST], whole, (1, 9, 54, 1000, 34, 16))
        assert until(board, GUEST, "failed") == 1


def test_what_the_kernel_says_by_itself_is_refused(namespace: str) -> None:
    """A broadcast, and an ARP request for somebody who is not there; the control passes."""
    with host_and_guest(namespace) as board, receiver(namespace) as host:
        host.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        host.sendto(b"to all", ("10.0.0.255", 9))
        host.sendto(b"nobody", ("10.0.0.77", 9))
        host.sendto(b"control", (ipv4(GUEST), 9))
        (got,) = board.collect(GUEST, 1)
        assert got.endswith(b"control")
        assert until(board, HOST, "destination", 2) >= 2


def test_an_interface_that_is_set_down_comes_back(namespace: str) -> None:
    with host_and_guest(namespace) as board, receiver(namespace) as host:
        ip("-n", namespace, "link", "set", TAP, "down")
        board.send(GUEST, datagram(b"lost"))
        assert until(board, GUEST, "down") == 1
        assert not board.ports[HOST].up()
        ip("-n", namespace, "link", "set", TAP, "up")
        board.send(GUEST, datagram(b"found"))
        assert host.recv(100) == b"found"
        assert until(board, GUEST, "passed") == 1
        assert board.ports[HOST].up()


def test_a_device_that_is_deleted_is_down_for_good_and_costs_nothing(namespace: str) -> None:
    with host_and_guest(namespace) as board:
        with receiver(namespace) as host:
            board.send(GUEST, datagram(b"control"))
            assert host.recv(100) == b"control"
        assert board.ports[HOST].up()
        ip("-n", namespace, "link", "del", TAP)
        deadline = time.monotonic() + WAIT_MS / 1000
        while board.ports[HOST].up():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.05
        board.send(GUEST, datagram(b"lost"))
        assert until(board, GUEST, "down") == 1


def test_a_flood_is_bounded_and_what_passes_is_whole(namespace: str) -> None:
    """20,000 datagrams from the host: each arrives unchanged, or is counted as dropped for want of a slot."""
    with host_and_guest(namespace) as board, receiver(namespace) as host:
        seen = 0
        for i in range(20000):
            host.sendto(i.to_bytes(4, "big") * 10, (ipv4(GUEST), 9))
            for got in _testing.memory_collect(board.ports[GUEST], 1000):
                assert got[42:46] * 10 == got[42:]
                seen += 1
        counted: dict[str, int] = {}
        while counted != (counted := board.counted(HOST)):  # until nothing is on its way any more
            time.sleep(0.2)
            seen += len(_testing.memory_collect(board.ports[GUEST], 1 << 15))
        assert seen == counted["passed"] > 1000
        assert counted["passed"] + counted.get("no_buffer", 0) <= 20000


def test_a_device_opened_on_the_host_reaches_its_tap_from_anywhere_and_one_opened_here_does_not(namespace: str) -> None:
    """How QEMU, in an empty network namespace and without capabilities, gets the link's tap (sallyport-vm.service)."""
    user = 65534
    ip("-n", namespace, "tuntap", "add", TAP, "mode", "tap", "user", str(user))
    with inside(namespace):
        given = os.open("/dev/net/tun", os.O_RDWR)
    ip("netns", "add", empty := f"{namespace}x")
    try:
        script = (
            "import os, sys; from backend.common.tap import attach\n"
            f"os.setgid({user}); os.setuid({user})\n"
            "attach(int(sys.argv[1]), sys.argv[2]); os.write(int(sys.argv[1]), bytes(6) + bytes(54))"
        )

        def attached(descriptor: int) -> str:
            words = ["ip", "netns", "exec", empty, sys.executable, "-c", script, str(descriptor), TAP]
            done = subprocess.run(words, capture_output=True, text=True, pass_fds=(descriptor,), timeout=60)
            return done.stderr if done.returncode else "attached"

        ip("-n", namespace, "link", "set", TAP, "up")
        with inside(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as watcher:
            watcher.bind((TAP, 3))
            watcher.settimeout(WAIT_MS / 1000)
            assert attached(given) == "attached"
            while watcher.recv(100) != bytes(60):
                pass
        with inside(empty):
            own = os.open("/dev/net/tun", os.O_RDWR)
        assert f"tap {TAP}: Operation not permitted" in attached(own)
        os.close(own)
    finally:
        os.close(given)
        ip("netns", "del", empty)
