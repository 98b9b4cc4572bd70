"""TCP ports of 127.0.0.1 that QEMU's user network forwards to the front-end VM."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from rootfs.base.errors import SallyportError


@dataclass(frozen=True)
class Forward:
    """TCP ports of 127.0.0.1 that lead to the VM; 0 for none."""

    https: int = 0
    ssh: int = 0
    test_shell: int = 0

    def rules(self, address: str) -> str:
        """Return the options of ``-netdev user`` that forward to the VM's ``address`` (qemu(1), hostfwd)."""
        pairs = [(self.https, 443), (self.ssh, 22), (self.test_shell, 2022)]
        return "".join(f",hostfwd=tcp:127.0.0.1:{here}-{address}:{there}" for here, there in pairs if here)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def check_port(port: int, option: str) -> None:
    """Refuse a port that is taken.

    Args:
        port: of 127.0.0.1.
        option: the command-line option that named it, for the error.

    Raises:
        SallyportError: the number is out of range, somebody listens there, or this user may not.
    """
    if not 0 < port < 65536:
        raise SallyportError(f"{option}: there is no port {port}", "choose one from 1 to 65535")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise SallyportError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}", f"choose another with {option}"
            ) from error
