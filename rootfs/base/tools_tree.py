"""Runs programs of the tools tree: a Debian 13 user land beside the machine's own, entered by bubblewrap without root.

The tree's own bubblewrap is started by the tree's own dynamic loader, so the machine needs neither.

A program that reads a file or a tree that somebody sent is *confined*: it sees no network, no process of the machine,
and nothing but the tools tree and its own directory. Root's runs under ids that no account has (`rootfs.base.confine`);
an ordinary user's is in a user namespace of that user alone, as bubblewrap makes one anyhow.
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

from rootfs.base.environment import UMASK
from rootfs.base.errors import SallyportError
from rootfs.base.process import FIRST_ID, environment, run

BUILD = Path("/build")
"""Where a step's directory is seen inside, wherever it is outside: no path of this machine gets into an output."""
INSIDE = {"TZ": "UTC", "HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108 - inside the sandbox
"""Of the environment what would name places that are not there inside."""
_CONFINE = Path(__file__).with_name("confine.py")
_CONFINE_INSIDE = Path("/confine.py")
_FOR_CONFINE = ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH")
"""What `rootfs.base.confine` needs to be read, whoever's the checkout is, and to give up all the rest
(capabilities(7))."""
_OF_OWNERS = ("chown", "dac_override", "fowner", "fsetid", "setfcap")


@dataclass(frozen=True)
class Confined:
    """How a program runs that reads what somebody sent.

    Args:
        owners: it may give files of its directory owners, modes and capabilities, as unpacking a file system takes
            (only where root started it); it cannot make a device. Without it, it has no capability at all.
        network: it sees the machine's network: QEMU, if ports of 127.0.0.1 are what it was started for.
    """

    owners: bool = False
    network: bool = False


def own(path: Path) -> None:
    """Let a confined program write into a directory or file of ours."""
    if os.geteuid() == 0:
        os.chown(path, FIRST_ID, FIRST_ID, follow_symlinks=False)


def disown(directory: Path) -> None:
    """Make ours what a confined program left in a directory; no file then has a setuid bit (chown(2))."""
    if os.geteuid() != 0:
        return
    for _, folders, files, descriptor in os.fwalk(directory, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, 0, 0, dir_fd=descriptor, follow_symlinks=False)
    os.chown(directory, 0, 0, follow_symlinks=False)


def left(path: Path, limit: int) -> bytes:
    """What a confined program left in a file: never a link to something of ours, never more than ``limit`` bytes.

    Raises:
        OSError: there is no such regular file, or it is longer.
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
    """Copy a regular file that a confined program left, of any size, to a new file of ours; never what a link leads to.

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
            shown: such pairs, only to be read; the last one wins.
            network: whether it sees this machine's network.
            processes: whether it sees this machine's processes. If not, all that it started end with it.
            confined: for a program that reads what somebody sent; ``network`` and ``processes`` then say nothing.
            cwd: working directory inside.

        Raises:
            SallyportError: the tree cannot be used where it is.
        """
        tree = self.tree
        if set(str(tree)) & set(":;"):
            raise SallyportError(
                f"{tree}: the path has a colon or a semicolon",
                "move the checkout: the dynamic loader (ld.so(8)) splits it",
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
            # For a confined program, which is not their owner, too.
            *("--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/run"),  # noqa: S108 - inside
        ]
        if confined is not None:
            network, processes = confined.network, False
            words += ["--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
            command = [*self._confine(words, confined), *command]
        words += [] if network else ["--unshare-net"]
        words += [] if processes else ["--unshare-pid"]
        for outside, inside in shown:
            # Directories on the way that bubblewrap makes by itself are for root alone.
            words += ["--dir", inside.parent] if inside.parent != Path("/") else []
            words += ["--ro-bind", outside, inside]
        for outside, inside in binds:
            words += ["--bind", outside, inside]
        words += ["--chdir", cwd, "--", *command]
        return [str(word) for word in words]

    @staticmethod
    def _confine(words: list[str | Path], confined: Confined) -> list[str | Path]:
        """What goes before the command; adds to bubblewrap's own words."""
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
    ) -> str:
        """Run a program of the tools tree to its end with ``build`` as its working directory, seen as `BUILD`.

        A ``confined`` one owns that directory from then on, and what it leaves there: it is read with that in mind.

        Raises:
            CommandError: it failed.
        """
        if confined is not None:
            own(build)
        argv = self.argv(command, binds=[(build, BUILD)], shown=shown, confined=confined, cwd=BUILD)
        # A fixed time and place: what tools write into their outputs must not tell when and where they ran.
        # e2fsck has a variable of its own (e2fsck(8)), and so has libext2fs.
        fixed = {"SOURCE_DATE_EPOCH": str(EPOCH)} if epoch else {}
        fixed |= {"E2FSCK_TIME": str(EPOCH), "E2FSPROGS_FAKE_TIME": str(EPOCH)}
        return run(argv, env=INSIDE | fixed | (env or {}), on_line=on_line)

    def start(
        self,
        command: Sequence[str | Path],
        *,
        binds: Sequence[tuple[Path, Path]],
        cwd: Path,
        confined: Confined | None = None,
        **options: object,
    ) -> subprocess.Popen[bytes]:
        """Start a long-lived program of the tools tree; it ends with this process. ``options`` go to Popen."""
        argv = self.argv(command, binds=binds, confined=confined, cwd=cwd)
        return subprocess.Popen(argv, env=environment(INSIDE), umask=UMASK, **options)  # type: ignore[call-overload,no-any-return]


EPOCH = 1_767_225_600
"""2026-01-01 00:00:00 UTC: the time stamp of everything inside an image (https://reproducible-builds.org/specs/source-date-epoch/)."""
