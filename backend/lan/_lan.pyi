"""The guest LAN in C: endpoints, and what moves frames between them without the GIL."""

from collections.abc import Iterable
from typing import TypedDict, final

@final
class Endpoint:
    """Where frames enter and leave: a port of the guest LAN. Belongs to one `Lan` at most."""

    def up(self) -> bool:
        """Whether the other side is connected and able to receive."""

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
