"""The host's answers, part by part of the script, as types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from proof.remote_script import RemoteScriptError


class Process(Struct, frozen=True):
    """See ``part_processes`` of the script; ``files`` are pairs (where to, access mode of open(2))."""

    pid: int
    parent: int
    terminal: int
    flags: int
    exe: str
    words: list[str]
    status: dict[str, str]
    threads: list[str]
    files: list[tuple[str, int]]
    net: str
    group: str


class Processes(Struct, frozen=True):
    """Every process, and which of them is the script."""

    me: int = msgspec.field(name="self")
    processes: list[Process]


class Kernel(Struct, frozen=True):
    """See ``part_kernel``."""

    mounts: str
    line: str
    tables: tuple[int, str]
    states: tuple[int, str]
    readonly: dict[str, str]
    settings: dict[str, str]
    inet6: bool


class Space(Struct, frozen=True):
    """A network namespace of ``part_network``; ``error`` if it could not be entered."""

    path: str
    error: str = ""
    links: tuple[int, str] = (1, "")
    routes: tuple[int, str] = (1, "")
    policies: tuple[int, str] = (1, "")
    proxies: tuple[int, str] = (1, "")
    neighbours: tuple[int, str] = (1, "")
    rules: tuple[int, str] = (1, "")
    settings: dict[str, str] = {}


class Reference(Struct, frozen=True):
    """Rules of an empty namespace after the image's files were loaded; ``failed`` is what nft(8) said."""

    error: str = ""
    failed: list[str] = []
    rules: tuple[int, str] = (1, "")


class Attached(Struct, frozen=True):
    """See ``part_programs``: pairs (interface, discipline); how many programs at which interface and direction."""

    path: str
    error: str = ""
    disciplines: list[tuple[str, str]] = []
    attached: dict[str, int] = {}


class Programs(Struct, frozen=True):
    """BPF programs as (type, user, name); ``end`` is the error that ended their list: ENOENT."""

    loaded: list[tuple[int, int, str]]
    end: int
    spaces: dict[str, Attached]


class UnixTable(Struct, frozen=True):
    """/proc/net/unix of a namespace."""

    path: str
    error: str = ""
    unix: str = ""


class Files(Struct, frozen=True):
    """See ``part_files``; ``owners`` are (mode, user, group) of sockets, ``writable`` (path, mode, user)."""

    spaces: dict[str, UnixTable]
    owners: dict[str, tuple[int, int, int]]
    planted: list[str]
    writable: list[tuple[str, int, int]]


def port_space(spaces: Mapping[str, Space]) -> str:
    """Return the name of the namespace that has the management port; empty if none has, or only the host's."""
    names = [name for name, space in spaces.items() if name != "host" and '"mgmt0"' in space.links[1]]
    return names[0] if len(names) == 1 else ""


def json_objects(name: str, answer: tuple[int, str]) -> list[dict[str, Any]]:
    """Return the JSON list of objects that a program of the host printed; an empty output is an empty list.

    Args:
        name: of the program, for the error.
        answer: exit status and output.

    Raises:
        RemoteScriptError: the program failed, or printed something else.
    """
    status, text = answer
    if status != 0:
        raise RemoteScriptError(f"{name} failed: {text[:160]!r}")
    try:
        return msgspec.json.decode(text.strip() or "[]", type=list[dict[str, Any]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RemoteScriptError(f"{name}: {error}") from error
