"""The build sandbox in which Buildroot runs: a Debian 13 user land with compilers and a toolchain.

It has no network unless other machines are named that compile, too. So a build does not depend on the machine, sees
every directory at the same path, and can use no sources but those that were checked before.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rootfs.base import cache, packages
from rootfs.base.cache import digest_code, digest_path
from rootfs.base.environment import UMASK
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.base.process import environment
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from rootfs.engines.buildroot import toolchain
from rootfs.engines.buildroot.distcc import Farm
from rootfs.engines.buildroot.output import MakeEnvironment
from rootfs.engines.buildroot.source import EXTERNAL
from rootfs.spec.architecture import ALL

OUTPUT, DOWNLOADS, CCACHE = Path("/output"), Path("/downloads"), Path("/ccache")
SOURCE, INSIDE_PROJECT, PREBUILT = Path("/buildroot"), Path("/sallyport"), Path("/prebuilt")
"""Paths inside the sandbox."""
_BIN, _TMP = Path("/opt/bin"), Path("/tmp")  # noqa: S108 - inside
_ENVIRONMENT = {"PATH": f"{_BIN}:/usr/bin:/usr/sbin", "HOME": str(_TMP), "TMPDIR": str(_TMP), "TZ": "UTC"}
_NAMES = {
    "gcc": "gcc-14", "cc": "gcc-14", "g++": "g++-14", "c++": "g++-14", "cpp": "cpp-14", "awk": "gawk",
    "which": "which.debianutils", "yacc": "bison",
}  # fmt: skip
"""Commands that Debian's maintainer scripts would link (update-alternatives(1)): no such script runs for this tree."""
_DIGEST = "digest"
_ALONE = Farm()


@dataclass(frozen=True)
class Sandbox:
    """The user land.

    Args:
        fetched: package set with make and the compiler for programs of the build machine.
        prebuilt: package set whose files go into an image as they are.
        added: directory with ``bin``, ``toolchain`` and a digest of the toolchain, as `prepare` made it.
        farm: other machines that compile, too.
    """

    fetched: Path
    prebuilt: Path
    added: Path
    farm: Farm = _ALONE

    def make_environment(self, source: Path, output: Path, downloads: Path, ccache: Path) -> MakeEnvironment:
        """An environment to run make in for one output directory.

        Args:
            source: Buildroot's source tree; read-only.
            output: the output directory (make's ``O``); must exist.
            downloads: Buildroot's download directory.
            ccache: directory of ccache(1).
        """
        return _MakeEnvironment(self, source.absolute(), output.absolute(), downloads.absolute(), ccache.absolute())

    @cached_property
    def identity(self) -> str:
        """A digest of its packages and of the toolchain that is made of them."""
        inside = {
            f"{package.name} {package.version} {package.sha256}"
            for path in (self.fetched, self.prebuilt)
            for package in packages.load(path)
        }
        made = [*sorted(inside), str(_NAMES), (self.added / _DIGEST).read_text()]
        return hashlib.sha256("\n".join(made).encode()).hexdigest()[:20]

    @property
    def shown(self) -> list[tuple[Path, Path]]:
        """The directories with compilers, each with its path inside."""
        return [(self.added / "bin", _BIN), (self.added / "toolchain", toolchain.PLACE)]

    def serve(self, words: Sequence[str]) -> None:
        """Run the compile server (`rootfs.engines.buildroot.distcc.command`) until this process is told to end.

        Raises:
            SallyportError: the server ended by itself with an error.
        """
        with tempfile.TemporaryDirectory(prefix="sallyport-node-") as scratch:
            # The server runs as user nobody.
            os.chmod(scratch, 0o1777)  # noqa: S103 - as /tmp is
            tools, binds = Tools(self.fetched / "tree"), [(Path(scratch), _TMP)]
            argv = tools.argv(words, binds=binds, shown=self.shown, processes=False, cwd=_TMP)
            if status := subprocess.run(argv, env=environment(_ENVIRONMENT), umask=UMASK, check=False).returncode:
                raise SallyportError(
                    f"the compile server ended with status {status}", "its own message is printed above"
                )


class _MakeEnvironment:
    source, external, output, downloads, ccache = (
        SOURCE,
        INSIDE_PROJECT / EXTERNAL.relative_to(PROJECT),
        OUTPUT,
        DOWNLOADS,
        CCACHE,
    )

    def __init__(self, sandbox: Sandbox, source: Path, output: Path, downloads: Path, ccache: Path) -> None:
        self._tools = Tools(sandbox.fetched / "tree")
        # Downloads must be writable: Buildroot locks each folder of them by a file in it.
        self._binds = [(output, OUTPUT), (downloads, DOWNLOADS), (ccache, CCACHE)]
        # Both compilers are part of the sandbox, so its identity tells them apart better than their time stamps.
        self._compilers = sandbox.identity
        self._farm = sandbox.farm
        self._shown = [
            *sandbox.shown,
            (source, SOURCE),
            (sandbox.prebuilt / "tree", PREBUILT),
            *(
                (PROJECT / name, INSIDE_PROJECT / name)
                for name in (EXTERNAL.relative_to(PROJECT), "frontend_vm", "overlays")
            ),
        ]

    def argv(self, words: Sequence[str]) -> list[str]:
        # Other machines are reached by the network; without them a build has none.
        network = bool(self._farm.nodes)
        return self._tools.argv(words, binds=self._binds, shown=self._shown, network=network, cwd=OUTPUT)

    @property
    def variables(self) -> dict[str, str]:
        env = _ENVIRONMENT | self._farm.environment() | {"CCACHE_COMPILERCHECK": f"string:{self._compilers}"}
        # Some packages' configure scripts refuse to run as root without this variable.
        return env | ({"FORCE_UNSAFE_CONFIGURE": "1"} if os.geteuid() == 0 else {})


def prepare(sets: PackageSets, farm: Farm = _ALONE) -> Sandbox:
    """Make the build sandbox from Debian packages, unless the cache has it; it builds for the sets' architecture."""
    fetched, prebuilt, arch = sets.sandbox, sets.prebuilt, ALL[sets.arch]

    def build(output: Path) -> None:
        (output / "bin").mkdir()
        for name, program in _NAMES.items():
            (output / "bin" / name).symlink_to(f"/usr/bin/{program}")
        (output / "toolchain").mkdir()
        toolchain.assemble(arch, fetched, prebuilt, output / "toolchain")
        (output / _DIGEST).write_text(digest_path(output / "toolchain", whole=True))

    inputs = {"packages": fetched.name, "libraries": prebuilt.name, "names": str(_NAMES)}
    # The digest must be computed by the present code, as ccache compares it with that of earlier builds.
    inputs |= digest_code(toolchain, cache)
    name = f"toolchain{arch.suffix}"
    added = sets.cache.step(name, f"Toolchain for Buildroot ({arch.name})", inputs, build)
    return Sandbox(fetched, prebuilt, added, farm)
