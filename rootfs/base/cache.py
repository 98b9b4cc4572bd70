"""Build steps cached by content: a step runs only if one of its inputs changed, and prints which one.

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
"""Hexadecimal characters of a key."""
KEEP = 4
"""Outputs kept per step: the present one, and some to go back to, such as those of another profile."""

_COMPILED = (".pyc", ".so", ".bpf.o")
"""Endings of files that are compiled from the sources beside them (`extension.install`)."""


def digest_path(path: Path, *, whole: bool = False) -> str:
    """Digest of a file, or of the names, contents, links and executable bits below a directory; times do not count.

    Args:
        path: the file or directory.
        whole: include compiled files, which are left out in our own tree, where they only repeat the sources.
    """
    digest = hashlib.sha256()
    files = (
        sorted(path.rglob("*")) if path.is_dir() else [path]
    )  # a symbolic link to a directory counts as a directory here
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
        console: shows which steps run, and why.
    """

    def __init__(self, directory: Path, console: Console) -> None:
        self.directory = directory
        self.console = console
        self._show: Callable[[str], None] | None = None
        self._seen: set[Path] = set()

    def progress(self, words: str) -> None:
        """Show what the running step is doing at the moment."""
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
            title: shown while the step runs.
            inputs: names of the inputs to their digests or values.
            build: is called with an empty directory, and fills it.
        """
        output = self._output(name, inputs)
        if output in self._seen:
            return output
        # For the whole process, and not set back: threads may be in other steps.
        os.umask(UMASK)
        provide(self.directory)
        busy = f"  … {title} [dim](waiting for another build)[/]"
        # Another process may be making the same output.
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
        # Left by a build that was killed, or that failed with `debugging`.
        abandoned = re.compile(rf"\.{re.escape(name)}-[0-9a-f]{{{_KEY}}}\.\d+")
        for left in [path for path in self.directory.iterdir() if abandoned.fullmatch(path.name)]:
            remove(left)
        work = self.directory / f".{output.name}.{os.getpid()}"
        work.mkdir(parents=True)
        try:
            with self._bar(title, reason):
                build(work)
            remove(output)  # a file in its place
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
    """Hold a lock against other processes within the context (flock(2)).

    Args:
        lock: the file that is locked; made if need be.
        waits: is called before this waits for another process.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def provide(directory: Path) -> Path:
    """Make a directory and its parents, unless they exist; symbolic links to directories are followed.

    Raises:
        SallyportError: something else is in its place, such as a link to a directory that does not exist.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        way = next(path for path in (*reversed(directory.parents), directory) if not path.is_dir())
        what = f"a link to {way.readlink()}, which does not exist" if way.is_symlink() else "no directory"
        raise SallyportError(f"{way} is {what}", "mount the disk that it is on, or remove it") from error
    return directory


def remove(path: Path) -> None:
    """Remove a file, a symbolic link (not its target), or a tree, even with directories that nobody may write to.

    It need not exist. Permissions of directories above it are not changed.
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
"""Names (or patterns) of what the project makes in ``out/``."""


def empty(directory: Path) -> tuple[list[Path], list[Path]]:
    """Remove everything in a directory; if it is named by a symbolic link, only what the project made (`OURS`).

    Such a link may lead to a disk that has other files as well.

    Returns:
        the directories that symbolic links in it led to, which are not touched; and what was left in it.

    Raises:
        SallyportError: the checkout itself is in that directory.
    """
    within = directory.resolve()
    if PROJECT.is_relative_to(within):
        raise SallyportError(
            f"{directory} leads to {within}, which contains the checkout {PROJECT}", "remove that link yourself"
        )
    elsewhere = [path.resolve() for path in within.iterdir() if path.is_symlink() and path.is_dir()]
    ours = OURS if directory.is_symlink() else ("*",)
    gone = [path for path in within.iterdir() if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in ours)]
    for path in gone:
        remove(path)
    return elsewhere, sorted(within.iterdir())


def _let_in(directory: Path) -> None:
    """Give the owner all permissions for a directory and those in it; symbolic links are not followed."""
    directory.chmod(0o700)
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _let_in(Path(entry.path))
