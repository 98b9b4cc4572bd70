"""The data path in C: endpoints, and what moves frames between them without the GIL."""

from typing import TypedDict, final

# Packet rings: core/ring_python.c; vhost-user: core/vhost_user_python.c; paths: core/path_python.c.

@final
class Endpoint:
    """Where frames enter and leave. Belongs to one `Path` at most."""

    def up(self) -> bool:
        """Whether the other side is connected and able to receive."""

def ring(interface: str, mac: bytes | None, direction_from: int, /) -> Endpoint:
    """A packet ring at an interface of this network namespace: packet(7), TPACKET_V2; needs CAP_NET_RAW.

    With ``mac`` the interface takes frames for that address, too, if it can; else it becomes promiscuous.

    Raises:
        OSError: ENODEV, EPERM, ENOMEM, with the step that failed.
        ValueError: the address has not 6 bytes, or the direction is neither 0 nor 1.
    """

def vhost_user(listener: int, max_memory: int, offload: bool, direction_from: int, /) -> Endpoint:
    """The back end of a guest's NIC (QEMU docs/interop/vhost-user).

    ``listener`` is a listening unix socket; it is duplicated. ``max_memory``: bytes of the guest's memory at most.
    ``offload``: let the guest leave checksums and segments to us.

    Raises:
        OSError: EBADF, no memory.
        ValueError: not a listening socket, or a number is out of range.
    """

class VhostUserState(TypedDict):
    """What a vhost-user endpoint counted; faults that never were are left out."""

    connections: int
    disconnections: int
    refused: int
    signals: int
    features: int
    faults: dict[str, int]
    last_fault: str | None

def vhost_user_state(endpoint: Endpoint, /) -> VhostUserState:
    """How the guest behaved.

    Raises:
        TypeError: the endpoint is another kind.
    """

class Path:
    """Moves frames between two endpoints as a policy (``policy.pack``) allows.

    Raises:
        ValueError: a policy of another size, an endpoint that is in use or of the other direction.
        OSError: no memory.
    """

    def __init__(self, port: Endpoint, vm: Endpoint, policy: bytes) -> None: ...
    def run(self) -> None:
        """Move frames until ``stop()``; releases the GIL.

        Raises:
            ValueError: it is running already.
            OSError: poll(2) failed.
        """

    def stop(self) -> None:
        """Make ``run()`` return. From any thread."""

    def counters(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For frames from the port and from the VM: (frames, bytes) of each verdict, as ``counters.VERDICTS``."""

    def pace(self) -> dict[str, int]:
        """How the data path waits: rounds, sleeps, naps."""

    def capture_start(self, file: int, limit: int, /) -> None:
        """Write pcapng of at most ``limit`` bytes to an open file, which is duplicated.

        Raises:
            OSError: EBUSY: one is running; EINVAL: the limit is too small; what writing raised.
        """

    def capture_stop(self) -> bool:
        """End the capture; False if none was running."""

    def capture_state(self) -> dict[str, int]:
        """What the capture, or the last one, holds: on, limit, bytes, frames, missed."""

def drop_capabilities() -> None:
    """Give up every capability of this process, for good (capabilities(7), PR_SET_NO_NEW_PRIVS).

    Raises:
        OSError: the kernel refused.
    """

def confine() -> None:
    """Allow only the system calls that moving frames needs, in all threads (seccomp(2)); any other ends the process.

    Raises:
        OSError: the kernel refused.
    """
