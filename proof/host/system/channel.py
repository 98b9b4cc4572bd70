"""The channel to the host: the script goes there in parts, and each answer is checked and bounded."""

from __future__ import annotations

import ast
import base64
import functools
import re
import shlex
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Run = Callable[[str], tuple[int, str]]
"""Runs one command line in the host's root shell; returns its exit code and what it printed."""
SCRIPT = Path(__file__).with_name("script.py")
MAX_LINE = 4095
"""Bytes of a line to a terminal in canonical mode (termios(3))."""
MAX_REPORT = 1 << 22
"""Bytes of one answer, unpacked."""
TRIES = 3


class AnswerError(Exception):
    """The host's answer cannot be relied on."""


class _Strip(ast.NodeTransformer):
    """Takes out what only people and type checkers read."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def source(part: str) -> str:
    """The script's source with one part and what that uses; without docstrings, comments and types."""
    top: dict[str, ast.stmt] = {}
    for node in ast.parse(SCRIPT.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.Import(names=[ast.alias(name=name)]):
                top[name] = _Strip().visit(node)
            case ast.Assign(targets=[ast.Name(id=name)]):
                top[name] = node
    used: set[str] = set()
    wanted = [f"part_{part}", "main"]
    while wanted:
        name = wanted.pop()
        if name in top and name not in used:
            used.add(name)
            wanted += [inner.id for inner in ast.walk(top[name]) if isinstance(inner, ast.Name)]
    module = ast.Module([node for name, node in top.items() if name in used], [])
    return f"{ast.unparse(ast.fix_missing_locations(module))}\nmain(part_{part})\n"


@functools.cache
def command(part: str) -> str:
    """The command line that runs one part of the script; short enough for a terminal's line."""
    packed = base64.b64encode(zlib.compress(source(part).encode(), 9)).decode()
    code = f"import zlib,base64;exec(zlib.decompress(base64.b64decode('{packed}')))"
    return f"python3 -I -c {shlex.quote(code)}"


_LINE = re.compile(r"SALLYPORT-SYSTEM ([0-9a-f]{8}) ([A-Za-z0-9+/=]+)")


def unpack(output: str) -> bytes:
    """The JSON of an answer; `AnswerError` if it is absent or damaged."""
    match = _LINE.search(output.replace("\r", ""))
    if match is None:
        raise AnswerError(f"the script printed no answer: {output[-200:]!r}")
    try:
        packed = base64.b64decode(match[2], validate=True)
        if zlib.crc32(packed) != int(match[1], 16):
            raise AnswerError("the script's answer was damaged on its way")
        inflate = zlib.decompressobj()
        data = inflate.decompress(packed, MAX_REPORT)
    except (ValueError, zlib.error) as error:
        raise AnswerError(f"the script's answer cannot be read: {error}") from error
    if inflate.unconsumed_tail:
        raise AnswerError(f"the script's answer is longer than {MAX_REPORT} bytes")
    return data


T = TypeVar("T")


def ask(run: Run, part: str, kind: type[T]) -> T:
    """Have the host run a part; `AnswerError` if it gives no usable answer in `TRIES`."""
    trouble = ""
    for _ in range(TRIES):
        try:
            code, output = run(command(part))
            if code == 0:
                return msgspec.json.decode(unpack(output), type=kind)
            trouble = f"the script ended with code {code}: {output[-200:]!r}"
        except (AnswerError, OSError, msgspec.MsgspecError, RecursionError) as error:
            trouble = str(error)
    raise AnswerError(trouble)


def said(name: str, answer: tuple[int, str]) -> list[dict[str, Any]]:
    """The JSON list of objects that a program of the host printed; nothing is an empty list.

    Raises:
        AnswerError: it failed, or printed something else.
    """
    status, text = answer
    if status != 0:
        raise AnswerError(f"{name} failed: {text[:160]!r}")
    try:
        return msgspec.json.decode(text.strip() or "[]", type=list[dict[str, Any]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise AnswerError(f"{name}: {error}") from error
