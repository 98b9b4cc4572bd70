"""Tap devices as open file descriptors (kernel: Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import fcntl
import os
import struct

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000


def open_tap(name: str, *, header: bool = False) -> int:
    """Open the tap ``name`` of this process' network namespace, made if the process may; returns a file descriptor.

    A VM gets one without the virtio header (IFF_VNET_HDR), on purpose: with it the VM could have the kernel write
    checksums into frames behind the rules, or cut one frame into tens of thousands. Our own code may have ``header``.

    Raises:
        OSError: no /dev/net/tun, no permission, or somebody else has it open.
    """
    return attach(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK), name, header=header)


def attach(descriptor: int, name: str, *, header: bool = False) -> int:
    """Make of an open ``/dev/net/tun`` the tap ``name``, as `open_tap`, and return it; closed if that fails.

    The tap is one of the network namespace in which the device was opened (tun_chr_open() of Linux), wherever this
    process is, and stays so.

    Raises:
        OSError: no such tap, no permission, or somebody else has it open.
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if header else 0)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(descriptor)
        raise OSError(error.errno, f"tap {name}: {error.strerror}") from error
    return descriptor
