"""How a hole is planted: in the running host or VM, in code that it runs, in the image's files, or at its boot.

A plant changes a machine that a snapshot brings back, or a copy of a tree; the image that it is found in stays whole.
"""

from __future__ import annotations

import base64
import mmap
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from driver.errors import MachineError
from proof.image.rebuild import ImageRebuilder
from proof.image.trees import Trees
from proof.rig import UP_TIMEOUT, Rig
from proof.scan.controls import wait_until_up
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.process import run
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from tests.mutants.forge import Forge

_PIECE = 3000
"""Characters of a file sent at once: a terminal's line has 4,095 bytes (termios(3))."""
_PACKAGES = "/usr/lib/python3/dist-packages"


@dataclass(frozen=True)
class OnHost:
    """Command lines for the host's root shell; each must succeed."""

    lines: tuple[str, ...]

    def __call__(self, rig: Rig) -> None:
        """Plant it."""
        for line in self.lines:
            rig.host.check(line)


@dataclass(frozen=True)
class InVm:
    """Command lines for the VM's root shell; each must succeed."""

    lines: tuple[str, ...]

    def __call__(self, rig: Rig) -> None:
        """Plant it."""
        for line in self.lines:
            code, said = rig.run_vm(line)
            if code != 0:
                raise MachineError(f"in the VM: {line[:80]!r} ended with status {code}: {said[-300:]}")


@dataclass(frozen=True)
class Edit:
    """One place in our own code: what stands there exactly once, and what is put there instead."""

    module: str
    """Path below the project, such as ``backend/daemon/validator.py``."""
    old: str
    new: str


@dataclass(frozen=True)
class Code:
    """Our own code on the host is changed: compiled, put over the image's, and its service started anew.

    Args:
        unit: the service that runs it.
        edits: what is changed.
        lines: command lines for the host's root shell before that service is started anew.
    """

    unit: str
    edits: tuple[Edit, ...]
    lines: tuple[str, ...] = ()

    def __call__(self, rig: Rig) -> None:
        """Plant it."""
        for module in dict.fromkeys(edit.module for edit in self.edits):
            place = f"/run/planted-{Path(module).stem}.pyc"
            send(rig, _compiled(module, [edit for edit in self.edits if edit.module == module], rig.tools), place)
            rig.host.check(f"mount --bind {place} {_PACKAGES}/{Path(module).with_suffix('.pyc')}")
        for line in self.lines:
            rig.host.check(line)
        rig.host.check(f"systemctl restart {self.unit}", timeout=120)
        with rig.alone():
            wait_until_up(rig.wire, rig.target, UP_TIMEOUT)


@dataclass(frozen=True)
class InTree:
    """A change in unpacked files of the image; nothing is booted."""

    change: Callable[[Path, Path], None]
    """Takes the host's tree and the VM's."""

    def planted(self, trees: Trees) -> Trees:
        """Change unpacked trees; the manifest is left out, as it alone would find every one of them."""
        self.change(trees.host, trees.vm)
        return replace(trees, files=None)


@dataclass(frozen=True)
class InImage:
    """A change in a copy of the flash image; nothing is booted."""

    change: Callable[[Forge], None]

    def image(self, rebuilder: ImageRebuilder, image: ImageFile, folder: Path) -> ImageFile:
        """The planted image in ``folder``; its manifest is the real one's."""
        copy = folder / image.path.name
        # Holes stay holes, and where the file system can, nothing is copied at all.
        run(["cp", "--reflink=auto", "--sparse=always", image.path, copy])
        shutil.copyfile(image.path.with_suffix(".manifest.json"), copy.with_suffix(".manifest.json"))
        copy.chmod(0o600)
        forged = replace(image, path=copy)
        self.change(Forge(rebuilder, forged))
        return forged


@dataclass(frozen=True)
class AtBoot:
    """Another image, and a boot of its own: for what is there only while nobody can reach the shells.

    Args:
        overlay: files laid over the host's.
        patch: bytes outside the verified root file system, and as many that take their place.
    """

    overlay: Path | None = None
    patch: tuple[bytes, bytes] | None = None

    def image(self, build: Callable[[Path | None], Path], folder: Path) -> Path:
        """The planted image; ``build`` makes one with an overlay.

        Raises:
            MachineError: what is to be patched is not there.
        """
        path = build(self.overlay)
        if self.patch is None:
            return path
        old, new = self.patch
        copy = folder / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(path.with_suffix(".manifest.json"), copy.with_suffix(".manifest.json"))
        copy.chmod(0o600)
        with copy.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            at = data.find(old)
            if at < 0 or len(old) != len(new):
                raise MachineError(f"{path.name} has no {old!r} to patch", "mend the mutant")
            while at >= 0:
                data[at : at + len(old)] = new
                at = data.find(old, at)
        return copy


Plant = OnHost | InVm | Code | InTree | InImage | AtBoot


def _compiled(module: str, edits: Sequence[Edit], tools: Tools) -> bytes:
    """The changed module's bytecode for the image's Python, by the tools tree's, which is the same.

    Raises:
        MachineError: a text is not there (any more), or not only once.
    """
    source = (PROJECT / module).read_text()
    for edit in edits:
        if source.count(edit.old) != 1:
            raise MachineError(f"{module} has {edit.old!r} {source.count(edit.old)} times, not once", "mend the mutant")
        source = source.replace(edit.old, edit.new)
    with tempfile.TemporaryDirectory(prefix="sallyport-mutant-") as directory:
        path = Path(directory) / Path(module).name
        path.write_text(source)
        options = ("-q", "-b", "-f", "--invalidation-mode", "unchecked-hash")
        tools.run(["python3", "-m", "compileall", *options, path.name], build=Path(directory))
        return path.with_suffix(".pyc").read_bytes()


def send(rig: Rig, data: bytes, path: str) -> None:
    """Write a file on the host through its serial shell."""
    text = base64.b64encode(data).decode()
    rig.host.check(f": >{path}.b64")
    for start in range(0, len(text), _PIECE):
        rig.host.check(f"printf %s {text[start : start + _PIECE]} >>{path}.b64")
    rig.host.check(f"base64 -d <{path}.b64 >{path} && rm {path}.b64")


def background(code: str, *, netns: str = "", ready: str = "") -> tuple[str, ...]:
    """Command lines that start Python ``code`` in the background and wait until it has made ``/run/ready``."""
    inside = f"ip netns exec {netns} " if netns else ""
    program = f"{code}\nopen('/tmp/ready', 'w').close()\n{ready or 'import signal; signal.pause()'}"
    return (
        "rm -f /tmp/ready",
        f"busybox setsid {inside}python3 -I -c {shlex.quote(program)} </dev/null >/tmp/planted.log 2>&1 &",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do [ -e /tmp/ready ] && break; sleep 1; done; "
        "[ -e /tmp/ready ] || { cat /tmp/planted.log; false; }",
    )
