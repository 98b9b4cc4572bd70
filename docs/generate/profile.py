"""The device profile, from the schema that checks it."""

from __future__ import annotations

import tomllib
from typing import Any

from pydantic import BaseModel

from docs.generate.markdown import code, table, text
from docs.generate.source import notes
from rootfs.spec import profile as profiles
from rootfs.spec.profile import DIRECTORY, Profile

EXAMPLE = "x86-64-uefi"
"""The profile whose values are the examples."""


def names() -> str:
    """The profiles of the repository."""
    return ", ".join(code(name) for name in profiles.names())


def whole() -> str:
    """The example as it is."""
    return (DIRECTORY / f"{EXAMPLE}.toml").read_text().rstrip()


def reference() -> str:
    """A section for each table of the profile: every field with range, default, example and meaning."""
    lines = []
    for path, model in tables().items():
        example: Any = tomllib.loads(whole())
        for step in filter(None, path.split(".")):
            example = example.get(step, {})
        title = f"## `[{path}]`" if path else "## Top of the file"
        lines += ["", title, "", text(model.__doc__), ""]
        lines.append(table(["field", "range", "default", "example", "meaning"], rows(model, example)))
    return "\n".join(lines)


def rows(model: type[BaseModel], example: dict[str, Any]) -> list[list[str]]:
    """Field, range, default, example and meaning of every field of a table of the profile that is no table itself."""
    schema = model.model_json_schema()
    said = notes(model)
    found = []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            continue
        default = "required" if name in schema.get("required", ()) else code(toml(field.get("default")))
        value = example.get(name, field.get("default"))
        shown = toml(value[:2]).rstrip("]") + ", ...]" if isinstance(value, list) and len(value) > 3 else toml(value)
        found.append([code(name), extent(field), default, code(f"{name} = {shown}"), text(said.get(name))])
    return found


def tables(model: type[BaseModel] = Profile, path: str = "") -> dict[str, type[BaseModel]]:
    """Every table of the profile by its name in TOML, the profile itself first."""
    found = {path: model}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= tables(field.annotation, f"{path}.{name}".lstrip("."))
    return found


def extent(field: dict[str, Any]) -> str:
    """What a field may hold, in words."""
    if "enum" in field:
        return " or ".join(code(toml(value)) for value in field["enum"])
    if field.get("type") == "integer":
        least, most = field.get("minimum"), field.get("maximum")
        return f"{least} to {most}" if least is not None else f"up to {most}"
    if field.get("type") == "array":
        bounds = f"{field['minItems']} to {field['maxItems']} of " if "maxItems" in field else ""
        return f"list: {bounds}{extent(field['items'])}"
    return "text" if field.get("type") == "string" else str(field.get("type", ""))


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
