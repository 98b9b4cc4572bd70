"""Source files are found by their hash, and by nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from rootfs.engines.buildroot import downloads, fetch
from rootfs.engines.buildroot.downloads import Needed, State
from rootfs.engines.buildroot.source import EXTERNAL
from tests.unit.rootfs.conftest import serve

GOOD = b"an archive"
DIGEST = hashlib.sha256(GOOD).hexdigest()
INDEX = f"""\
Package: other
Directory: pool/o/other
Checksums-Sha256:
 {"0" * 64} 10 other_1.orig.tar.gz

Package: m4
Directory: pool/m/m4
Files:
 d41d8cd98f00b204e9800998ecf8427e 10 m4_1.orig.tar.gz
Checksums-Sha256:
 {"1" * 64} 12 m4_1.dsc
 {DIGEST} 10 m4_1.orig.tar.gz
"""


def needed(file: str, *hashes: tuple[str, str]) -> Needed:
    return Needed(("m4",), "m4", file, State.MISSING, Path("nowhere"), hashes)


def test_an_index_of_sources_is_searched_by_hash() -> None:
    assert list(fetch._listed(INDEX, {DIGEST, "2" * 64})) == [(DIGEST, "pool/m/m4/m4_1.orig.tar.gz")]


@pytest.mark.parametrize(
    ("content", "hashes", "there"),
    [
        (GOOD, [("sha256", DIGEST)], True),
        (GOOD + b"\n", [("sha256", DIGEST)], False),
        (GOOD, [("sha256", DIGEST), ("sha512", "0" * 128)], False),
        (GOOD, [("md5", hashlib.md5(GOOD).hexdigest())], False),
        (GOOD, [], False),
    ],
)
def test_only_what_is_what_its_hashes_say_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, hashes: list[tuple[str, str]], there: bool
) -> None:
    def find(wanted: Sequence[Needed], folder: Path, _say: fetch.Say) -> Iterator[tuple[Needed, Path]]:
        for one in wanted:
            (folder / "found").write_bytes(content)
            yield one, folder / "found"

    monkeypatch.setattr(fetch, "_in_archive", find)
    monkeypatch.setattr(fetch, "_in_index", lambda *_: iter(()))
    left = fetch.fetch([needed("m4.tar", *hashes)], tmp_path, lambda _: None)
    assert (left == []) is there
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == (["m4.tar"] if there else [])


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """One file in its folder, another flat, and one that is something else."""
    folder = tmp_path / "a mirror"
    (folder / "m4").mkdir(parents=True)
    for name, content in (("m4/m4+1.tar", GOOD), ("flat.tar", GOOD), ("other.tar", b"something else")):
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("remote", [False, True])
def test_a_mirror_is_asked_where_buildroot_would_and_only_it(
    tmp_path: Path, mirror: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_in_archive", "_in_index"):
        monkeypatch.setattr(fetch, name, lambda *_: pytest.fail("somebody else was asked"))
    wanted = [needed(name, ("sha256", DIGEST)) for name in ("m4+1.tar", "flat.tar", "other.tar", "absent.tar")]
    served = serve(mirror) if remote else nullcontext(str(mirror))
    with served as address:
        left = fetch.fetch(wanted, tmp_path / "dl", lambda _: None, address)
    assert [one.file for one in left] == ["other.tar", "absent.tar"]
    assert {path.name for path in (tmp_path / "dl").rglob("*.tar")} == {"m4+1.tar", "flat.tar"}
    assert (tmp_path / "dl/m4/flat.tar").read_bytes() == GOOD


def _overridden() -> list[tuple[str, str]]:
    text = (EXTERNAL / "overrides.mk").read_text()
    return re.findall(r"^override (\w+)_SOURCE = (\S+)$", text, re.MULTILINE)


@pytest.mark.parametrize(("package", "file"), _overridden())
def test_each_file_of_another_version_has_a_hash_of_ours(package: str, file: str) -> None:
    name = package.lower().replace("_", "-")
    hashes = downloads.read_hashes(EXTERNAL / "patches" / name / f"{name}.hash")
    assert len(hashes[file]["sha256"]) == 64
