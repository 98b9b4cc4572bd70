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
    """Open the tap ``name`` in this process' network namespace, and create it if permitted.

    A VM's tap is opened without the virtio header (IFF_VNET_HDR): with it, the VM could have the kernel write checksums
    into frames after the packet filter, or split one frame into tens of thousands. ``header`` is for our own code.

    Returns:
        A file descriptor.

    Raises:
        OSError: no /dev/net/tun, no permission, or another process has the tap open.
    """
    return attach(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK), name, header=header)


def attach(descriptor: int, name: str, *, header: bool = False) -> int:
    """Attach an open ``/dev/net/tun`` to the tap ``name``, as `open_tap` does, and return it; on failure it is closed.

    The tap is looked up in the network namespace in which the device was opened (tun_chr_open() in Linux), not in that
    of this process.

    Raises:
        OSError: no such tap, no permission, or another process has it open.
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if header else 0)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(descriptor)
        raise OSError(error.errno, f"tap {name}: {error.strerror}") from error
    return descriptor
