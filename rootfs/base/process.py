"""Child processes: started without a shell, their output kept, their failure explained."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rootfs.base.environment import UMASK
from rootfs.base.errors import CommandError, DiskFullError, SallyportError, without_credentials

_LINES = 15
"""Last lines of a failed command in the message."""
_FULL_LINES = 200
"""Last lines in which a full disk is looked for: a program may print much while it gives up, and more in hours
before."""
_POLL_S = 0.2
"""Between two looks at whether a command is to be ended."""
FIRST_ID = 0x5A11_0000
"""User and group id, on this machine, of a program that reads an untrusted file, if root started it; of a confined one
(`rootfs.base.tools_tree`) the first of 65,536. They lie above what Debian gives to accounts and to their subordinate
ids (Debian policy, section 9.2.2)."""


class Stopped(Exception):
    """A command was ended because its caller set the event ``stop``."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """A minimal environment for a child process.

    PATH, HOME, TMPDIR and TERM are the user's. Proxies and certificate stores stay, too: they belong to the machine's
    configuration.

    Args:
        extra: variables to add; they win.
    """
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "TERM") if key in os.environ}
    kept |= {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") or k.startswith("SSL_CERT")}
    # dpkg and friends live in sbin, which an ordinary user's PATH lacks.
    kept["PATH"] = f"{kept.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return kept | {"LC_ALL": "C.UTF-8"} | (extra or {})


def powerless(argv: Sequence[str | Path]) -> list[str | Path]:
    """The command line that runs a program of the machine without capabilities and network (unshare(1), setpriv(1)).

    All processes that the program starts end with it. Started by root, it runs as a user that no account has: it can
    only reach what every user can, its working directory, and what it inherits, such as a file as standard input.
    Started by an ordinary user, it keeps that user's rights over files.
    """
    alone = ["--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
    if os.geteuid() != 0:
        return ["unshare", "--user", "--map-current-user", *alone, *argv]
    ids = [f"--reuid={FIRST_ID}", f"--regid={FIRST_ID}", "--clear-groups"]
    return ["unshare", *alone, "setpriv", *ids, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *argv]


def run(
    argv: Sequence[str | Path],
    *,
    stdin: BinaryIO | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> str:
    """Run a command to its end and return what it printed (standard output and error together).

    Args:
        argv: the command; never goes through a shell.
        stdin: the command's standard input; None: empty.
        cwd: the command's working directory; None: this process's.
        env: variables to add to a minimal environment (`environment`).
        on_line: is called with each line as it comes, to show progress.
        stop: another thread sets it to end the command.

    Raises:
        Stopped: ``stop`` was set, and the command was ended.
        CommandError: the command failed; carries the command line and the last lines that it printed.
        DiskFullError: the command failed because the disk is full.
        SallyportError: the program does not exist.
    """
    words, variables = [str(word) for word in argv], environment(env)
    lines: list[str] = []
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env=variables,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A process group of its own: Ctrl-C reaches this process alone, which then ends the whole group.
            start_new_session=True,
            umask=UMASK,
        )
    except FileNotFoundError as error:
        name = Path(words[0]).name
        raise SallyportError(f"{name} is not installed", f"sudo apt-get install {name}") from error
    try:
        assert child.stdout is not None
        with _ended_by(stop, child):
            for line in child.stdout:
                lines.append(line)
                if on_line is not None:
                    on_line(without_credentials(line.rstrip()))
            status = child.wait()
    except BaseException:
        _end_group(child)
        raise
    if stop is not None and stop.is_set():
        raise Stopped
    if status != 0:
        tail = "".join(deque(lines, maxlen=_LINES)).strip()
        command = paste(words, variables, cwd, stdin)
        if os.strerror(errno.ENOSPC).lower() in "".join(lines[-_FULL_LINES:]).lower():
            raise DiskFullError(
                f"the disk is full: {Path(words[0]).name} could not write",
                "free some room or run `invoke clean`, then try again",
                command,
            )
        raise CommandError(
            f"this command ended with status {status}:\n  {shlex.join(words)}\nIt printed:\n{tail}", command=command
        )
    return "".join(lines)


def paste(
    words: Sequence[str], variables: Mapping[str, str], cwd: Path | None = None, stdin: BinaryIO | None = None
) -> str:
    """One line for a shell that runs a command as `run` does: same directory, environment and standard input."""
    settings = [f"{name}={value}" for name, value in sorted(variables.items())]
    name = getattr(stdin, "name", None)
    source = shlex.quote(name) if isinstance(name, str) else "/dev/null"
    inside = "" if cwd is None else f"cd {shlex.quote(str(cwd))} && "
    return f"({inside}env -i {shlex.join([*settings, *words])} <{source})"


@contextmanager
def _ended_by(stop: threading.Event | None, child: subprocess.Popen[str]) -> Iterator[None]:
    """Within the context a thread ends the command once ``stop`` is set, even one that prints nothing for long."""
    if stop is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            if stop.is_set():
                _end_group(child)
                return

    watcher = threading.Thread(target=watch, name=f"watches {child.pid}")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _end_group(child: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
