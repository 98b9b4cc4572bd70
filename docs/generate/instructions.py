"""The protocol of the link, from the types that both its ends use."""

from __future__ import annotations

import dataclasses
import typing

from msgspec import Struct
from msgspec import inspect as types

from backend.daemon.settings import Settings
from backend.protocol import base
from backend.protocol.base import Done, ErrorCode, Instruction
from backend.protocol.codec import Reply, Request, encode
from backend.protocol.instructions import INSTRUCTIONS
from backend.protocol.system import HostnameSet
from docs.generate.markdown import code, sentence, table, text
from docs.generate.messages import HEAD, name_of, rows, structs
from docs.generate.source import comments, notes


def kinds() -> dict[str, type[Instruction]]:
    """Every instruction by its ``type``."""
    return {kind.name(): kind for kind in INSTRUCTIONS}


def example() -> str:
    """A request as it goes over the link, and its reply."""
    request = Request(v=1, seq=7, do=HostnameSet(hostname="gate-3"), token="A" * 43)
    return "\n".join(encode(message).decode().strip() for message in (request, Reply(seq=7, result=Done())))


def request() -> str:
    """The fields of a request."""
    found = rows(Request)
    shown = [[row[0], "an instruction", *row[2:]] if row[0] == "`do`" else row for row in found]
    return table(HEAD, shown)


def overview() -> str:
    """Every instruction in a line, with its policy."""
    found = []
    for name, kind in kinds().items():
        policy = kind.policy
        changes = "yes" if policy.mutating else ""
        found.append(
            [
                f"[`{name}`](#{kind.__name__.lower()})",
                sentence(kind.__doc__),
                policy.who,
                changes,
                policy.audit,
                policy.rate,
            ]
        )
    return table(["`type`", "what it does", "who", "mutating", "audit", "rate"], found)


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
    said = comments(base, "ErrorCode")
    return table(["`code`", "when"], [[code(name), said.get(name, "")] for name in typing.get_args(ErrorCode)])


def _section(title: str, kind: type[Struct]) -> str:
    lines = [f"### {title} {{ #{kind.__name__.lower()} }}", "", text(kind.__doc__)]
    if fields := rows(kind):
        lines += ["", table(HEAD, fields)]
    return "\n".join(lines)


def limits() -> str:
    """Every number of the daemon's settings: what it allows and how long it waits."""
    said = notes(Settings)
    found = [
        [code(field.name), f"{field.default:.4g}", text(said.get(field.name))]
        for field in dataclasses.fields(Settings)
        if field.type in ("int", "float") and field.name != "port"
    ]
    return table(["setting", "value", "meaning"], found)
