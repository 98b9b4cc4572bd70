"""Tap devices as open file descriptors (kernel: Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import fcntl
import os
import struct

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000


def open_tap(name: str) -> int:
    """Open the tap ``name`` of this process' network namespace, made if the process may; returns a file descriptor.

    Without the virtio header (IFF_VNET_HDR), on purpose: with it the VM could have the kernel write checksums into
    frames behind the bridge rules, or cut one frame into tens of thousands.

    Raises:
        OSError: no /dev/net/tun, no permission, or somebody else has it open.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        raise OSError(error.errno, f"tap {name}: {error.strerror}") from error
    return descriptor
