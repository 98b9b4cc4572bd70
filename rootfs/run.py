"""Child processes: started without a shell, their output kept, their failure explained."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rootfs.errors import CommandError, DiskFullError, SallyportError

_LINES = 15
_FULL_LINES = 200
"""Last lines in which a full disk is looked for: a program may say much while it gives up, and more in hours before."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """A minimal environment; proxies and certificate stores stay, they belong to the machine's configuration."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "USER", "TERM") if key in os.environ}
    kept |= {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") or k.startswith("SSL_CERT")}
    # dpkg and friends live in sbin, which an ordinary user's PATH lacks.
    kept["PATH"] = f"{kept.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return kept | {"LC_ALL": "C.UTF-8"} | (extra or {})


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a command to its end and return what it printed (standard output and error together).

    Args:
        argv: the command; never goes through a shell.
        cwd: where to run it.
        env: variables to add to a minimal environment.
        on_line: is called with each line as it comes: progress.

    Raises:
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
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: Ctrl-C reaches us, and we end the whole group in good order.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        name = Path(words[0]).name
        raise SallyportError(f"{name} is not installed", f"sudo apt-get install {name}") from error
    try:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if on_line is not None:
                on_line(line.rstrip())
        status = child.wait()
    except BaseException:
        _end_group(child)
        raise
    if status != 0:
        tail = "".join(deque(lines, maxlen=_LINES)).strip()
        if os.strerror(errno.ENOSPC).lower() in "".join(lines[-_FULL_LINES:]).lower():
            raise DiskFullError(
                f"the disk is full: {Path(words[0]).name} could not write",
                "free some room or run `invoke clean`, then try again",
            )
        raise CommandError(f"this command ended with status {status}:\n  {shlex.join(words)}\nIt said:\n{tail}")
    return "".join(lines)


def _end_group(child: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
