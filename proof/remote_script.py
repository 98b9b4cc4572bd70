"""Sends a Python program to a root shell of the VM or of the host, and checks its answer.

Theory of operation. An image has Python but none of our test packages, so a script is source text that needs only the
standard library (and, where it says so, what the image itself has). It is written as one or more ordinary modules,
which ruff and mypy check like any other. `assemble` joins them in one namespace and leaves out what is not used,
docstrings, comments and type annotations; the result goes to ``python3 -c`` compressed, because a serial console takes
at most `MAX_LINE` bytes in one line. The script prints one line (`remote_answer.framed`). The machine that prints it is
the one under test, so the answer is hostile input: bounded, checked by its CRC, and decoded into a declared type.
"""

from __future__ import annotations

import ast
import base64
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

RunInVm = Callable[[str, float], tuple[int, str]]
"""Runs a command line as root in the VM, for at most so many seconds; returns exit code and output."""
RunOnHost = Callable[[str], tuple[int, str]]
"""Runs a command line as root on the host; returns exit code and output."""
MAX_LINE = 4095
"""Bytes of one line to a terminal in canonical mode (termios(3))."""
MAX_ANSWER = 1 << 20
"""Bytes of the JSON in an answer, unless a script declares another limit."""
HOST_TRIES = 3
"""How often a script is run on the host until its answer is usable: a serial console may lose bytes."""

_PREAMBLE = Path(__file__).with_name("remote_answer.py")
_ANSWER = re.compile(r"SALLYPORT-ANSWER ([0-9a-f]{8}) ([A-Za-z0-9+/=]+)")
T = TypeVar("T")


class RemoteScriptError(Exception):
    """A script did not run, or what it printed is not a whole, undamaged answer of the declared type."""


class _Strip(ast.NodeTransformer):
    """Removes docstrings and annotations, which only people and type checkers read."""

    def _body(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._body(node)
        node.returns = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._body(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement of a module's top level defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in aliases)
        case ast.Assign(targets=targets):
            yield from (inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name))


def _statements(path: Path) -> Iterator[ast.stmt]:
    """Yield the top-level statements of one source file, one imported name each, without imports of our own files.

    Raises:
        ValueError: a top-level statement does something else than to define a name, so it cannot be left out safely.
    """
    for node in ast.parse(path.read_text()).body:
        stripped = _Strip().visit(node)
        match stripped:
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                continue
            case ast.ImportFrom(module=module, names=aliases):
                if module != "__future__" and not (module or "").startswith("proof."):
                    yield from (ast.ImportFrom(module, [alias], 0) for alias in aliases)
            case ast.Import(names=aliases):
                yield from (ast.Import([alias]) for alias in aliases)
            case ast.FunctionDef() | ast.ClassDef() | ast.Assign():
                yield stripped
            case _:
                raise ValueError(f"{path}:{node.lineno}: the top level of a remote script may only define names")


def assemble(*paths: Path, main: str) -> str:
    """Return the source of a remote script: what ``main`` uses of the files, in one namespace, and ``main`` itself.

    Args:
        paths: the source files, in the order in which they are executed. What they import from each other is left out,
            as all names are in one namespace.
        main: statements that are executed at the end, such as ``answer(listing())``.

    Raises:
        ValueError: the top level of a file does more than define names.
    """
    top = [node for path in (_PREAMBLE, *paths) for node in _statements(path)]
    end = ast.parse(main).body
    used: set[str] = set()
    waiting = {inner.id for node in end for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    while waiting:
        used |= waiting
        kept = [node for node in top if used & {*_defined(node)}]
        waiting = {inner.id for node in kept for inner in ast.walk(node) if isinstance(inner, ast.Name)} - used
    module = ast.Module([node for node in top if used & {*_defined(node)}] + end, [])
    return ast.unparse(ast.fix_missing_locations(module)) + "\n"


def python_command(source: str, *arguments: str) -> str:
    """Return the command line that runs ``source`` with ``arguments`` in an isolated Python (``-I``)."""
    packed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    code = f"import zlib,base64;exec(zlib.decompress(base64.b64decode('{packed}')))"
    return shlex.join(["python3", "-I", "-c", code, *arguments])


@dataclass(frozen=True)
class RemoteScript(Generic[T]):
    """A script and the type of its answer.

    Args:
        source: what `assemble` returned.
        answer: type that the answer's JSON is decoded into (msgspec).
        max_answer: bytes of JSON that the answer may have.
    """

    source: str
    answer: type[T]
    max_answer: int = MAX_ANSWER

    def command(self, *arguments: str) -> str:
        """Return the command line that runs the script with ``arguments``."""
        return python_command(self.source, *arguments)

    def decode(self, output: str) -> T:
        """Return the answer in what the shell printed.

        Raises:
            RemoteScriptError: there is no answer, it is damaged, cut off or too long, or it is of another type.
        """
        match = _ANSWER.search(output.replace("\r", ""))
        if match is None:
            raise RemoteScriptError(f"the script printed no answer: {output[-200:]!r}")
        try:
            packed = base64.b64decode(match[2], validate=True)
            if zlib.crc32(packed) != int(match[1], 16):
                raise RemoteScriptError("the script's answer was damaged in transit: its CRC-32 differs")
            inflate = zlib.decompressobj()
            data = inflate.decompress(packed, self.max_answer)
            if inflate.unconsumed_tail or not inflate.eof:
                raise RemoteScriptError(f"the script's answer is longer than {self.max_answer} bytes, or cut off")
            return msgspec.json.decode(data, type=self.answer)
        except (ValueError, zlib.error, msgspec.MsgspecError, RecursionError) as error:
            raise RemoteScriptError(f"the script's answer cannot be read: {error}") from error

    def run_in_vm(self, run: RunInVm, timeout: float, *arguments: str) -> T:
        """Run the script once in the VM, for at most ``timeout`` seconds, and return its answer.

        Raises:
            RemoteScriptError: it gave no usable answer.
            Exception: whatever ``run`` raises.
        """
        return self.decode(run(self.command(*arguments), timeout)[1])

    def run_on_host(self, run: RunOnHost, *arguments: str, tries: int = HOST_TRIES) -> T:
        """Run the script on the host, at most ``tries`` times until its answer is usable, and return the answer.

        Raises:
            RemoteScriptError: no run gave a usable answer; the message is that of the last one.
        """
        trouble = ""
        for _ in range(tries):
            try:
                code, output = run(self.command(*arguments))
                if code == 0:
                    return self.decode(output)
                trouble = f"the script ended with exit code {code}: {output[-200:]!r}"
            except (RemoteScriptError, OSError) as error:
                trouble = str(error)
        raise RemoteScriptError(trouble)
