"""What the device profile says of the forwarder: ``/etc/sallyport/port.json``, rendered at the image's build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from backend.forwarder.errors import ConfigError

PATH = Path("/etc/sallyport/port.json")
MAX_RATE = 100_000_000
"""Frames per second: below a few nanoseconds a frame the token bucket's clock is too coarse."""
MAX_BURST = 1_000_000
MAX_TAGS = 2
"""VLAN tags of a frame, IEEE 802.1ad."""
TAG = 4
"""Bytes of one."""
MAX_ETHERTYPES = 16
MIN_ETHERTYPE, MAX_ETHERTYPE = 0x600, 0xFFFF
"""IEEE 802.3, 3.2.6: what is below is a length."""
HEADER = 14
"""Bytes of an Ethernet header; ``max_frame`` has them, an MTU has not."""
MIN_FRAME, MAX_FRAME = HEADER + 1280, HEADER + 9004
"""Bytes: IPv6 wants an MTU of 1280 (RFC 8200, 5), or the VM has none; and what network cards call jumbo frames."""

PortWay = Literal["ring", "kernel", "bridge"]
VmWay = Literal["vhost-user", "tap"]
Rate = Annotated[int, Meta(ge=0, le=MAX_RATE)]
"""Frames per second, 0 for no limit."""
Burst = Annotated[int, Meta(ge=1, le=MAX_BURST)]
"""Frames that may come at once."""
Ethertype = Annotated[int, Meta(ge=MIN_ETHERTYPE, le=MAX_ETHERTYPE)]


class Limit(Struct, frozen=True, forbid_unknown_fields=True):
    """A token bucket: ``rate`` frames per second, ``burst`` frames at once."""

    rate: Rate
    burst: Burst


class Direction(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one direction: of all frames, and of broadcast and multicast among them."""

    all: Limit
    group: Limit


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The forwarder's settings."""

    port: PortWay
    """How frames get from and to the port: by a packet ring, a tc-BPF program, or the kernel's bridge."""
    vm: VmWay
    """How they get from and to the VM; ``vhost-user`` wants ``port`` to be ``ring``."""
    ethertypes: Annotated[list[Ethertype], Meta(min_length=1, max_length=MAX_ETHERTYPES)]
    tags: Annotated[int, Meta(ge=0, le=MAX_TAGS)]
    """Most VLAN tags of a frame that may pass."""
    max_frame: Annotated[int, Meta(ge=MIN_FRAME, le=MAX_FRAME)]
    """Bytes, Ethernet header included, tags and frame check sequence not."""
    vm_memory_mib: Annotated[int, Meta(ge=16, le=65536)]
    """Most memory of the VM that is mapped."""
    from_port: Direction
    from_vm: Direction


def read(path: Path = PATH) -> Config:
    """Read and check it.

    Raises:
        ConfigError: absent, not JSON, a field is unknown, missing or out of range, or two do not go together.
    """
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if config.vm == "vhost-user" and config.port != "ring":
        raise ConfigError(f"{path}: vm: vhost-user goes with port = ring only, not with {config.port}")
    return config
