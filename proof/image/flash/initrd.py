"""The initial RAM file system, file by file: cpio archives (kernel: early-userspace/buffer-format.rst)."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from proof.declared.words import words
from proof.image.flash.flash_check import FlashCheck
from proof.image.tree.entries import TreeError, matches

MAX_ARCHIVE = 1 << 28
_MAX_MEMBERS = 10_000
_MAX_NAME = 256
_TRAILER = "TRAILER!!!"
PROGRAMS = words("init usr/bin/busybox usr/sbin/dmsetup usr/lib/*/ld-linux-*.so.? usr/lib/ld-linux-*.so.? "
                 "usr/lib64/ld-linux-*.so.? usr/lib/*/libc.so.6")  # fmt: skip
"""Declared: every executable file."""
APPLETS = words("sh mount umount insmod switch_root sleep echo grep reboot cat mkdir cp chroot timeout")
"""Declared: every link to BusyBox."""
FILES = words("modules modules.d/*.ko usr/lib/*-linux-gnu/*.so* usr/lib/*-linux-gnu/ld-linux-*.so.?")
"""Declared: everything else but directories: the modules with their order, and libraries."""
FOLDERS = words("dev proc sys run sysroot mnt modules.d usr usr/bin usr/sbin usr/lib usr/lib64 usr/lib/*-linux-gnu")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
"""Declared: the links of the merged /usr."""


@dataclass(frozen=True)
class Member:
    """A file of any type in an archive; ``at`` is the offset of its header."""

    name: str
    mode: int
    uid: int
    gid: int
    content: bytes
    at: int

    def __str__(self) -> str:
        return f"{self.name!r} ({stat.filemode(self.mode)} {self.uid}:{self.gid})"


def read(data: bytes, start: int = 0) -> tuple[list[Member], int]:
    """Return the members of the archive that begins at ``start``, and the offset behind it.

    Raises:
        TreeError: there is no valid archive, or it has more than `_MAX_MEMBERS` members.
    """
    found: list[Member] = []
    at = start
    while len(found) <= _MAX_MEMBERS:
        header = data[at : at + 110]
        try:
            if len(header) != 110 or header[:6] not in (b"070701", b"070702"):
                raise ValueError
            fields = [int(header[i : i + 8], 16) for i in range(6, 110, 8)]
        except ValueError:
            raise TreeError(f"no header of a cpio archive at offset {at:#x} of the initial RAM file system") from None
        size, length = fields[6], fields[11]
        content = at + -(-(110 + length) // 4) * 4
        behind = content + -(-size // 4) * 4
        if content + size > len(data) or not length:
            raise TreeError(f"the file at {at:#x} of the initial RAM file system is cut short")
        name = data[at + 110 : at + 110 + length].rstrip(b"\0")[:_MAX_NAME].decode(errors="replace")
        if name == _TRAILER:
            return found, behind
        found.append(Member(name, fields[1], fields[2], fields[3], data[content : content + size], at))
        at = behind
    raise TreeError(f"the initial RAM file system has more than {_MAX_MEMBERS} files")


def everything(data: bytes) -> tuple[list[Member], bytes]:
    """Return the members of all archives in a row, with zeroes between them, and the bytes that follow them."""
    found: list[Member] = []
    at = 0
    while data[at : at + 4] == b"0707" and len(found) <= _MAX_MEMBERS:
        more, at = read(data, at)
        found += more
        while at < len(data) and not data[at]:
            at += 1
    return found, data[at:]


@dataclass(frozen=True)
class Initrd:
    """The section .initrd and the archive in it, beside those that this checkout builds from the root's own files."""

    packed: bytes
    archive: bytes
    made_packed: bytes
    made_archive: bytes
    trouble: str = ""
    """Why the section could not be unpacked; empty if it could."""


def find(initrd: Initrd) -> Iterator[str]:
    """Yield the files that are not declared, or differ from those of the rebuilt archive."""
    made, _ = everything(initrd.made_archive)
    yield from _undeclared(made)
    if initrd.packed == initrd.made_packed:
        return
    if initrd.trouble:
        yield f"it is not what this checkout builds, and cannot be unpacked: {initrd.trouble}"
        return
    try:
        actual, behind = everything(initrd.archive)
    except TreeError as error:
        yield f"it is not what this checkout builds: {error}"
        return
    known = {member.name: member for member in made}
    seen: set[str] = set()
    explained = False
    for member in actual:
        other = known.get(member.name)
        if member.name in seen or other is None:
            explained = True
            yield f"{'twice' if member.name in seen else 'not in the rebuilt archive'}: {member}"
        elif (member.mode, member.uid, member.gid) != (other.mode, other.uid, other.gid):
            explained = True
            yield f"{member}, not {other}"
        elif member.content != other.content:
            explained = True
            yield f"not what this checkout builds: {member}"
        seen.add(member.name)
    missing = sorted(known.keys() - seen)
    yield from (f"missing: {name!r}" for name in missing)
    if behind:
        yield f"{len(behind)} bytes follow the archive"
    elif not explained and not missing:
        yield "the same files, but archived or compressed differently, or followed by other bytes"


def _undeclared(members: list[Member]) -> Iterator[str]:
    for member in members:
        name, kind = member.name, stat.S_IFMT(member.mode)
        if kind == stat.S_IFDIR:
            fine = matches(name, FOLDERS)
        elif kind == stat.S_IFLNK:
            target = member.content.decode(errors="replace")
            applet = target == "busybox" and name.removeprefix("usr/bin/") in APPLETS
            # A library's short name, or the loader's at the place where programs look for it.
            fine = applet or LINKS.get(name) == target or matches(name, FILES) or matches(name, PROGRAMS)
        else:
            executable = bool(member.mode & 0o111)
            fine = kind == stat.S_IFREG and matches(name, PROGRAMS if executable else FILES)
        if not fine or member.uid or member.gid or (member.mode & 0o7022 and kind != stat.S_IFLNK):
            yield f"not declared: {member}"


def member(name: str, mode: int, content: bytes = b"") -> bytes:
    """Return one file in the form of an archive."""
    encoded = name.encode() + b"\0"
    fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


def archive(name: str, mode: int, content: bytes = b"") -> bytes:
    """Return an archive of one file."""
    return member(name, mode, content) + member(_TRAILER, 0)


def _changed(name: str, change: Callable[[bytes, Member], bytes]) -> Callable[[Initrd], Initrd]:
    """Return a planted control: the archive with one member changed, as if it had been unpacked from the image."""

    def plant(initrd: Initrd) -> Initrd:
        members, _ = everything(initrd.made_archive)
        found = next(member for member in members if member.name == name)
        return replace(initrd, packed=b"", archive=change(initrd.made_archive, found), trouble="")

    return plant


def _mode(data: bytes, member: Member) -> bytes:
    return data[: member.at + 14] + b"%08X" % (member.mode | stat.S_ISUID) + data[member.at + 22 :]


def _content(data: bytes, member: Member) -> bytes:
    """Change the content of a member without its length; of an empty member, change the owner."""
    if not member.content:
        return data[: member.at + 22] + b"%08X" % 900 + data[member.at + 30 :]
    return data.replace(member.content, member.content[:-1] + b"#")


def _before(data: bytes, member: Member) -> bytes:
    more = archive("usr/bin/more", 0o100755, b"#!/bin/sh\n")
    return more + data if member.name == "init" else data + more


CHECK: FlashCheck[Initrd] = FlashCheck(
    "initramfs",
    "the initial RAM file system, file by file, against one built from the root's own files and this checkout's /init",
    find,
    {
        "/init": _changed("init", _content),
        "a program": _changed("usr/bin/busybox", _content),
        "a module": _changed("modules", _content),
        "setuid": _changed("usr/bin/busybox", _mode),
        "archive before it": _changed("init", _before),
        "archive behind it": _changed("modules", _before),
        "compressed otherwise": lambda initrd: replace(
            initrd, packed=initrd.made_packed + bytes(4), archive=initrd.made_archive, trouble=""
        ),
    },
)
VM_CHECK: FlashCheck[Initrd] = replace(
    CHECK,
    name="vm-initramfs",
    tried="the VM's initial RAM file system, file by file, against one built from the VM's own files and this "
    "checkout's /init; its modules are taken from itself",
)
"""The modules of the VM are only in this archive; the manifest has its digest."""
