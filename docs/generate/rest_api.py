"""The REST API, from the routes of the front-end and the types of their bodies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, cast

from msgspec import Struct
from msgspec import inspect as types
from tornado.routing import PathMatches

from docs.generate.markdown import code, table, text
from docs.generate.messages import HEAD, name_of, rows, structs
from frontend_vm import api
from frontend_vm.link import Link

_METHODS = ("get", "post", "put", "delete")
_BODY = re.compile(r"self\.body\((\w+)")
_ASKS = re.compile(r"self\.ask\((\w+)\(.*?\), (\w+)\)", re.DOTALL)


def routes() -> dict[str, type[api.Api]]:
    """Every path of the API and its handler, without the one for paths that do not exist."""
    application = api.make_application(cast(Link, None))
    return {
        rule.matcher.regex.pattern.rstrip("$"): rule.target
        for rule in application.wildcard_router.rules
        if isinstance(rule.matcher, PathMatches)
        and inspect.isclass(rule.target)
        and issubclass(rule.target, api.Api)
        and rule.target is not api.NoSuchApi
    }


def resources() -> str:
    """A section for each method of each path: what it does, its body, its answer."""
    lines = []
    for path, handler, method, function in _methods():
        lines += ["", f"### {code(f'{method.upper()} {path}')} {{ #{method}-{path.rpartition('/')[2]} }}", ""]
        lines.append(f"{text(handler.__doc__)} {text(function.__doc__)}")
        source = inspect.getsource(function)
        if found := _BODY.search(source):
            lines += ["", "Body:", "", table(HEAD, rows(getattr(api, found[1])))]
        if asked := _ASKS.search(source):
            instruction, answer = getattr(api, asked[1]), getattr(api, asked[2])
            lines += ["", f"Instruction: [`{name_of(instruction)}`](instructions.md#{asked[1].lower()})."]
            if rows(answer):
                lines[-1] += f" Answer: [`{asked[2]}`](#{asked[2].lower()}), with `type`."
    return "\n".join(lines)


def answers() -> str:
    """A section for each object of an answer."""
    found: dict[type[Struct], None] = {}
    for _, _, _, function in _methods():
        if asked := _ASKS.search(inspect.getsource(function)):
            found |= dict.fromkeys(structs(types.type_info(getattr(api, asked[2]))))
    return "\n\n".join(
        f"### {kind.__name__} {{ #{kind.__name__.lower()} }}\n\n{text(kind.__doc__)}\n\n{table(HEAD, rows(kind))}"
        for kind in found
        if rows(kind)
    )


def statuses() -> str:
    """HTTP status of each of the backend's codes that has one of its own."""
    return table(["`code`", "status"], [[code(name), str(status)] for name, status in api.HTTP_STATUS.items()])


def _methods() -> Iterator[tuple[str, type[api.Api], str, Any]]:
    for path, handler in routes().items():
        for method in _METHODS:
            if function := handler.__dict__.get(method):
                yield path, handler, method, function
