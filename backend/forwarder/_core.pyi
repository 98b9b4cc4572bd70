"""The data path in C: endpoints, and what moves frames between them without the GIL."""

from collections.abc import Iterable
from typing import TypedDict, final

# Endpoints in memory (memory_python.c), packet rings (ring_python.c), vhost-user (vhost_user_python.c), taps
# (tap_python.c), the guest LAN (lan_python.c).

@final
class Endpoint:
    """One end of a path, or a port of a guest LAN. Belongs to one of them at most, once."""

    def up(self) -> bool:
        """Whether the other side is there."""

def memory(slots: int, slot_bytes: int, direction_from: int, /) -> Endpoint:
    """An endpoint in this process's memory, ``slots`` frames of ``slot_bytes`` bytes each way.

    Raises:
        ValueError: a number is out of range (65,536 slots, 65,553 bytes, 0 or 1).
        OSError: no memory, no file descriptors.
    """

def memory_inject(
    endpoint: Endpoint,
    frame: bytes,
    offload: tuple[int, int, int, int, int, int] | None = None,
    tag: tuple[int, int] | None = None,
    /,
) -> bool:
    """Put a frame into what the data path receives; wakes it. False if every slot is in use.

    ``offload`` is (flags, gso_type, hdr_len, gso_size, csum_start, csum_offset) of struct virtio_net_hdr, taken as is;
    ``tag`` a VLAN tag beside the frame, (TPID, TCI).

    Raises:
        ValueError: the frame is longer than a slot, or a number is out of range.
        TypeError: not an endpoint that ``memory()`` made.
    """

def memory_collect(endpoint: Endpoint, max: int, timeout_ms: int = 0, /) -> list[bytes]:
    """Up to ``max`` frames that the data path sent, in order; waits so long for the first one, -1: for ever."""

def memory_collect_offload(
    endpoint: Endpoint, max: int, timeout_ms: int = 0, /
) -> list[tuple[bytes, tuple[int, int, int, int, int, int]]]:
    """The same with the work that is left for the receiver, as for ``memory_inject()``."""

def memory_set_up(endpoint: Endpoint, up: bool, /) -> None:
    """Make the other side go away, or come back: what is sent to it meanwhile is dropped as ``down``."""

def tap(fd: int, direction_from: int, /) -> Endpoint:
    """An endpoint over a tap opened with ``IFF_NO_PI | IFF_VNET_HDR``. ``fd`` is duplicated and becomes non-blocking.

    Raises:
        OSError: EBADF, ENOTTY, EINVAL if it is no such thing.
        ValueError: the direction is neither 0 nor 1.
    """

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

class Lan:
    """A guest LAN: a frame goes to the one owner of the address that it names, or to nobody.

    ``max_frame`` is in bytes on the wire, Ethernet header included. ``limits`` has for each endpoint None or (cost_ns,
    burst_ns, group_cost_ns, group_burst_ns): one frame's share of a second and the burst, in nanoseconds, of all frames
    from it and of those that ask for addresses; a cost of 0 is no limit.

    Raises:
        ValueError: no endpoint or more than 64, one that is in use, or ``max_frame`` out of range.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        max_frame: int = 9014,
        limits: tuple[tuple[int, int, int, int] | None, ...] | None = None,
    ) -> None: ...
    def provision(self, entries: Iterable[tuple[bytes, int, bytes]], /) -> None:
        """Replace the table by (address of 4 or 16 bytes, index of the endpoint, MAC address). From any thread.

        When it returns no frame is moved by the old table any more.

        Raises:
            ValueError: names the entry: an address twice, an unknown port, a wrong length.
        """

    def run(self) -> None:
        """Move frames until ``stop()``; releases the GIL.

        Raises:
            ValueError: it is running already.
            OSError: poll(2) failed.
        """

    def stop(self) -> None:
        """Make ``run()`` return, now and ever after. From any thread."""

    def counters(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For frames from each endpoint: (frames, bytes) of each verdict, in the order of ``counters.VERDICTS``."""

def check(policy: bytes, direction: int, frame: bytes, outer_tag: int, /) -> int:
    """For tests: the policy's verdict on one frame, rates aside; ``outer_tag`` lies beside it, TPID and TCI; 0: none.

    Raises:
        ValueError: a policy of another size, or an argument out of range.
    """
