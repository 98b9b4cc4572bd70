"""Build steps cached by content: a step runs only when one of its inputs changed, and says which.

A step's output is a directory ``<cache>/<name>-<key>`` that appears by one rename; its key is a digest of all its
inputs, the source of the code that does the work included. So an output is either whole or absent, an interrupted
build loses only the step it was in, and going back to an earlier state finds the earlier output again.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rootfs.base.debugging import debugging
from rootfs.base.environment import UMASK
from rootfs.base.errors import SallyportError
from rootfs.base.version import PROJECT

_KEY = 20
"""Characters of a key."""
KEEP = 4
"""Outputs kept per step: the present one and some to go back to (another profile, a sabotaged image)."""

_COMPILED = (".pyc", ".so", ".bpf.o")
"""Made of the sources beside it: Python's, and what `extension.install` puts there."""


def digest_path(path: Path, *, whole: bool = False) -> str:
    """Digest of a file or of a directory's names, modes, links and contents; times left out.

    Args:
        path: the file or directory.
        whole: with compiled files, which otherwise are left out: in a tree that is not ours they are no by-product.
    """
    digest = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]  # a link to a directory is one, too
    for file in files:
        if not whole and (file.name == "__pycache__" or file.name.endswith(_COMPILED)):
            continue
        name = file.relative_to(path).as_posix() if file != path else ""
        if file.is_symlink() and file != path:
            digest.update(f"l {name} {os.readlink(file)}\0".encode())
        elif file.is_file():
            mode = "x" if file.stat().st_mode & stat.S_IXUSR else "-"
            content = file.read_bytes()
            digest.update(f"f {name} {mode} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def digest_code(*modules: ModuleType) -> dict[str, str]:
    """Inputs that stand for the code that does a step's work."""
    return {f"code {module.__name__}": digest_path(Path(str(module.__file__))) for module in modules}


class Cache:
    """The directory of step outputs.

    Args:
        directory: where outputs are kept.
        console: where is told what runs and why.
    """

    def __init__(self, directory: Path, console: Console) -> None:
        self.directory = directory
        self.console = console
        self._show: Callable[[str], None] | None = None
        self._seen: set[Path] = set()

    def progress(self, words: str) -> None:
        """Show what the running step is doing just now."""
        if self._show is not None:
            self._show(words)

    def has(self, name: str, inputs: Mapping[str, str]) -> bool:
        """Whether a step's output for these inputs is there."""
        return self._output(name, inputs).is_dir()

    def _output(self, name: str, inputs: Mapping[str, str]) -> Path:
        key = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()[:_KEY]
        return self.directory / f"{name}-{key}"

    def step(self, name: str, title: str, inputs: Mapping[str, str], build: Callable[[Path], None]) -> Path:
        """Return the step's output directory, made now by ``build(directory)`` unless it is there.

        Args:
            name: the step, as in the directory's name.
            title: what people read while it runs.
            inputs: name of each input to its digest or value.
            build: fills the empty directory that it is given.
        """
        output = self._output(name, inputs)
        if output in self._seen:
            return output
        # Of the whole process, and for good: threads may be in other steps.
        os.umask(UMASK)
        provide(self.directory)
        busy = f"  … {title} [dim](another build is at it)[/]"
        # Another build at the same time may want the same output.
        with exclusive_lock(self.directory / f".{name}.lock", lambda: self.console.print(busy, highlight=False)):
            return self._step(output, title, inputs, build)

    def _step(self, output: Path, title: str, inputs: Mapping[str, str], build: Callable[[Path], None]) -> Path:
        name = output.name[: -_KEY - 1]
        record = self.directory / f"{name}.json"
        if output.is_dir():
            os.utime(output)
            self.console.print(f"  [green]✓[/] {title} [dim](nothing changed)[/]", highlight=False)
            record.write_text(json.dumps(dict(inputs)))
            self._seen.add(output)
            return output
        reason = self._reason(record, inputs)
        started = time.monotonic()
        # Of a build that was killed, or that failed while somebody looked for a fault.
        abandoned = re.compile(rf"\.{re.escape(name)}-[0-9a-f]{{{_KEY}}}\.\d+")
        for left in [path for path in self.directory.iterdir() if abandoned.fullmatch(path.name)]:
            remove(left)
        work = self.directory / f".{output.name}.{os.getpid()}"
        work.mkdir(parents=True)
        try:
            with self._bar(title, reason):
                build(work)
            remove(output)  # something else than a directory
            work.rename(output)
        except Exception:
            if debugging():
                self.console.print(f"  [red]✗[/] {title}: kept as it was when it failed: {work}", highlight=False)
            else:
                remove(work)
            raise
        except BaseException:
            remove(work)
            raise
        seconds = time.monotonic() - started
        self.console.print(f"  [green]✓[/] {title} [dim]({reason}; {seconds:.1f} s)[/]", highlight=False)
        record.write_text(json.dumps(dict(inputs)))
        self._seen.add(output)
        self._forget(name)
        return output

    @contextmanager
    def _bar(self, title: str, reason: str) -> Iterator[None]:
        if not self.console.is_terminal:
            self.console.print(f"  … {title} [dim]({reason})[/]", highlight=False)
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(f"{title} [dim]({reason})[/]")
            self._show = lambda words: bar.update(task, description=f"{title} [dim]{escape(words[:80])}[/]")
            try:
                yield
            finally:
                self._show = None

    def _reason(self, record: Path, inputs: Mapping[str, str]) -> str:
        try:
            before: dict[str, str] = json.loads(record.read_text())
        except (OSError, ValueError):
            return "never built here"
        changed = [key for key in sorted(inputs.keys() | before.keys()) if inputs.get(key) != before.get(key)]
        if not changed:
            return "its output is gone"
        more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
        return f"changed: {', '.join(changed[:2])}{more}"

    def _forget(self, name: str) -> None:
        outputs = [path for path in self.directory.glob(f"{name}-*") if len(path.name) == len(name) + 1 + _KEY]
        for old in sorted(outputs, key=lambda path: path.stat().st_mtime)[:-KEEP]:
            remove(old)


@contextmanager
def exclusive_lock(lock: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock (flock(2)) against other builds at the same time.

    Args:
        lock: its file.
        waits: is called before this waits for another build.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def provide(directory: Path) -> Path:
    """Make a directory and those above it, unless it is there; a link to a directory is one.

    Raises:
        SallyportError: something else is in its place, such as a link that leads nowhere.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        way = next(path for path in (*reversed(directory.parents), directory) if not path.is_dir())
        what = f"a link to {way.readlink()}, where no directory is" if way.is_symlink() else "no directory"
        raise SallyportError(f"{way} is {what}", "is that disk mounted? or remove it") from error
    return directory


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to), or a tree, which may hold directories without permissions.

    Nothing above it is changed, and absent is fine.
    """
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
    except FileNotFoundError:
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        _let_in(path)
        shutil.rmtree(path)


OURS = (
    *(
        "cache",
        "buildroot",
        "compare",
        "docs",
        "legal",
        "matrix",
        "run",
        "verify",
        "bench",
        "fuzz",
        "test-*",
        "sallyport-*",
    ),
    *("SHA256SUMS", ".SHA256SUMS.new", ".sums.lock", ".publish-*", ".work-*", ".extension-*", "*-serial.log"),
)
"""What the project makes in ``out/``."""


def empty(directory: Path) -> tuple[list[Path], list[Path]]:
    """Remove what the project made in a directory, by whatever link it was named; without a link everything in it.

    Somebody's disk, to which a link leads, may have other things on it.

    Returns:
        the directories that links in it led to, which are as they were; and what was not ours and is still there.

    Raises:
        SallyportError: what is removed would be more than what is in it: it has this program in it.
    """
    within = directory.resolve()
    if PROJECT.is_relative_to(within):
        raise SallyportError(f"{directory} leads to {within}, and {PROJECT} is in it", "remove that link yourself")
    elsewhere = [path.resolve() for path in within.iterdir() if path.is_symlink() and path.is_dir()]
    ours = OURS if directory.is_symlink() else ("*",)
    gone = [path for path in within.iterdir() if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in ours)]
    for path in gone:
        remove(path)
    return elsewhere, sorted(within.iterdir())


def _let_in(directory: Path) -> None:
    """Give the owner all permissions for a directory and those in it; links lead nowhere."""
    directory.chmod(0o700)
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _let_in(Path(entry.path))
