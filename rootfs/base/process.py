"""Child processes: started without a shell, their output kept, their failure explained."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rootfs.base.environment import UMASK
from rootfs.base.errors import CommandError, DiskFullError, SallyportError, without_credentials

_LINES = 15
_FULL_LINES = 200
"""Last lines in which a full disk is looked for: a program may say much while it gives up, and more in hours before."""


_POLL = 0.2
FIRST_ID = 0x5A11_0000
"""The user and group, outside, of a program that reads what somebody sent, if root started it; of a confined one
(`rootfs.base.tools_tree`) the first of 65,536. They lie above what Debian gives to accounts and to their subordinate
ids (Debian policy, section 9.2.2)."""


class Stopped(Exception):
    """A command was ended because its caller wished it."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """A minimal environment; proxies and certificate stores stay, they belong to the machine's configuration."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "TERM") if key in os.environ}
    kept |= {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") or k.startswith("SSL_CERT")}
    # dpkg and friends live in sbin, which an ordinary user's PATH lacks.
    kept["PATH"] = f"{kept.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return kept | {"LC_ALL": "C.UTF-8"} | (extra or {})


def powerless(argv: Sequence[str | Path]) -> list[str | Path]:
    """The command line that runs a program of the machine without capabilities and a network, and ends what it started.

    For root it runs as nobody: it reaches what everybody does, its working directory, and what it inherits, such as the
    file as standard input. An ordinary user's keeps that user's rights over files.
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
        stdin: what it reads; without it, nothing.
        cwd: where to run it.
        env: variables to add to a minimal environment.
        on_line: is called with each line as it comes: progress.
        stop: another thread sets it to end the command.

    Raises:
        Stopped: so it was ended.
        CommandError: it failed; carries the command line and the last lines it printed.
        SallyportError: the program does not exist.
    """
    words = [str(word) for word in argv]
    lines: list[str] = []
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment(env),
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: Ctrl-C reaches us, and we end the whole group in good order.
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
        if os.strerror(errno.ENOSPC).lower() in "".join(lines[-_FULL_LINES:]).lower():
            raise DiskFullError(
                f"the disk is full: {Path(words[0]).name} could not write",
                "free some room or run `invoke clean`, then try again",
            )
        raise CommandError(f"this command ended with status {status}:\n  {shlex.join(words)}\nIt said:\n{tail}")
    return "".join(lines)


@contextmanager
def _ended_by(stop: threading.Event | None, child: subprocess.Popen[str]) -> Iterator[None]:
    """A command that says nothing for long is ended, too: nobody waits for its next line."""
    if stop is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL):
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
