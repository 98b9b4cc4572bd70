"""What the source says beside its names: the string that follows a field or a constant, the comment of a value."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType


def notes(owner: type | ModuleType) -> dict[str, str]:
    """The string below each field of a class or constant of a module, by name (PEP 257: attribute docstring)."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    body = tree.body[0].body if isinstance(owner, type) and isinstance(tree.body[0], ast.ClassDef) else tree.body
    return {name: note for name, _, note in _noted(body)}


def constants(file: Path) -> Iterator[tuple[str, str, str]]:
    """Name, value and note of each text constant at the top of a file; the note is empty where there is none."""
    for name, value, note in _noted(ast.parse(file.read_text()).body):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield name, value.value, note


def comments(module: ModuleType, name: str) -> dict[str, str]:
    """The comment behind each text of a constant, such as of a ``Literal[...]`` of one value a line."""
    lines = inspect.getsource(module)
    node = next(
        node
        for node in ast.parse(lines).body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]
    )
    found: dict[str, str] = {}
    last: str | None = None
    for token in tokenize.generate_tokens(io.StringIO(lines).readline):
        if not node.lineno <= token.start[0] <= (node.end_lineno or 0):
            continue
        if token.type == tokenize.STRING:
            last = str(ast.literal_eval(token.string))
            found[last] = ""
        elif token.type == tokenize.COMMENT and last is not None:
            found[last] = f"{found[last]} {token.string.lstrip('# ')}".strip()
    return found


def _noted(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr | None, str]]:
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
            match after:
                case ast.Expr(ast.Constant(str(note))):
                    yield target.id, node.value, note
                case _:
                    yield target.id, node.value, ""
