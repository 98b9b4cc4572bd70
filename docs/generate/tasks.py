"""The tasks and their options, from Invoke's own collection."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke import Collection, Task
from invoke.loader import FilesystemLoader

from docs.generate.markdown import code, table, text

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Option:
    """An option of a task as it is typed, in capitals if positional. ``default`` is empty where it is nothing."""

    typed: str
    default: str
    help: str


def tasks() -> dict[str, Task[Any]]:
    """Each task by the shortest name that Invoke takes for it: ``image`` for ``image.build``, its default."""
    module, _ = FilesystemLoader(start=str(PROJECT)).load("tasks")
    return dict(sorted(_walk(Collection.from_module(module), "")))


def _walk(collection: Collection, prefix: str) -> Iterator[tuple[str, Task[Any]]]:
    for name, task in collection.tasks.items():
        default = prefix and name == collection.default
        yield prefix.rstrip(".") if default else prefix + name, task
    for name, inner in collection.collections.items():
        yield from _walk(inner, f"{prefix}{name}.")


def options(task: Task[Any]) -> list[Option]:
    """What a task takes."""
    kept = dict(task.help)
    arguments = task.get_arguments()  # takes each help text out of the task
    task.help = kept
    positional = set(task.positional)
    found = []
    for argument in arguments:
        name = str(argument.name).replace("_", "-")
        bare = (argument.attr_name or argument.name) in positional and argument.kind is not list
        typed = name.upper() if bare else f"--{name}"
        silent = argument.kind is bool or argument.default in (None, "", inspect.Signature.empty)
        if argument.kind is not bool and typed.startswith("--"):
            typed += f" {'N' if argument.kind in (int, float) else 'TEXT'}"
        found.append(Option(typed, "" if silent else str(argument.default), argument.help or ""))
    return found


def reference() -> str:
    """A section for each task, with its options and their defaults."""
    parts = []
    for name, task in tasks().items():
        parts += ["", f"## invoke {name}", "", text(task.__doc__).replace("<", "&lt;")]
        rows = [[code(option.typed), code(option.default), option.help] for option in options(task)]
        if rows:
            parts += ["", table(["option", "default", "what it is"], rows)]
    return "\n".join(parts)
