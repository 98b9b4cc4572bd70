"""Device profiles: the declaration of one hardware model, read from ``rootfs/spec/profiles/<name>.toml``."""

from __future__ import annotations

import difflib
import ipaddress
import math
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from backend.daemon import audit
from backend.forwarder import config
from rootfs.base import untrusted
from rootfs.base.errors import SallyportError
from rootfs.spec.fields import Console, Module, Name, PortMatch, explain

DIRECTORY = Path(__file__).parent / "profiles"

_MAX_FILE = 1 << 20
STATE_MIB = 4
"""For all files of the data partition but the audit logs, each there twice while it is replaced. The host's journal and
the captures of frames are in memory."""
LEAST_DATA_MIB = math.ceil((audit.BYTES / 2**20 + STATE_MIB + 7) * 16 / 15)
"""With what ext4 needs for itself in a partition of about that size: 7 MiB and a sixteenth (mke2fs(8), its inodes)."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Disk(_Part):
    """The flash image: its partitions' sizes in MiB, and what disk it is for."""

    esp_mib: int = Field(ge=48, le=1024)
    """The partition that firmware reads: one unified kernel image (kernel and initramfs) for each slot."""
    slot_mib: int = Field(ge=64, le=4096)
    """Each of the two slots: a root file system with its hash tree. Nothing is installed into the second one yet."""
    data_mib: int = Field(le=65536, json_schema_extra={"minimum": LEAST_DATA_MIB})
    """The partition for what survives a reboot: passwords, host name, keys, audit logs."""
    sector_bytes: Literal[512, 4096] = 512
    """Logical sectors of the disk. An image is for one of the two: firmware looks for the partition table in the second
    sector, and reads the FAT by sectors. On Linux: `blockdev --getss /dev/sdX`."""

    @field_validator("data_mib")
    @classmethod
    def _has_room(cls, value: int) -> int:
        if value < LEAST_DATA_MIB:
            raise ValueError(
                f"{value} MiB have no room for the audit logs ({audit.BYTES // 2**20} MiB), {STATE_MIB} MiB of other "
                f"files and the file system's own: at least {LEAST_DATA_MIB}"
            )
        return value


class ManagementPort(_Part):
    """Which NIC is the management port, and the front-end VM's address on it."""

    match: PortMatch
    """``first``: the lowest PCI address among all NICs; ``pci:DDDD:BB:DD.F``: that one, as the kernel calls it."""
    address: str
    """IPv4 address/prefix of the VM on the management port."""

    @field_validator("address")
    @classmethod
    def _is_interface(cls, value: str) -> str:
        wanted = "want IPv4 address/prefix, such as 192.168.42.1/24"
        try:
            interface = ipaddress.IPv4Interface(value)
        except ValueError as error:
            raise ValueError(f"{error}; {wanted}") from error
        if interface.ip.is_link_local or str(interface) != value or interface.network.prefixlen > 30:
            raise ValueError(f"{value!r}: {wanted}; outside 169.254.0.0/16, with a prefix of 30 or less")
        ends = (interface.network.network_address, interface.network.broadcast_address)
        if interface.ip in ends or interface.ip.is_loopback or interface.ip.is_multicast or int(interface.ip) < 2**24:
            raise ValueError(f"{interface.ip} is no machine's address in {interface.network}; {wanted}")
        return value

    @property
    def sorted_address(self) -> str:
        """The PCI address with a domain of eight digits, so that text sorts as numbers do; nothing for ``first``."""
        return "" if self.match == "first" else self.match.removeprefix("pci:").rjust(len("00000000:00:00.0"), "0")

    @property
    def interface(self) -> ipaddress.IPv4Interface:
        """The address, parsed."""
        return ipaddress.IPv4Interface(self.address)


def _range(kind: object) -> FieldInfo:
    """The range of one of the forwarder's types (msgspec's `Meta`), for pydantic."""
    (meta,) = get_args(kind)[1:]
    bounds = {name: getattr(meta, name) for name in ("ge", "le", "min_length", "max_length")}
    found: FieldInfo = Field(**{name: bound for name, bound in bounds.items() if bound is not None})
    return found


class Limits(_Part):
    """Token buckets of one direction, of all frames and of groups': frames per second (0: no limit), frames at once."""

    rate: Annotated[int, _range(config.Rate)] = 200_000
    """All frames of the direction, per second; 0: no limit."""
    burst: Annotated[int, _range(config.Burst)] = 8_192
    """How many of them may come at once."""
    group_rate: Annotated[int, _range(config.Rate)] = 2_000
    """Broadcast and multicast frames, per second; 0: no limit."""
    group_burst: Annotated[int, _range(config.Burst)] = 512
    """How many of them may come at once."""


class Forwarder(_Part):
    """What moves frames between the management port and the VM, and which; ranges: backend/forwarder/config.py."""

    port: config.PortDatapath = "ring"
    """A packet ring, a tc-BPF program, or the kernel's bridge with nftables."""
    vm: config.VmDatapath = "vhost-user"
    """The VM's end; ``vhost-user`` wants ``port`` to be ``ring``."""
    ethertypes: Annotated[tuple[Annotated[int, _range(config.Ethertype)], ...], _range(config.Ethertypes)] = (
        0x0800,
        0x0806,
        0x86DD,
    )
    """IPv4, ARP, IPv6; all others are dropped."""
    tags: Annotated[int, _range(config.Tags)] = 0
    """Most VLAN tags of a frame that may pass. A priority tag (VLAN 0) in front is none: the frame is untagged."""
    max_frame: Annotated[int, _range(config.FrameBytes)] = 1514
    """Bytes, Ethernet header included, tags not. The MTU of port and VM follow from it."""
    from_port: Limits = Limits()
    from_vm: Limits = Limits()

    @field_validator("ethertypes", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _goes_together(self) -> Forwarder:
        config.check_together(self.port, self.vm, self.tags)
        return self

    @property
    def mtu(self) -> int:
        """Of the VM's NIC on the port, bytes."""
        return self.max_frame - config.HEADER

    @property
    def port_mtu(self) -> int:
        """Of the port and of the VM's tap, bytes: with tags. Linux allows for one of 802.1Q by itself, for no other."""
        return self.mtu + config.TAG * self.tags


class FrontendVm(_Part):
    """Resources of the front-end VM."""

    memory_mib: int = Field(ge=96, le=4096)
    """Its memory."""
    cpus: int = Field(ge=1, le=16)
    """Its virtual processors."""


class Modules(_Part):
    """Kernel modules of the host; none but these (and what they depend on) is in the image or can be loaded."""

    initrd: tuple[Module, ...]
    """Loaded in the initramfs, in this order: what the disk and the verified root file system need."""
    host: tuple[Module, ...]
    """Loaded at the start of the host, in this order: NICs, KVM, what the datapath needs."""

    @field_validator("initrd", "host", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class Profile(_Part):
    """One hardware model."""

    name: Name
    """The file's name without ``.toml``; it is in the name of every image of the profile."""
    description: str
    """What hardware it is for, in a few words."""
    arch: Literal["x86_64", "aarch64"]
    """Architecture of host and front-end VM."""
    kernel: Literal["cloud", "generic"]
    """Kernel flavour of engine ``debian``: ``cloud`` for virtual machines, ``generic`` for hardware."""
    console: Console
    """Console as the kernel's ``console=`` takes it; it becomes /dev/console, where the first password is shown."""
    disk: Disk
    management: ManagementPort
    vm: FrontendVm
    forwarder: Forwarder = Forwarder()
    modules: Modules


DATAPATHS: dict[str, tuple[str, str]] = {
    "ring": ("ring", "vhost-user"),
    "ring-tap": ("ring", "tap"),
    "kernel": ("kernel", "tap"),
    "bridge": ("bridge", "tap"),
}
"""Short names of what `Forwarder` can be: (port, vm)."""


def names() -> list[str]:
    """All profiles there are."""
    return sorted(file.stem for file in DIRECTORY.glob("*.toml"))


def load(name: str, datapath: str = "") -> Profile:
    """Read and check one profile.

    Args:
        name: its name, or the path of a .toml file of your own.
        datapath: one of `DATAPATHS` in place of the profile's own; the profile is then called ``<name>-<datapath>``.

    Raises:
        SallyportError: unknown name or datapath, or a field is missing, unknown or out of range; names file and field.
    """
    file = Path(name) if name.endswith(".toml") else DIRECTORY / f"{name}.toml"
    if not file.is_file():
        close = difflib.get_close_matches(name, names(), n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise SallyportError(f"no device profile {name!r}", f"{guess}there are: {', '.join(names())}")
    try:
        data = tomllib.loads(untrusted.read(file, _MAX_FILE).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SallyportError(f"{file}: {error}", "correct the TOML syntax there") from error
    try:
        profile = Profile.model_validate(data)
    except ValidationError as error:
        raise _wrong(file, error) from error
    if profile.name != file.stem:
        raise SallyportError(f"{file}: name: {profile.name!r} is not the file's name", f"write name = {file.stem!r}")
    return _by(datapath, profile, file) if datapath else profile


def _wrong(file: Path, error: ValidationError) -> SallyportError:
    return SallyportError(f"{file}: {explain(error, Profile)}", "the fields are documented in rootfs/spec/profile.py")


def _by(datapath: str, profile: Profile, file: Path) -> Profile:
    if datapath not in DATAPATHS:
        raise SallyportError(f"no datapath {datapath!r}", f"there are: {', '.join(DATAPATHS)}")
    port, vm = DATAPATHS[datapath]
    forwarder = profile.forwarder.model_dump() | {"port": port, "vm": vm}
    try:
        return Profile.model_validate(
            profile.model_dump() | {"name": f"{profile.name}-{datapath}", "forwarder": forwarder}
        )
    except ValidationError as error:
        raise _wrong(file, error) from error
