"""Runs programs of the tools tree: a Debian 13 user land that bubblewrap (bwrap(1)) enters without root.

The tree's own dynamic loader starts the tree's own bubblewrap, so the build machine needs neither.

A program that reads an image or another untrusted file is *confined*: it sees no network, no process of the machine,
and no files but the tools tree and its own directory. Started by root, it runs under ids that no account has
(`rootfs.base.confine`); started by an ordinary user, in a user namespace with that user alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rootfs.base.environment import UMASK
from rootfs.base.errors import SallyportError
from rootfs.base.process import FIRST_ID, environment, run

BUILD = Path("/build")
"""Where programs see a step's directory, wherever it is on this machine, so that no path gets into an output."""
INSIDE = {"TZ": "UTC", "HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108 - inside the sandbox
"""Environment variables that would otherwise name places that do not exist inside."""
_CONFINE = Path(__file__).with_name("confine.py")
_CONFINE_INSIDE = Path("/confine.py")
_FOR_CONFINE = ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH")
"""Capabilities (capabilities(7)) with which `rootfs.base.confine` can be read, whoever owns the checkout, and gives up
all others."""
_OF_OWNERS = ("chown", "dac_override", "fowner", "fsetid", "setfcap")


@dataclass(frozen=True)
class Confined:
    """How a program runs that reads an untrusted file.

    Args:
        owners: it may set owners, modes and capabilities of files in its directory, as unpacking a file system needs
            (only if root started it); it cannot make a device. Otherwise it has no capability at all.
        network: it sees the machine's network, as QEMU must if it is to open ports of 127.0.0.1.
    """

    owners: bool = False
    network: bool = False


def own(path: Path) -> None:
    """Give a directory or file of ours to confined programs, so that they can write to it."""
    if os.geteuid() == 0:
        os.chown(path, FIRST_ID, FIRST_ID, follow_symlinks=False)


def disown(directory: Path) -> None:
    """Take back what a confined program left in a directory; chown(2) also clears setuid bits."""
    if os.geteuid() != 0:
        return
    for _, folders, files, descriptor in os.fwalk(directory, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, 0, 0, dir_fd=descriptor, follow_symlinks=False)
    os.chown(directory, 0, 0, follow_symlinks=False)


def left(path: Path, limit: int) -> bytes:
    """Read a file that a confined program left. Symbolic links are not followed.

    Raises:
        OSError: there is no such regular file, or it has more than ``limit`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def take(path: Path, target: Path) -> None:
    """Copy a regular file of any size that a confined program left to a new file. Symbolic links are not followed.

    Raises:
        OSError: there is no such regular file, or ``target`` exists.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as source, target.open("xb") as copy:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        shutil.copyfileobj(source, copy, 1 << 20)


class Tools:
    """The tools tree at ``tree``."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def argv(
        self,
        command: Sequence[str | Path],
        *,
        binds: Sequence[tuple[Path, Path]] = (),
        shown: Sequence[tuple[Path, Path]] = (),
        network: bool = True,
        processes: bool = True,
        confined: Confined | None = None,
        cwd: Path,
    ) -> list[str]:
        """The command line that runs ``command`` inside.

        Args:
            command: the program of the tools tree and its arguments.
            binds: pairs (path outside, path inside), writable.
            shown: such pairs, read-only; the last one wins.
            network: whether it sees this machine's network.
            processes: whether it sees this machine's processes. If not, all processes that it started end with it.
            confined: for a program that reads an untrusted file; ``network`` and ``processes`` are then ignored.
            cwd: working directory inside.

        Raises:
            SallyportError: the path of the tree has a character at which the dynamic loader splits it.
        """
        tree = self.tree
        if set(str(tree)) & set(":;"):
            raise SallyportError(
                f"{tree}: the path of the tools tree has a colon or a semicolon, at which ld.so(8) splits it",
                "move the checkout to another path",
            )
        words: list[str | Path] = [
            tree / "usr/lib64/ld-linux-x86-64.so.2",
            "--library-path",
            tree / "usr/lib/x86_64-linux-gnu",
            tree / "usr/bin/bwrap",
            "--die-with-parent",
            *("--ro-bind", tree / "usr", "/usr"),
            *("--ro-bind", tree / "etc", "/etc"),
            *("--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin"),
            *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
            *("--proc", "/proc", "--dev", "/dev"),
            # Writable by everybody: a confined program does not own them.
            *("--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/run"),  # noqa: S108 - inside
        ]
        if confined is not None:
            network, processes = confined.network, False
            words += ["--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
            command = [*self._confine(words, confined), *command]
        words += [] if network else ["--unshare-net"]
        words += [] if processes else ["--unshare-pid"]
        for outside, inside in shown:
            # Parent directories that bubblewrap makes by itself can be entered by root alone.
            words += ["--dir", inside.parent] if inside.parent != Path("/") else []
            words += ["--ro-bind", outside, inside]
        for outside, inside in binds:
            words += ["--bind", outside, inside]
        words += ["--chdir", cwd, "--", *command]
        return [str(word) for word in words]

    @staticmethod
    def _confine(words: list[str | Path], confined: Confined) -> list[str | Path]:
        """The words before a confined command; adds the options that bubblewrap needs for them to ``words``."""
        if os.geteuid() != 0:
            return []
        for name in _FOR_CONFINE:
            words += ["--cap-add", f"CAP_{name}"]
        words += ["--ro-bind", _CONFINE, _CONFINE_INSIDE]
        kept = ",".join(_OF_OWNERS) if confined.owners else ""
        return ["/usr/bin/python3", "-I", _CONFINE_INSIDE, str(FIRST_ID), kept]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        build: Path,
        env: dict[str, str] | None = None,
        shown: Sequence[tuple[Path, Path]] = (),
        epoch: bool = True,
        confined: Confined | None = None,
        on_line: Callable[[str], None] | None = None,
        stdin: BinaryIO | None = None,
    ) -> str:
        """Run a program of the tools tree to its end; returns what it printed.

        Args:
            command: the program and its arguments.
            build: its working directory, which it sees as `BUILD`. A confined program owns it from then on, so what is
                in it must be read by `left` or `take`.
            env: variables to add to its environment.
            shown: as of `argv`.
            epoch: whether SOURCE_DATE_EPOCH is set.
            confined: as of `argv`.
            on_line: is called with each line that it prints.
            stdin: its standard input; None: empty.

        Raises:
            CommandError: the program failed.
        """
        if confined is not None:
            own(build)
        argv = self.argv(command, binds=[(build, BUILD)], shown=shown, confined=confined, cwd=BUILD)
        # Fixed times: outputs must not depend on when they were made. e2fsck(8) and libext2fs have their own variables.
        fixed = {"SOURCE_DATE_EPOCH": str(EPOCH)} if epoch else {}
        fixed |= {"E2FSCK_TIME": str(EPOCH), "E2FSPROGS_FAKE_TIME": str(EPOCH)}
        return run(argv, env=INSIDE | fixed | (env or {}), on_line=on_line, stdin=stdin)

    def start(
        self,
        command: Sequence[str | Path],
        *,
        binds: Sequence[tuple[Path, Path]],
        cwd: Path,
        confined: Confined | None = None,
        **options: object,
    ) -> subprocess.Popen[bytes]:
        """Start a long-lived program of the tools tree; it ends with this process. ``options`` are passed to Popen."""
        argv = self.argv(command, binds=binds, confined=confined, cwd=cwd)
        return subprocess.Popen(argv, env=environment(INSIDE), umask=UMASK, **options)  # type: ignore[call-overload,no-any-return]


EPOCH = 1_767_225_600
"""2026-01-01 00:00:00 UTC: time stamp of all files in an image (https://reproducible-builds.org/specs/source-date-epoch/)."""
