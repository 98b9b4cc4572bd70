"""Three network namespaces in a row, joined by veth pairs: outside - appliance - VM."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.forwarder import config, policy

VM_MAC = "02:5a:11:00:00:02"
OUTER_MAC = "02:00:00:00:00:01"
LINK = "169.254.254.0/30"
FROM_PORT, FROM_VM = 0, 1
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


def settings(**changes: object) -> config.Config:
    """A configuration without limits, tags allowed."""
    free = config.Direction(all=config.Limit(0, 1), group=config.Limit(0, 1))
    values: dict[str, object] = {
        "port": "ring", "vm": "tap", "ethertypes": [0x0800, 0x0806, 0x86DD], "tags": 2, "max_frame": 1514,
        "vm_memory_mib": 64, "from_port": free, "from_vm": free,
    }  # fmt: skip
    return config.Config(**(values | changes))  # type: ignore[arg-type]


def packed(**changes: object) -> bytes:
    """`settings` as the core takes them."""
    return policy.pack(settings(**changes), policy.parse_mac(VM_MAC), LINK)


def wait_for(condition: Callable[[], object], seconds: float = 3.0) -> bool:
    """Ask until it is true, or ``seconds`` are over."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace (this thread only): sockets made here stay there."""
    with Path("/proc/thread-self/ns/net").open() as before, Path(f"/run/netns/{namespace}").open() as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(before.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def no_segmentation(interface: str) -> None:
    """Take TCP segmentation offload from a card (linux/ethtool.h: ETHTOOL_STSO)."""
    _ethtool(interface, 0x1F, 0)


def receive_offload(interface: str) -> None:
    """Let the kernel make one frame of those that come together (linux/ethtool.h: ETHTOOL_SGRO)."""
    _ethtool(interface, 0x2C, 1)


def _ethtool(interface: str, command: int, argument: int) -> None:
    """SIOCETHTOOL of this thread's network namespace."""
    value = ctypes.create_string_buffer(struct.pack("=II", command, argument))
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8946, request)


class Row:
    """outside ``a0`` - ``m0`` appliance ``t0`` - ``b0`` VM; all up, no IPv6, no address but what a test gives."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.outside, self.appliance, self.vm = (f"fw{token}{end}" for end in "amb")

    def __enter__(self) -> Row:
        try:
            for name in (self.outside, self.appliance, self.vm):
                ip("netns", "add", name)
                command = ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]
                subprocess.run(command, check=True, timeout=20)
            self.join_outside()
            ip("-n", self.appliance, "link", "add", "t0", "type", "veth", "peer", "name", "b0", "netns", self.vm)
            ip("-n", self.vm, "link", "set", "b0", "address", VM_MAC, "up")
            ip("-n", self.appliance, "link", "set", "t0", "arp", "off", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def join_outside(self) -> None:
        """Make the pair of the port (again)."""
        ip("-n", self.appliance, "link", "add", "m0", "type", "veth", "peer", "name", "a0", "netns", self.outside)
        ip("-n", self.outside, "link", "set", "a0", "address", OUTER_MAC, "up")
        ip("-n", self.appliance, "link", "set", "m0", "arp", "off", "up")

    def __exit__(self, *_: object) -> None:
        for name in (self.outside, self.appliance, self.vm):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)

    def mtu(self, size: int) -> None:
        """Set the MTU of all four interfaces."""
        for namespace, interface in (
            (self.outside, "a0"),
            (self.appliance, "m0"),
            (self.appliance, "t0"),
            (self.vm, "b0"),
        ):
            ip("-n", namespace, "link", "set", interface, "mtu", str(size))

    def addresses(self) -> None:
        """10.9.0.1 outside, 10.9.0.2 in the VM."""
        ip("-n", self.outside, "addr", "add", "10.9.0.1/24", "dev", "a0")
        ip("-n", self.vm, "addr", "add", "10.9.0.2/24", "dev", "b0")

    def socket(self, end: str) -> RawSocket:
        """A raw socket ``outside`` or in the ``vm``."""
        with inside(getattr(self, end)):
            return RawSocket("a0" if end == "outside" else "b0")


_AUXDATA, _SOL_PACKET, _IGNORE_OUTGOING = 8, 263, 23


class RawSocket:
    """Frames as they are on the wire, the VLAN tag that the kernel keeps beside them put back (packet(7))."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        self._socket.bind((interface, 3))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send(frame)

    def receive(self, count: int = 1, timeout: float = 1.0) -> list[bytes]:
        """Up to ``count`` frames; fewer if no more come in time."""
        frames: list[bytes] = []
        deadline = time.monotonic() + timeout
        while len(frames) < count and (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            data, extra, _, _ = self._socket.recvmsg(70000, 256)
            for _, kind, value in extra:
                status = int.from_bytes(value[0:4], "little")
                if kind == _AUXDATA and status & 0x10:  # TP_STATUS_VLAN_VALID
                    tci, tpid = value[16:18][::-1], value[18:20][::-1]
                    data = data[:12] + (tpid if status & 0x40 else b"\x81\x00") + tci + data[12:]
            frames.append(data)
        return frames

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Running:
    """Something with ``run`` and ``stop``, running in a thread."""

    def __init__(self, path: object) -> None:
        self._path = path
        self._thread = threading.Thread(target=path.run, daemon=True)  # type: ignore[attr-defined]

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._path.stop()  # type: ignore[attr-defined]
        self._thread.join(5)
        assert not self._thread.is_alive(), "the data path does not end"


def frame(*, source: str = OUTER_MAC, destination: str = VM_MAC, ethertype: int = 0x0800, tags: bytes = b"",
          payload: bytes = b"", size: int = 60) -> bytes:  # fmt: skip
    """A frame of ``size`` bytes (tags not counted); without a payload its layer 3 is an IPv4 header of zeros."""
    head = bytes.fromhex(destination.replace(":", "")) + bytes.fromhex(source.replace(":", ""))
    body = ethertype.to_bytes(2, "big") + payload
    return head + tags + body.ljust(size - 12, b"\0")


def from_vm(**changes: object) -> bytes:
    """A frame of the VM's to the outside."""
    return frame(**({"source": VM_MAC, "destination": OUTER_MAC} | changes))  # type: ignore[arg-type]
