"""The protocol of the link, from the types that both its ends use."""

from __future__ import annotations

import dataclasses
import typing

from msgspec import Struct
from msgspec import inspect as types

from backend.daemon.settings import Settings
from backend.protocol import instructions
from backend.protocol.instructions import AnyInstruction, ErrorCode, Reply, Request
from docs.generate.markdown import code, sentence, table, text
from docs.generate.messages import HEAD, name_of, rows, structs
from docs.generate.source import comments, notes


def kinds() -> dict[str, type[Struct]]:
    """Every instruction by its ``type``."""
    return {name_of(kind): kind for kind in typing.get_args(AnyInstruction)}


def example() -> str:
    """A request as it goes over the link, and its reply."""
    request = Request(v=1, seq=7, do=instructions.HostnameSet(hostname="gate-3"), token="A" * 43)
    reply = Reply(seq=7, result=instructions.Done())
    return "\n".join(instructions.encode(message).decode().strip() for message in (request, reply))


def request() -> str:
    """The fields of a request."""
    found = rows(Request)
    shown = [[row[0], "an instruction", *row[2:]] if row[0] == "`do`" else row for row in found]
    return table(HEAD, shown)


def overview() -> str:
    """Every instruction in a line."""
    found = [[f"[`{name}`](#{kind.__name__.lower()})", sentence(kind.__doc__)] for name, kind in kinds().items()]
    return table(["`type`", "what it does"], found)


def reference() -> str:
    """A section for each instruction."""
    return "\n\n".join(_section(f"`{name}`", kind) for name, kind in kinds().items())


def replies() -> str:
    """A section for each result of a reply, and for what they are made of."""
    answers = [one for one in structs(types.type_info(Reply)) if one is not Reply]
    return "\n\n".join(
        _section(f"`{name_of(answer)}`" if name_of(answer) else f"Part: {answer.__name__}", answer)
        for answer in answers
    )


def errors() -> str:
    """Every code of an error, and when it is the answer."""
    said = comments(instructions, "ErrorCode")
    return table(["`code`", "when"], [[code(name), said.get(name, "")] for name in typing.get_args(ErrorCode)])


def _section(title: str, kind: type[Struct]) -> str:
    lines = [f"### {title} {{ #{kind.__name__.lower()} }}", "", text(kind.__doc__)]
    if fields := rows(kind):
        lines += ["", table(HEAD, fields)]
    return "\n".join(lines)


def limits() -> str:
    """Every number of the daemon's settings: what it allows and how long it waits."""
    said = notes(Settings)
    rows = [
        [code(field.name), f"{field.default:.4g}", text(said.get(field.name))]
        for field in dataclasses.fields(Settings)
        if field.type in ("int", "float") and field.name != "port"
    ]
    return table(["setting", "value", "meaning"], rows)
