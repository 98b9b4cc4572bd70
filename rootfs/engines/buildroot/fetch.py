"""Finds source files of Buildroot's packages: in a mirror that the user names, or by their SHA-256 among the source
packages of Debian's archive, and then in the Python package index.

The servers are those that apt and pip of this machine are configured for. No origin is trusted: a file is accepted only
if it has the declared digest.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from debian.deb822 import Sources
from pip._internal.models.index import PyPI
from unearth import PackageFinder

from rootfs.base import apt_sources
from rootfs.base.download import download, is_address
from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.process import run
from rootfs.base.scratch import scratch
from rootfs.engines.buildroot.downloads import Needed, State, state

SUITES = ("trixie", "bookworm", "forky", "sid")
"""Suites of Debian, in the order in which a file is looked for."""
_HELPER = Path("/usr/lib/apt/apt-helper")
_PROJECT = re.compile(r"(?P<name>[A-Za-z0-9._-]+?)-\d")
_MAX_FILE = 2**30
"""Bytes of a source file; those of the kernel and of QEMU have about 150 MiB."""
Say = Callable[[str], None]


def fetch(wanted: Sequence[Needed], downloads: Path, say: Say, mirror: str = "") -> list[Needed]:
    """Fetch the files that can be found; returns those that cannot.

    Args:
        wanted: files with a declared strong digest; others cannot be found.
        downloads: Buildroot's download directory. A file appears there by one rename, after its digest was checked.
        say: is called with a line about each file, to show progress.
        mirror: directory, or address of one, laid out as Buildroot's primary site is (BR2_PRIMARY_SITE: each file in
            its package's folder, or flat). If it is given, no other place is tried.

    Raises:
        SallyportError: apt has no source of Debian, or cannot read the archive.
    """
    left = {(needed.folder, needed.file): needed for needed in wanted}
    with scratch("sallyport-fetch-") as temporary:
        for find in (partial(_in_mirror, mirror),) if mirror else (_in_archive, _in_index):
            for needed, path in find(list(left.values()), temporary, say):
                key = needed.folder, needed.file
                if key in left and state(path, needed.hashes) is State.THERE:
                    _place(path, downloads / needed.folder / needed.file)
                    del left[key]
    return list(left.values())


def _place(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    shutil.copyfile(path, new)
    new.replace(target)


def _in_mirror(mirror: str, wanted: Sequence[Needed], folder: Path, say: Say) -> Iterator[tuple[Needed, Path]]:
    """Files at the places where a mirror may have the wanted ones; the caller checks their digests."""
    for needed in wanted:
        for place in (f"{needed.folder}/{needed.file}", needed.file):
            path = Path(mirror) / place
            if is_address(mirror):
                path = folder / needed.file
                try:
                    download(f"{mirror.rstrip('/')}/{quote(place)}", path, _MAX_FILE, lambda _: None, "")
                except SallyportError as error:
                    say(str(error))
                    continue
            if path.is_file():
                say(f"{needed.file}: {place}")
                yield needed, path


def _in_archive(wanted: Sequence[Needed], folder: Path, say: Say) -> Iterator[tuple[Needed, Path]]:
    """Look in the source packages of Debian, by a private set of apt's lists: the machine's own are not changed."""
    by_hash = {dict(needed.hashes)["sha256"]: needed for needed in wanted if "sha256" in dict(needed.hashes)}
    if not by_hash:
        return
    lists = folder / "debian.sources"
    lists.touch(mode=0o600)
    lists.write_text(apt_sources.archive()[0].stanza("deb-src", SUITES))
    options = []
    for name, place in (("State::Lists", "lists"), ("Cache", "cache")):
        (folder / place / "partial").mkdir(parents=True)
        options += ["-o", f"Dir::{name}={folder / place}"]
    options += ["-o", f"Dir::Etc::SourceList={lists}", "-o", "Dir::Etc::SourceParts=/dev/null"]
    say(f"reading the source packages of {', '.join(SUITES)}")
    run(["apt-get", *options, "update"])
    found = run(["apt-get", *options, "indextargets", "--format", "$(REPO_URI) $(FILENAME)", "Created-By: Sources"])
    for line in found.splitlines():
        uri, _, index = line.partition(" ")
        # apt may keep the index compressed.
        for digest, place in _listed(run([_HELPER, "cat-file", index]), set(by_hash)):
            needed = by_hash.pop(digest)
            say(f"{needed.file}: {place}")
            target = folder / digest
            try:
                run([_HELPER, "download-file", f"{uri}{place}", target, f"SHA256:{digest}"])
            except CommandError:
                by_hash[digest] = needed  # listed but no longer there: another suite may have it
                continue
            yield needed, target


def _listed(index: str, digests: set[str]) -> Iterator[tuple[str, str]]:
    """Those of ``digests`` that an index of sources lists (Debian Policy, section 5.4), each with its path."""
    for paragraph in index.split("\n\n"):
        if digests.isdisjoint(re.findall(r"^ ([0-9a-f]{64}) ", paragraph, re.MULTILINE)):
            continue
        source = Sources(paragraph)
        for file in source["Checksums-Sha256"]:
            if file["sha256"] in digests:
                digests.remove(file["sha256"])
                yield file["sha256"], f"{source['Directory']}/{file['name']}"


def _in_index(wanted: Sequence[Needed], folder: Path, say: Say) -> Iterator[tuple[Needed, Path]]:
    finder = PackageFinder(index_urls=[_index()])
    for needed in wanted:
        project = _PROJECT.match(needed.file)
        if project is None or not needed.folder.startswith(("python-", "meson")):
            continue
        try:
            found = next((p for p in finder.find_all_packages(project["name"]) if p.link.filename == needed.file), None)
            if found is None:
                continue
            say(f"{needed.file}: package index")
            answer = finder.session.get(found.link.normalized)
            answer.raise_for_status()
        except Exception as error:
            say(f"{needed.file}: {error}")
            continue
        target = folder / needed.file
        target.write_bytes(answer.content)
        yield needed, target


def _index() -> str:
    """The address of the package index that pip is configured for."""
    try:
        # pip may print warnings before the address.
        return run([sys.executable, "-m", "pip", "config", "get", "global.index-url"]).split()[-1]
    except (CommandError, SallyportError):
        return str(PyPI.simple_url)
