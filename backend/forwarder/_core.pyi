"""The data path in C: endpoints, and what moves frames between them without the GIL."""

from collections.abc import Iterable
from typing import final

# Endpoints in memory (memory_python.c), taps (tap_python.c), the guest LAN (lan_python.c).

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

def check(policy: bytes, direction: int, frame: bytes, outer_tags: int, /) -> int:
    """The policy's verdict on one frame, rates aside; ``outer_tags`` (0 or 1) is a tag beside the frame. For tests.

    Raises:
        ValueError: a policy of another size, or an argument out of range.
    """
