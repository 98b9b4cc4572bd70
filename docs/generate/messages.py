"""How the types of msgspec read in a table: what a field holds, in words."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from docs.generate.markdown import code, text
from docs.generate.source import notes

HEAD = ["field", "type", "default", "meaning"]
"""Of a table of `rows`."""


def name_of(struct: type[Struct]) -> str:
    """The value of its ``type``; empty if it has none."""
    return str(struct.__struct_config__.tag or "")


def rows(struct: type[Struct]) -> list[list[str]]:
    """Name, kind, default and meaning of every field of a message."""
    info = types.type_info(struct)
    said = notes(struct)
    found = []
    for field in info.fields if isinstance(info, types.StructType) else ():
        default = "" if field.default is msgspec.NODEFAULT else code(msgspec.json.encode(field.default).decode())
        found.append([code(field.encode_name), words(field.type), default, text(said.get(field.name))])
    return found


def words(kind: types.Type) -> str:
    """A type in words, with its bounds."""
    match kind:
        case types.Metadata():
            return words(kind.type)
        case types.IntType():
            return "whole number" + _between(kind.ge, kind.le)
        case types.FloatType():
            return "number" + _between(kind.ge, kind.le)
        case types.StrType():
            form = f" that matches {code(kind.pattern)}" if kind.pattern else ""
            return "text" + _between(kind.min_length, kind.max_length, " characters") + form
        case types.LiteralType():
            return " or ".join(code(msgspec.json.encode(value).decode()) for value in kind.values)
        case types.BoolType():
            return "`true` or `false`"
        case types.NoneType():
            return "`null`"
        case types.ListType():
            return f"list of {words(kind.item_type)}"
        case types.DictType():
            return f"object: {words(kind.key_type)} to {words(kind.value_type)}"
        case types.UnionType():
            return " or ".join(words(one) for one in kind.types)
        case types.StructType():
            return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def structs(kind: types.Type) -> list[type[Struct]]:
    """Every message that a type is made of, itself first."""
    match kind:
        case types.StructType():
            inner = [one for field in kind.fields for one in structs(field.type)]
            return list(dict.fromkeys([kind.cls, *inner]))
        case types.Metadata():
            return structs(kind.type)
        case types.ListType():
            return structs(kind.item_type)
        case types.UnionType():
            return list(dict.fromkeys(one for inner in kind.types for one in structs(inner)))
        case _:
            return []


def _between(least: float | None, most: float | None, unit: str = "") -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f", {least:g} or more{unit}"
    if least is None:
        return f", at most {most:g}{unit}"
    return f", {_exact(least)}{unit}" if least == most else f", {_exact(least)} to {_exact(most)}{unit}"


def _exact(value: float) -> str:
    return str(value)
