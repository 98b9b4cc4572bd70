"""The forwarder's settings: their ranges and what goes together, for the device profile as well.

A profile's section ``forwarder`` (rootfs/spec/profile.py) takes its ranges from the types here and its cross-check from
`check_together`. The image's build renders ``/etc/sallyport/port.json`` from it, which `read` reads.
"""

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
"""Frames."""
MAX_TAGS = 2
"""VLAN tags of a frame: a service tag and a customer tag (IEEE 802.1ad). POLICY_TAGS of core/policy.h."""
TAG = 4
"""Bytes of a VLAN tag (IEEE 802.1Q)."""
MAX_ETHERTYPES = 16
"""Entries of the allow-list. POLICY_ETHERTYPES of core/policy.h."""
MIN_ETHERTYPE, MAX_ETHERTYPE = 0x600, 0xFFFF
"""IEEE 802.3, 3.2.6: a smaller number in that field is a length."""
HEADER = 14
"""Bytes of an Ethernet header; ``max_frame`` has them, an MTU has not."""
MIN_FRAME, MAX_FRAME = HEADER + 1280, HEADER + 9004
"""Bytes. IPv6 is off below an MTU of 1280 (RFC 8200, 5); the other end is what network cards call jumbo frames."""

PortDatapath = Literal["ring", "kernel", "bridge"]
"""How frames get from and to the port: by a packet ring, a tc-BPF program, or the kernel's bridge."""
VmDatapath = Literal["vhost-user", "tap"]
"""How they get from and to the VM."""
Rate = Annotated[int, Meta(ge=0, le=MAX_RATE)]
"""Frames per second, 0 for no limit."""
Burst = Annotated[int, Meta(ge=1, le=MAX_BURST)]
"""Frames that may come at once."""
Ethertype = Annotated[int, Meta(ge=MIN_ETHERTYPE, le=MAX_ETHERTYPE)]
Ethertypes = Annotated[list[Ethertype], Meta(min_length=1, max_length=MAX_ETHERTYPES)]
"""The allow-list."""
Tags = Annotated[int, Meta(ge=0, le=MAX_TAGS)]
"""Most VLAN tags of a frame that may pass."""
FrameBytes = Annotated[int, Meta(ge=MIN_FRAME, le=MAX_FRAME)]
"""Most bytes of a frame, Ethernet header included, tags and frame check sequence not."""


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

    port: PortDatapath
    vm: VmDatapath
    ethertypes: Ethertypes
    tags: Tags
    max_frame: FrameBytes
    vm_memory_mib: Annotated[int, Meta(ge=16, le=65536)]
    """Most memory of the VM that is mapped."""
    from_port: Direction
    from_vm: Direction


def check_together(port: PortDatapath, vm: VmDatapath, tags: int) -> None:
    """Refuse settings that are good one by one but not together.

    Raises:
        ValueError: names the settings, and what to write instead.
    """
    if vm == "vhost-user" and port != "ring":
        raise ValueError(f'vm = "vhost-user" goes with port = "ring" only; write vm = "tap" for port = "{port}"')
    if tags and port == "bridge":
        raise ValueError(f'tags = {tags} goes with port = "ring" or "kernel" only; write tags = 0 for port = "bridge"')


def read(path: Path = PATH) -> Config:
    """Read and check the file.

    Raises:
        ConfigError: absent, not JSON, a field is unknown, missing or out of range, or two do not go together.
    """
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
        check_together(config.port, config.vm, config.tags)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return config
