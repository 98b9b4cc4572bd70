"""The flash image: unified kernel image, system and data partition, partition table, block map."""

from __future__ import annotations

import shutil
from pathlib import Path

from rootfs.artifact import blockmap, gpt, layout
from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import Confined, Tools, left
from rootfs.spec.architecture import Arch
from rootfs.spec.blocks import BLOCK, group_blocks
from rootfs.spec.profile import Disk, Profile
from rootfs.tree.verity import SEALED, Verity

_MAX_UKI = 1 << 28
STUB_PACKAGE = "systemd-boot-efi"
"""The package that has the EFI stub."""


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
    """Make ``build/disk.img`` and its block map from ``build/root.verity``, the kernel and the initrd.

    Args:
        tools: the tools tree.
        build: the step's directory; has ``root.verity``.
        profile: of the appliance.
        arch: its architecture.
        boot: a tree that has the EFI stub.
        kernel: the host's kernel.
        initrd: the host's initial RAM file system.
        verity: of ``root.verity``.
        release: version of the image.

    Raises:
        CommandError: a tool failed.
        SallyportError: the root file system does not fit its slot.
    """
    room, size = profile.disk.slot_mib * 2**20, (build / SEALED).stat().st_size
    if size > room:
        raise SallyportError(
            f"profile {profile.name!r}: disk.slot_mib: the root file system takes {size / 2**20:.1f} MiB of "
            f"{profile.disk.slot_mib}",
            "enlarge the slots, or remove something from buildroot.config",
        )
    shutil.copyfile(kernel, build / "vmlinuz")
    shutil.copyfile(boot / f"usr/lib/systemd/boot/efi/linux{arch.efi}.efi.stub", build / "stub")
    # When the proof rebuilds an image, the kernel is untrusted: ukify is confined to a directory of its own.
    pack = build / "pack"
    pack.mkdir()
    for name, whole in {"vmlinuz": build / "vmlinuz", "stub": build / "stub", "initrd": initrd}.items():
        shutil.copyfile(whole, pack / name)
    (pack / "cmdline").write_text(command_line(profile, verity))
    (pack / "os-release").write_text(f"ID=sallyport\nNAME=Sallyport\nVERSION_ID={release}\n")
    tools.run(
        [
            *("ukify", "build", "--linux=vmlinuz", "--initrd=initrd", "--cmdline=@cmdline", "--os-release=@os-release"),
            *("--uname=", "--output=uki.efi", "--stub=stub", f"--efi-arch={arch.efi}"),
        ],
        build=pack,
        confined=Confined(),
    )
    (build / "uki.efi").write_bytes(left(pack / "uki.efi", _MAX_UKI))
    shutil.rmtree(pack)
    identity = f"{profile.name} {verity.root_hash}"
    _system_partition(tools, build, profile.disk, arch)
    _data_partition(tools, build, profile.disk, identity)
    table = layout.table(profile.disk, identity)
    image = build / "disk.img"
    content = {"esp": "esp.vfat", "slot-a": SEALED, "data": "data.ext4"}
    with image.open("wb") as file:
        file.truncate(table.size)
        gpt.write(file, table)
        for part in table.partitions:
            if part.name in content:
                file.seek(part.start)
                with (build / content[part.name]).open("rb") as source:
                    shutil.copyfileobj(source, file, 2**20)
    # Saves room on this machine. The block map names every block, so it does not depend on holes.
    tools.run(["fallocate", "--dig-holes", image.name], build=build)
    blockmap.write(image, table)
    return image


def _system_partition(tools: Tools, build: Path, disk: Disk, arch: Arch) -> None:
    """Make ``esp.vfat`` with the unified kernel image alone, at the path where firmware looks by default.

    With sectors of 4096 bytes, a cluster is one sector. With mkfs.fat's default, 64 MiB would be 4,092 clusters, close
    to the limit of 4,084 up to which a FAT has entries of 12 bits, which some firmware gets wrong (Microsoft, FAT
    specification 1.03).
    """
    name, size = "esp.vfat", disk.esp_mib * 2**20
    with (build / name).open("wb") as file:
        file.truncate(size)
    tools.run(
        [
            *("mkfs.fat", "--invariant", "-i", f"{layout.VOLUME:08x}", "-n", "SALLYPORT"),
            *("-S", str(disk.sector_bytes), *(("-s", "1") if disk.sector_bytes > 512 else ()), name),
        ],
        build=build,
    )
    place = Path(arch.uki)
    folders = [f"::/{parent}" for parent in reversed(place.parents) if parent != Path(".")]
    tools.run(["mmd", "-i", name, *folders], build=build)
    tools.run(["mcopy", "-i", name, "uki.efi", f"::/{place}"], build=build)


def _data_partition(tools: Tools, build: Path, disk: Disk, identity: str) -> None:
    """Make ``data.ext4``, empty. On an error it becomes read-only until the next start repairs it."""
    own = {name: layout.identifier(identity, name) for name in ("file-system", "hash")}
    extended = f"hash_seed={own['hash']},root_owner=0:0,nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    tools.run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-g", str(group_blocks(disk))),
            *("-L", "data", "-U", str(own["file-system"]), "-m", "0", "-e", "remount-ro"),
            *("-O", "^metadata_csum_seed", "-E", extended, "data.ext4", f"{disk.data_mib}M"),
        ],
        build=build,
    )


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
