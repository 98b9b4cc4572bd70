"""What can go wrong with a machine."""

from __future__ import annotations

from rootfs.base.errors import SallyportError


class MachineError(SallyportError):
    """QEMU did not do what it was asked: nothing can be said about the image."""
