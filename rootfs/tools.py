"""Runs programs of the tools tree: a Debian 13 user land beside the machine's own, entered by bubblewrap without root.

The tree's own bubblewrap is started by the tree's own dynamic loader, so the machine needs neither.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from rootfs.run import environment, run

BUILD = Path("/build")
"""Where a step's directory is seen inside, wherever it is outside: no path of this machine gets into an output."""


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
        cwd: Path,
    ) -> list[str]:
        """The command line that runs ``command`` inside.

        Args:
            command: the program of the tools tree and its arguments.
            binds: pairs (path outside, path inside), writable.
            shown: such pairs, only to be read; the last one wins.
            network: whether it sees this machine's network.
            processes: whether it sees this machine's processes. If not, all that it started end with it.
            cwd: working directory inside.
        """
        tree = self.tree
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
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"),  # noqa: S108 - inside the sandbox
        ]
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

    def run(
        self,
        command: Sequence[str | Path],
        *,
        build: Path,
        env: dict[str, str] | None = None,
        shown: Sequence[tuple[Path, Path]] = (),
        epoch: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run a program of the tools tree to its end with ``build`` as its working directory, seen as `BUILD`.

        Raises:
            CommandError: it failed.
        """
        argv = self.argv(command, binds=[(build, BUILD)], shown=shown, cwd=BUILD)
        # A fixed time and place: what tools write into their outputs must not tell when and where they ran.
        # e2fsck has a variable of its own (e2fsck(8)), and so has libext2fs.
        fixed = {"SOURCE_DATE_EPOCH": str(EPOCH)} if epoch else {}
        fixed |= {"E2FSCK_TIME": str(EPOCH), "E2FSPROGS_FAKE_TIME": str(EPOCH)}
        return run(argv, env={"TZ": "UTC"} | fixed | (env or {}), on_line=on_line)

    def start(
        self, command: Sequence[str | Path], *, binds: Sequence[tuple[Path, Path]], cwd: Path, **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a long-lived program of the tools tree; it ends with this process. ``options`` go to Popen."""
        return subprocess.Popen(self.argv(command, binds=binds, cwd=cwd), env=environment(), **options)  # type: ignore[call-overload,no-any-return]


EPOCH = 1_767_225_600
"""2026-01-01 00:00:00 UTC: the time stamp of everything inside an image (https://reproducible-builds.org/specs/source-date-epoch/)."""
