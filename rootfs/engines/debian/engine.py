"""Engine ``debian``: reads a Buildroot defconfig through ``map.toml`` and makes the tree it describes from packages."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.markup import escape

from rootfs.base import apt_sources, licenses, packages, process
from rootfs.base import tools_tree as tools
from rootfs.base.cache import Cache, digest_code
from rootfs.base.errors import OfflineError, SallyportError
from rootfs.base.licenses import Licenses
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT, shown
from rootfs.engines import select_files
from rootfs.spec import architecture as arch
from rootfs.spec import defconfig
from rootfs.spec.architecture import ALL, X86_64, Arch
from rootfs.spec.defconfig import Symbol

MAP = Path(__file__).parent / "map.toml"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    packages: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    value: str = "y"
    means: str = ""


class _Map(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    tools: _Entry
    peers: _Entry
    workshop: _Entry
    compare: _Entry
    cross: dict[str, _Entry]
    prebuilt: _Entry
    boot: _Entry
    sysroot: _Entry
    emulator: dict[str, _Entry]
    kernel: dict[str, _Entry]
    always: _Entry
    symbols: dict[str, _Entry]


@dataclass(frozen=True)
class Wish:
    """What a defconfig asks for, in Debian's terms."""

    packages: tuple[str, ...]
    keep: tuple[str, ...]
    hostname: str
    overlays: tuple[Path, ...]


def read_map() -> _Map:
    """The declared map.

    Raises:
        SallyportError: a field is unknown or of the wrong type.
    """
    try:
        return _Map.model_validate(tomllib.loads(MAP.read_text()))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise SallyportError(f"{MAP}: {error}", "mend the map") from error


def translate(symbols: dict[str, Symbol], arch: Arch = X86_64) -> Wish:
    """Turn a defconfig for an architecture into packages, files and settings.

    Raises:
        SallyportError: the map does not know a symbol, or cannot serve its value; names file, line and symbol.
    """
    table = read_map()
    wanted, keep = list(table.always.packages), list(table.always.keep)
    hostname, overlays = "", []
    for symbol in symbols.values():
        entry = table.symbols.get(symbol.name)
        if entry is None:
            close = difflib.get_close_matches(symbol.name, table.symbols, n=1)
            guess = f"did you mean {close[0]}? otherwise " if close else ""
            raise SallyportError(
                f"{symbol.where}: {MAP.name} does not know the symbol {symbol.name}",
                f"{guess}add it to {shown(MAP)}",
            )
        if entry.value not in ("*", symbol.value):
            raise SallyportError(
                f"{symbol.where}: {symbol.name} is {symbol.value!r}, and {MAP.name} serves {entry.value!r} alone",
                "change it back, or teach the map",
            )
        wanted += entry.packages
        keep += entry.keep
        if symbol.name == "BR2_TARGET_GENERIC_HOSTNAME":
            hostname = symbol.value
        if symbol.name == "BR2_ROOTFS_OVERLAY":
            overlays = [_overlay(symbol, word) for word in symbol.value.split()]
    keep = [arch.spell(glob) for glob in keep]
    return Wish(tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(keep)), hostname, tuple(overlays))


def _overlay(symbol: Symbol, word: str) -> Path:
    directory = Path(word.replace("$(BR2_EXTERNAL_SALLYPORT_PATH)", str(PROJECT / "rootfs/external"))).resolve()
    if not directory.is_dir():
        raise SallyportError(f"{symbol.where}: {symbol.name}: no directory {directory}", "mend the path")
    return directory


class Engine:
    """Makes trees in a cache.

    Args:
        cache: where they are kept.
        arch: what the trees are for. What the build needs is for the build machine.
        offline: whether packages that are not here are an `OfflineError`.
        newest: see `packages.fetch`; if it is not said, the environment says it.
    """

    name = "debian"
    leaner = False
    """Whether what the map takes out may not be there to begin with."""
    linux = "linux-image-"
    """How the names of the packages begin that have a kernel."""

    as_of = datetime.now(UTC).date().isoformat()
    """When what is newest was so: it is asked for again on another day. The same all through a run."""

    def __init__(self, cache: Cache, *, arch: Arch = X86_64, offline: bool = False, newest: bool | None = None) -> None:
        self.cache = cache
        self.arch = arch
        self.offline = offline
        self.newest = packages.newest() if newest is None else newest

    def _fetch(self, name: str, include: Sequence[str], arch: Arch = X86_64) -> Path:
        name += arch.suffix
        include = [arch.spell(package) for package in include]
        lock = packages.read_lock().get(name, [])
        inputs = {"packages": " ".join(sorted(include)), "suite": apt_sources.SUITE}
        inputs |= {"arch": arch.debian} if arch is not X86_64 else {}
        versions = self.as_of if self.newest else json.dumps([asdict(package) for package in lock])
        inputs |= {"newest of" if self.newest else "packages.lock": versions} | digest_code(
            packages, process, apt_sources
        )
        if self.offline and not self.cache.has(f"packages-{name}", inputs):
            raise OfflineError(f"Debian packages for {name}")

        def build(output: Path) -> None:
            packages.fetch(name, include, output, arch=arch.debian, newest=self.newest, progress=self.cache.progress)

        output = self.cache.step(f"packages-{name}", f"Debian packages for {name}", inputs, build)
        if self.newest and (others := packages.differences(packages.load(output), lock)):
            self._tell(f"not as {packages.LOCK.name} has it (--newest): {', '.join(others)}")
        return output

    def _tell(self, sentence: str) -> None:
        self.cache.console.print(f"  [yellow]![/] {escape(sentence)}", highlight=False)

    def prepare(self, flavours: Iterable[str]) -> None:
        """Have everything that an image is made of, before it is made.

        Args:
            flavours: of kernels, as `kernel` has them.

        Raises:
            OfflineError: as `require`.
        """
        self.require(*self.needs(flavours))

    def require(self, *needs: Callable[[], object]) -> None:
        """Make all of these, or say in one go what is not here.

        Raises:
            OfflineError: and --offline forbids to fetch it.
        """
        lacks = []
        for need in needs:
            try:
                need()
            except OfflineError as error:
                lacks.append(error.what)
        if lacks:
            raise OfflineError(", ".join(dict.fromkeys(lacks)))

    def needs(self, flavours: Iterable[str]) -> list[Callable[[], object]]:
        """What an image is made of that has to be fetched: each a call that makes it, if need be.

        Args:
            flavours: of kernels, as `kernel` has them.
        """
        wishes = {
            name: translate(defconfig.merged(self.arch.configs(name, c)), self.arch)
            for name, c in defconfig.ALL.items()
        }
        return [
            *self.needs_always(),
            *(partial(self.kernel, "", flavour) for flavour in sorted(set(flavours))),
            *(partial(self.contents, name, wish) for name, wish in wishes.items()),
        ]

    def needs_always(self) -> list[Callable[[], object]]:
        """Of `needs`, what an image is made by, whatever is in it."""
        needs: list[Callable[[], object]] = [lambda: self.tools, lambda: self.boot]
        return needs if self.arch is X86_64 else [*needs, lambda: self.sysroot]

    @cached_property
    def tools(self) -> Tools:
        """The tools tree, made if need be."""
        return Tools(self._fetch("tools", read_map().tools.packages) / "tree")

    @cached_property
    def peers(self) -> Tools:
        """Other people's programs that benchmarks compare ours with; made if need be."""
        return Tools(self._fetch("peers", read_map().peers.packages) / "tree")

    @cached_property
    def explain(self) -> Tools:
        """What explains how two images differ; made if need be."""
        return Tools(self._fetch("compare", read_map().compare.packages) / "tree")

    @cached_property
    def workshop(self) -> Path:
        """The user land in which Buildroot runs (``tree``, ``files.json``); made if need be."""
        table = read_map()
        if self.arch is X86_64:
            return self._fetch("workshop", table.workshop.packages)
        cross = table.cross[self.arch.name].packages
        return self._fetch(f"workshop-{self.arch.name}", [*table.workshop.packages, *cross])

    @cached_property
    def prebuilt(self) -> Path:
        """What Buildroot does not build (``tree``, ``files.json``, ``packages.json``); made if need be."""
        return (
            self.workshop if self.arch is X86_64 else self._fetch("prebuilt", read_map().prebuilt.packages, self.arch)
        )

    @cached_property
    def boot(self) -> Path:
        """What boots an image (``tree``, ``packages.json``): the EFI stub; made if need be."""
        return self._fetch("boot", read_map().boot.packages, self.arch)

    @cached_property
    def sysroot(self) -> Tools:
        """Headers and libraries to link with, for an architecture that is not the build machine's; made if need be."""
        return Tools(self._fetch("sysroot", read_map().sysroot.packages, self.arch) / "tree")

    @cached_property
    def emulator(self) -> Tools:
        """What has the QEMU that boots images; made if need be."""
        if self.arch is X86_64:
            return self.tools
        return Tools(self._fetch(f"emulator-{self.arch.name}", read_map().emulator[self.arch.name].packages) / "tree")

    def kernel(self, _name: str, flavour: str) -> Path:
        """A directory whose ``tree`` has boot/vmlinuz-* and usr/lib/modules, with ``packages.json`` and its licences.

        Args:
            name: of the defconfig, out of `defconfig.ALL`.
            flavour: which kernel, out of the map's.
        """
        return self._fetch(f"kernel-{flavour}", read_map().kernel[flavour].packages, self.arch)

    def contents(self, name: str, wish: Wish) -> Path:
        """All that a defconfig wants: ``tree``, ``packages.json``, and ``files.json``, what each package brought."""
        return self._fetch(name, wish.packages, self.arch)

    def licenses(self, contents: Path, names: Sequence[str]) -> dict[str, Licenses]:
        """The licences of packages of `contents` or of a `kernel`."""
        return licenses.read(contents / "tree", names)

    def root(self, name: str, config: Path) -> tuple[Path, Wish]:
        """The tree that a defconfig describes, without overlays, Python compiled.

        Returns:
            a directory with ``tree``, ``packages.json`` (the packages that something was kept of) and their
            ``licenses.json``; and the wish.
        """
        wish = translate(defconfig.merged(self.arch.configs(name, config)), self.arch)
        contents = self.contents(name, wish)
        toolbox = self.tools
        inputs = {"packages": contents.name, "keep": "\n".join(wish.keep), "tools": toolbox.tree.parent.name}
        inputs |= digest_code(arch, licenses, select_files, tools)

        def build(output: Path) -> None:
            tree = output / "tree"
            tree.mkdir()
            chosen = select_files.choose(contents / "tree", wish.keep, str(MAP), self.arch, idle=self.leaner)
            select_files.copy(contents / "tree", chosen, tree)
            compile_python(toolbox, output, "tree/usr/lib")
            origin = json.loads((contents / "files.json").read_text())
            inside = set(chosen)
            kept = [p for p in packages.load(contents) if any(_merged(f) in inside for f in origin[p.name])]
            (output / "packages.json").write_text(json.dumps([asdict(package) for package in kept]))
            licenses.save(self.licenses(contents, [p.name for p in kept]), output / licenses.FILE)

        return self.cache.step(f"base-{name}{self.arch.suffix}", f"Files of {name}", inputs, build), wish

    def lock(self) -> dict[str, list[packages.Package]]:
        """Resolve all sets anew against the archive, for the lock file."""
        table = read_map()
        newest = {arch.name: Engine(self.cache, arch=arch, newest=True) for arch in ALL.values()}
        for engine in newest.values():
            engine.as_of = datetime.now(UTC).isoformat(timespec="seconds")
        here = newest[X86_64.name]
        made = [here.tools.tree.parent, here.peers.tree.parent, here.explain.tree.parent]
        for engine in newest.values():
            made += [engine.kernel("", flavour) for flavour in table.kernel]
            for name, config in defconfig.ALL.items():
                wish = translate(defconfig.merged(engine.arch.configs(name, config)), engine.arch)
                made.append(engine.contents(name, wish))
            made += [engine.boot, engine.workshop]
            if engine is not here:
                made += [engine.sysroot.tree.parent, engine.emulator.tree.parent, engine.prebuilt]
        return {_set_name(output): packages.load(output) for output in made}


def _set_name(output: Path) -> str:
    """The set that `Engine._fetch` made."""
    return output.name.removeprefix("packages-").rsplit("-", 1)[0]


def _merged(path: str) -> str:
    """The path after the merge of / and /usr (https://wiki.debian.org/UsrMerge)."""
    return f"usr/{path}" if path.split("/", 1)[0] in ("bin", "sbin", "lib", "lib64") else path


def compile_python(toolbox: Tools, build: Path, directory: str) -> None:
    """Compile every module below ``build/directory`` and drop the sources.

    The byte code's file is marked unchecked (PEP 552), so that it holds no time stamp and needs no source; the path
    that tracebacks show is the one on the target.
    """
    top = directory.split("/", 1)[0]
    toolbox.run(
        [
            *("python3", "-m", "compileall", "-q", "-b", "-f", "-j1", "--invalidation-mode", "unchecked-hash"),
            *("-s", f"/build/{top}", "-p", "/", f"/build/{directory}"),
        ],
        build=build,
        env={"PYTHONHASHSEED": "0"},
    )
    for source in (build / directory).rglob("*.py"):
        if source.with_suffix(".pyc").exists():
            source.unlink()
