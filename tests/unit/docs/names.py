"""Finds the names of the project in a text in Markdown, and tells which of them do not exist."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from docs.generate import environment, tasks
from docs.generate.site import PROJECT
from frontend_vm import cli

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n(.*?)^\1\2`*$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s&/(])invoke (--)?([a-z][a-z0-9.]*)([^\n]*)")
_OPTION = re.compile(r"--[a-z][a-z-]*")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b(?!\.)|\b[A-Z]{2,}(?=\.toml)")
_VARIABLE = re.compile(r"SALLYPORT_[A-Z_]*[A-Z]")
_PATH = re.compile(r"\.?[\w-]+(?:\.[\w-]+)*(?:/[\w.*-]+)*/?")
_FILE = re.compile(r"[\w-]+\.(?:py|toml|config|lock|yml|yaml|c|h|j2|mk)")
_MODULE = re.compile(r"(?:backend|docs|driver|frontend_vm|proof|rootfs|tests)(?:\.\w+)+")
_UNTRACKED = {"out", ".venv", ".git", "build"}
_INVOKE = {"--list", "--help"}


def documents() -> list[Path]:
    """Every text for people, except the changelog, which tells of names that are gone."""
    at_the_top = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [file for file in at_the_top if file.exists()] + sorted((PROJECT / "docs").rglob("*.md"))


def wrong(markdown: str) -> list[str]:
    """What the text names that does not exist: commands, options, variables, paths and modules."""
    return [*_commands(markdown), *_variables(markdown), *_paths(markdown), *_modules(markdown), *_options(markdown)]


def spans(markdown: str) -> list[str]:
    """Inline code, without fenced blocks."""
    return [" ".join(found[1].split()) for found in _SPAN.findall(_FENCE.sub("", markdown))]


def _code(markdown: str) -> list[str]:
    return [line for found in _FENCE.findall(markdown) for line in found[2].replace("\\\n", " ").splitlines()] + spans(
        markdown
    )


@functools.cache
def options() -> dict[str, frozenset[str]]:
    """The options of each task, under every name that Invoke takes for it."""
    return {
        # A positional argument may be named, too.
        name: frozenset("--" + option.typed.split()[0].lower().lstrip("-") for option in tasks.options(task))
        for name, task in tasks.tasks().items()
    }


def _commands(markdown: str) -> Iterator[str]:
    for line in _code(markdown):
        for flag, name, rest in _COMMAND.findall(line):
            if flag:
                continue
            if name.rstrip(".") not in options():
                yield f"no task: invoke {name}"
                continue
            own = re.split(r" # |&&|[`,]|\binvoke ", _QUOTED.sub("", rest))[0]
            given = _OPTION.findall(own)
            yield from (f"no option: invoke {name} {option}" for option in given if option not in options()[name])


def _options(markdown: str) -> Iterator[str]:
    every = frozenset[str]().union(*options().values(), *(command.flags for command in cli.COMMANDS.values()), _INVOKE)
    for span in spans(markdown):
        if (option := _OPTION.match(span)) and option[0] not in every:
            yield f"no option of any task: {option[0]}"


def _variables(markdown: str) -> Iterator[str]:
    known = environment.variables()
    yield from (f"no variable: {name}" for name in _VARIABLE.findall(markdown) if name not in known)


def _paths(markdown: str) -> Iterator[str]:
    for span in spans(markdown):
        if not _PATH.fullmatch(span):
            continue
        top = span.split("/")[0]
        pattern = _PLACEHOLDER.sub("*", span.rstrip("/"))
        if "/" in span and top in _tops() and not any(PROJECT.glob(pattern)):
            yield f"no file or folder: {span}"
        if _FILE.fullmatch(span) and span not in _files():
            yield f"no file of that name: {span}"


def _modules(markdown: str) -> Iterator[str]:
    for span in _code(markdown):
        for name in _MODULE.findall(span) if span.startswith("python3 -") else [span] * bool(_MODULE.fullmatch(span)):
            if name.rpartition(".")[2] not in ("py", "md", "config", "lock", "toml") and not _is_there(name):
                yield f"no module or name in one: {name}"


def _is_there(name: str) -> bool:
    module, rest = name, list[str]()
    while module and _spec(module) is None:
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
    found: object = importlib.import_module(module) if module and rest else module
    for step in rest:
        if (found := getattr(found, step, None)) is None:
            return False
    return bool(module)


def _spec(module: str) -> object:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its package is none
        return None


@functools.cache
def _tops() -> frozenset[str]:
    return frozenset(path.name for path in PROJECT.iterdir() if path.is_dir()) - _UNTRACKED


@functools.cache
def _files() -> frozenset[str]:
    tops = [path for path in PROJECT.iterdir() if path.is_file()]
    return frozenset(file.name for file in [*tops, *(file for top in _tops() for file in (PROJECT / top).rglob("*"))])
