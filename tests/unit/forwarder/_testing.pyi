"""The data paths of the forwarder and of the guest LAN, and endpoints in memory to feed them; in no image.

Compiled from the product's sources with the product's flags (``c/pyproject.toml``).
"""

from backend.lan._lan import Endpoint as Endpoint
from backend.lan._lan import Lan as Lan
from backend.lan._lan import VhostUserState as VhostUserState
from backend.lan._lan import tap as tap
from backend.lan._lan import vhost_user as vhost_user
from backend.lan._lan import vhost_user_state as vhost_user_state

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

def check(policy: bytes, direction: int, frame: bytes, outer_tag: int, /) -> int:
    """The policy's verdict on one frame, rates aside; ``outer_tag`` lies beside it, TPID and TCI; 0: none.

    Raises:
        ValueError: a policy of another size, or an argument out of range.
    """
