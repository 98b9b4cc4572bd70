"""The cpio archive of an initial RAM file system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rootfs.base.tools_tree import EPOCH, Tools
from rootfs.tree import initramfs

FILES = {"init": "#!/bin/sh\n", "etc/a": "", "etc/b": "four", "usr/bin/x": "five5", "usr-share": "sorts before usr/"}


@dataclass(frozen=True)
class Member:
    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    content: bytes


def parse(data: bytes) -> dict[str, Member]:
    """The kernel's view: early-userspace/buffer-format.rst."""
    members: dict[str, Member] = {}
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701"
        fields = [int(data[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, links, mtime, size = fields[:7]
        length = fields[11]
        name = data[offset + 110 : offset + 110 + length]
        assert name.endswith(b"\0")
        start = -(-(offset + 110 + length) // 4) * 4
        end = -(-(start + size) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert not any(data[end:])  # to whole blocks, as for a tape
            assert len(data) % 512 == 0
            return members
        members[name[:-1].decode()] = Member(inode, mode, uid, gid, links, mtime, data[start : start + size])
        offset = end


def make(directory: Path, names: list[str], mtime: int) -> Path:
    for name in names:
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FILES[name])
        os.utime(file, (mtime, mtime))
    (directory / "init").chmod(0o700)
    (directory / "etc/b").chmod(0o600)
    (directory / "sh").symlink_to("usr/bin/x")
    (directory / "bin").symlink_to("usr/bin")
    return directory


def archive(tools: Tools, tree: Path) -> bytes:
    initramfs.pack(tools, tree.parent, tree.name, "archive")
    return (tree.parent / "archive").read_bytes()


def test_members_are_roots_with_normal_modes_and_a_fixed_time(tools: Tools, tmp_path: Path) -> None:
    members = parse(archive(tools, make(tmp_path / "tree", list(FILES), 1)))
    assert {name: oct(member.mode) for name, member in members.items()} == {
        "bin": "0o120777",
        "etc": "0o40755",
        "etc/a": "0o100644",
        "etc/b": "0o100644",
        "init": "0o100755",
        "sh": "0o120777",
        "usr": "0o40755",
        "usr-share": "0o100644",
        "usr/bin": "0o40755",
        "usr/bin/x": "0o100644",
    }
    assert {(m.uid, m.gid, m.mtime) for m in members.values()} == {(0, 0, EPOCH)}
    assert {name: members[name].content.decode() for name in FILES} == FILES
    assert members["sh"].content == b"usr/bin/x"
    # Two members with one inode would be hard links to the kernel.
    assert len({member.inode for member in members.values()}) == len(members)


def test_a_directory_comes_before_what_is_in_it(tools: Tools, tmp_path: Path) -> None:
    names = list(parse(archive(tools, make(tmp_path / "tree", list(FILES), 1))))
    for name in names:
        if "/" in name:
            assert names.index(name.rsplit("/", 1)[0]) < names.index(name)


def test_the_bytes_depend_on_neither_times_nor_order_nor_place(tools: Tools, tmp_path: Path) -> None:
    one = make(tmp_path / "one", list(FILES), 1)
    two = make(tmp_path / "elsewhere/two", list(reversed(FILES)), 2_000_000_000)
    assert archive(tools, one) == archive(tools, two)
    (two / "etc/a").write_text("!")
    assert archive(tools, one) != archive(tools, two)
