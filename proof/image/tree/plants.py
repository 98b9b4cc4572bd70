"""Planted controls: functions that put a fault, which a check must find, into a scratch tree."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from proof.image.tree.check import Plant
from proof.image.tree.entries import TreeError


def put(path: str, content: str | bytes = "x\n", mode: int = 0o644) -> Plant:
    """Return what plants a file with that content and mode."""

    def plant(root: Path) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    return plant


def ln(path: str, target: str) -> Plant:
    """Return what plants a symbolic link."""

    def plant(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(target)

    return plant


def edit(path: str, old: str, new: str) -> Plant:
    """Return what changes a text file; it raises `TreeError` if ``old`` is not there, as then nothing is planted."""

    def plant(root: Path) -> None:
        text = (root / path).read_text(errors="replace")
        if old not in text:
            raise TreeError(f"{path} has no {old!r} to change")
        (root / path).write_text(text.replace(old, new, 1))

    return plant


def folder(path: str, mode: int) -> Plant:
    """Return what plants a directory with that mode."""

    def plant(root: Path) -> None:
        (root / path).mkdir(parents=True)
        (root / path).chmod(mode)

    return plant


def capable(root: Path) -> None:
    """Plant a program with a file capability."""
    put("usr/bin/x", mode=0o755)(root)
    # struct vfs_ns_cap_data without its owner (capabilities(7), VFS_CAP_REVISION_2): CAP_NET_ADMIN, effective
    os.setxattr(root / "usr/bin/x", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 12, 0, 0, 0))


def owned(uid: int, gid: int) -> Plant:
    """Return what plants a file of another user and group."""

    def plant(root: Path) -> None:
        put("usr/lib/x")(root)
        os.chown(root / "usr/lib/x", uid, gid)

    return plant


def grouped(root: Path) -> None:
    """Plant a file that a group may write."""
    put("usr/lib/x", mode=0o664)(root)
    os.chown(root / "usr/lib/x", 0, 900)
    (root / "usr/lib/x").chmod(0o664)


def pipe(root: Path) -> None:
    """Plant a named pipe (fifo(7))."""
    (root / "dev").mkdir()
    os.mkfifo(root / "dev/x")


PEM = "-----BEGIN {}PRIVATE KEY-----\n" + "MC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlantedPlantedPlantedPlanted0\n"
HASH = "root:$6$planted$" + "0123456789" * 8 + "01234A" + ":20000:0:99999:7:::\n"
PKCS8 = bytes.fromhex("302e020100300506032b657004220420") + bytes(range(32))
SEC1 = bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420") + bytes(range(32))
RSA = bytes.fromhex("308204a40201000282010100") + bytes(range(1, 256)) + b"\x01" + bytes.fromhex("0203010001028201")
