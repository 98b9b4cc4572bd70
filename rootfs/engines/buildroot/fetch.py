"""Finds source files: in a mirror that the user names; or by their hash in the source packages of Debian's archive,
then in the Python package index.

Which servers these are, apt and pip of this machine know. What a file is, its hash says: no origin is trusted.
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
"""Of Debian; the first that has a file gives it."""
_HELPER = Path("/usr/lib/apt/apt-helper")
_PROJECT = re.compile(r"(?P<name>[A-Za-z0-9._-]+?)-\d")
_MAX_FILE = 2**30
"""Bytes of a file; the kernel's and QEMU's have some 150 MiB."""
Say = Callable[[str], None]


def fetch(wanted: Sequence[Needed], downloads: Path, say: Say, mirror: str = "") -> list[Needed]:
    """Fetch what can be found; returns what cannot.

    Args:
        wanted: files of which a strong hash is known; others cannot be found.
        downloads: Buildroot's download directory. A file appears there by one rename, when it is what its hash says.
        say: is told of each file.
        mirror: directory, or address of one, laid out as Buildroot's primary site is (BR2_PRIMARY_SITE: each file in
            its package's folder, or flat). Where it is named, nothing else is asked.

    Raises:
        SallyportError: apt has no archive, or cannot read it.
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
    """Each place where it may be; whether it is what was looked for, its hash says."""
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
    """Through a private set of apt's lists: the machine's own stay as they are (apt.conf(5))."""
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
        # apt may keep it compressed.
        for digest, place in _listed(run([_HELPER, "cat-file", index]), set(by_hash)):
            needed = by_hash.pop(digest)
            say(f"{needed.file}: {place}")
            target = folder / digest
            try:
                run([_HELPER, "download-file", f"{uri}{place}", target, f"SHA256:{digest}"])
            except CommandError:
                by_hash[digest] = needed  # listed, and gone: another suite may have it
                continue
            yield needed, target


def _listed(index: str, digests: set[str]) -> Iterator[tuple[str, str]]:
    """Those of ``digests`` that an index of sources has (Debian Policy, section 5.4), and where."""
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
    """The package index that pip uses."""
    try:
        # Warnings may stand before it.
        return run([sys.executable, "-m", "pip", "config", "get", "global.index-url"]).split()[-1]
    except (CommandError, SallyportError):
        return str(PyPI.simple_url)
