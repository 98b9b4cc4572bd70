"""The flash image: verified root, unified kernel image, partitions, block map."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from rootfs import overlay
from rootfs.arch import Arch
from rootfs.errors import SallyportError
from rootfs.profile import Profile
from rootfs.tools import Tools

STUB_PACKAGE = "systemd-boot-efi"
"""The package that has the stub."""
_TEMPLATE = Path(__file__).parent / "genimage.cfg.j2"
_BLOCK = 4096
_NAMESPACE = uuid.UUID("5a11e907-0000-4000-8000-000000000001")
"""Names the project's identifiers (RFC 9562, version 5): the same inputs give the same ones."""


@dataclass(frozen=True)
class Verity:
    """A dm-verity device (kernel: device-mapper/verity.rst); the hash tree follows the data."""

    blocks: int
    """Data blocks of 4096 bytes; also where the hash tree begins."""
    root_hash: str
    salt: str

    @property
    def argument(self) -> str:
        """As the initrd reads it from the kernel's command line."""
        return f"sallyport.roothash={self.root_hash} sallyport.verity={self.blocks},{self.salt}"


def seal(tools: Tools, build: Path, root: Path) -> Verity:
    """Append the hash tree to a copy of ``root``: ``build/root.verity``.

    Raises:
        CommandError: veritysetup failed.
    """
    sealed = build / "root.verity"
    shutil.copyfile(root, sealed)
    size = sealed.stat().st_size
    padded = -(-size // _BLOCK) * _BLOCK
    with sealed.open("r+b") as file:
        file.truncate(padded)
    # The salt need not be secret, only differ from image to image; derived, so that a rebuild gives the same bytes.
    salt = hashlib.sha256(b"sallyport verity salt" + hashlib.sha256(root.read_bytes()).digest()).hexdigest()
    printed = tools.run(
        [
            *("veritysetup", "format", sealed.name, sealed.name, "--no-superblock", "--hash", "sha256"),
            *("--hash-offset", str(padded), "--data-blocks", str(padded // _BLOCK), "--salt", salt),
        ],
        build=build,
    )
    match = re.search(r"^Root hash:\s+([0-9a-f]{64})$", printed, re.MULTILINE)
    if match is None:
        raise SallyportError("veritysetup printed no root hash", f"it said: {printed}")
    return Verity(padded // _BLOCK, match.group(1), salt)


def assemble(
    tools: Tools,
    build: Path,
    *,
    profile: Profile,
    arch: Arch,
    boot: Path,
    kernel: Path,
    initrd: Path,
    verity: Verity,
    release: str,
) -> Path:
    """Make ``build/disk.img`` from ``build/root.verity``, the kernel and the initrd.

    ``boot`` is a tree that has the EFI stub.

    Raises:
        CommandError: a tool failed.
        SallyportError: the root file system does not fit its slot.
    """
    room, size = profile.disk.slot_mib * 2**20, (build / "root.verity").stat().st_size
    if size > room:
        raise SallyportError(
            f"profile {profile.name!r}: disk.slot_mib: the root file system takes {size / 2**20:.1f} MiB of "
            f"{profile.disk.slot_mib}",
            "enlarge the slots, or take something out of buildroot.config",
        )
    shutil.copyfile(kernel, build / "vmlinuz")
    shutil.copyfile(initrd, build / "initrd")
    shutil.copyfile(boot / f"usr/lib/systemd/boot/efi/linux{arch.efi}.efi.stub", build / "stub")
    (build / "cmdline").write_text(command_line(profile, verity))
    (build / "os-release").write_text(f"ID=sallyport\nNAME=Sallyport\nVERSION_ID={release}\n")
    tools.run(
        [
            *("ukify", "build", "--linux=vmlinuz", "--initrd=initrd", "--cmdline=@cmdline", "--os-release=@os-release"),
            *("--uname=", "--output=uki.efi", "--stub=stub", f"--efi-arch={arch.efi}"),
        ],
        build=build,
    )
    identity = f"{profile.name} {verity.root_hash}"
    (build / "genimage.cfg").write_text(
        overlay.render(
            _TEMPLATE,
            {
                "disk": profile.disk,
                "uki": arch.uki,
                "uuid": lambda part: uuid.uuid5(_NAMESPACE, f"{identity} {part}"),
            },
        )
    )
    (build / "empty/data").mkdir(parents=True)
    tools.run(
        [
            *("genimage", "--config", "genimage.cfg", "--inputpath", ".", "--outputpath", ".", "--tmppath", "gen.tmp"),
            *("--rootpath", "empty"),
        ],
        build=build,
    )
    image = build / "disk.img"
    # Holes by content, not by how each tool happened to write: the block map then is the same everywhere, too.
    tools.run(["fallocate", "--dig-holes", image.name], build=build)
    return image


def command_line(profile: Profile, verity: Verity) -> str:
    """The host kernel's command line; part of the unified kernel image. (Without Secure Boot who holds the device can
    still add to it in the firmware: that is physical access.)

    ``nosmt``: a guest must not read the host across hyper-threads, and nobody switches the second threads on again. Not
    by ``mitigations=auto,nosmt``, which leaves them on where the kernel knows of no fault yet; nor by core scheduling,
    which keeps programs apart, but not the kernel, which a sibling's interrupt runs beside the guest (kernel:
    admin-guide/hw-vuln/core-scheduling.rst). ``import_credentials``: none from outside the image.

    ``ipv6.disable=1``: the host has no IPv6 stack at all. ``panic``: a host that cannot go on starts again.
    """
    words = [
        f"console={profile.console}",
        verity.argument,
        "ipv6.disable=1",
        "panic=10",
        "quiet",
        "loglevel=3",
        "rcupdate.rcu_expedited=1",
        "audit=0",
        "mitigations=auto",
        "nosmt=force",
        "systemd.import_credentials=no",
        "systemd.show_status=yes",
        "systemd.gpt_auto=no",
        "systemd.firstboot=no",
        "rd.systemd.gpt_auto=no",
    ]
    return " ".join(words)


def block_map(tools: Tools, build: Path, image: str) -> Path:
    """The .bmap of an image: flashing with bmaptool(1) writes only the blocks in use."""
    tools.run(["bmaptool", "create", "-o", f"{image}.bmap", image], build=build)
    return build / f"{image}.bmap"
