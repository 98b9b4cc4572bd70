"""The lock file, apt's sources, and fetching with mmdebstrap (a script in its place)."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from rootfs.base import packages
from rootfs.base.errors import CommandError, SallyportError
from rootfs.base.packages import Package
from tests.unit.rootfs.conftest import Program

DEB = "Package: {0}\nVersion: {1}\nArchitecture: amd64\n"
CONTENTS = """\
drwxr-xr-x root/root 0 2025-01-01 00:00 ./usr/bin/
-rwxr-xr-x root/root 9 2025-01-01 00:00 ./usr/bin/{0}
lrwxrwxrwx root/root 0 2025-01-01 00:00 ./usr/bin/{0}-link -> {0}
"""


def deb(name: str, version: str) -> str:
    return DEB.format(name, version) + CONTENTS.format(name)


def package(name: str, version: str) -> Package:
    return Package(name, version, "amd64", hashlib.sha256(deb(name, version).encode()).hexdigest())


def indextargets(uri: str) -> str:
    """A script that answers as apt-get does, of a machine with one source."""
    row = "\\t".join(("$LIST:1", uri, "bookworm", "oldstable", "main", "Debian", "Debian"))
    return f"""LIST=$(dirname "$0")/../debian.list; printf "{row}\\n\""""


ZLIB, FOO = package("zlib1g", "1:1.3"), package("foo", "2.0-1")


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "LOCK", tmp_path / "packages.lock")
    return packages.LOCK


@pytest.fixture
def archive(tmp_path: Path, program: Program, lock: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with foo 2.0-1 and zlib1g 1:1.3; returns the file with the words of each call of mmdebstrap."""
    calls = tmp_path / "calls"
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "pool").mkdir()
    for one in (FOO, ZLIB):
        (tmp_path / f"pool/{one.name}.deb").write_text(deb(one.name, one.version))
    (tmp_path / "content/usr/bin").mkdir(parents=True)
    (tmp_path / "content/dev").mkdir()
    (tmp_path / "content/usr/bin/foo").write_text("program")
    (tmp_path / "content/dev/null").write_text("")
    (tmp_path / "debian.list").write_text("deb http://deb.example/debian bookworm main\n")
    program("apt-get", indextargets("http://deb.example/debian/"))
    program("apt-config", """echo 'Acquire::http::Proxy "http://me:secret@proxy.example";'""")
    program("dpkg-deb", 'case "$1" in --field) head -n 3 "$2" ;; --contents) tail -n +4 "$2" ;; esac')
    program(
        "mmdebstrap",
        f"""
echo "$*" >>{calls}
for word; do
    case "$word" in
    --extract-hook=*) debs=${{word##* }} ;;
    --include=*) include=${{word#--include=}} ;;
    *.tar) tar=$word ;;
    *.sources) cat "$word" >>{tmp_path}/given ;;
    --aptopt=/*) cat "${{word#--aptopt=}}" >>{tmp_path}/given ;;
    esac
done
case "$include" in
*=9.9*) echo "E: Version '9.9' for 'foo' was not found"; echo half >"$tar"; exit 25 ;;
*nothing*) echo "E: Unable to locate package nothing"; exit 25 ;;
*broken*) cat {tmp_path}/given; echo "E: the mirror is on fire"; exit 25 ;;
esac
cp {tmp_path}/pool/*.deb "$debs"
tar -cf "$tar" -C {tmp_path}/content .
""",
    )
    return calls


class Caller:
    """Calls `fetch` for the set ``host``."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def __call__(self, *include: str, newest: bool = False) -> list[Package]:
        return packages.fetch("host", include, self.output, newest=newest)


@pytest.fixture
def fetch(tmp_path: Path) -> Caller:
    (tmp_path / "output").mkdir()
    return Caller(tmp_path / "output")


def test_the_lock_file_is_read_as_it_is_written(lock: Path) -> None:
    assert packages.read_lock() == {}
    sets = {"host": [ZLIB, FOO], "frontend": [FOO]}
    packages.write_lock(sets)
    assert packages.read_lock() == {"frontend": [FOO], "host": [FOO, ZLIB]}
    assert [path.name for path in lock.parent.iterdir()] == ["packages.lock"]


@pytest.mark.parametrize("line", ["host foo 1.0 amd64", "host foo 1.0 amd64 abc more"])
def test_a_bad_line_of_the_lock_is_named(lock: Path, line: str) -> None:
    lock.write_text(f"# comment\n\nhost foo 1.0 amd64 {'0' * 64}\n{line}\n")
    with pytest.raises(SallyportError) as caught:
        packages.read_lock()
    assert str(caught.value).startswith(f"{lock}:4: ")


def test_the_newest_is_what_the_archive_has(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [package("foo", "9.9")]})
    assert fetch("foo", "zlib1g", newest=True) == [FOO, ZLIB]
    assert packages.load(fetch.output) == [FOO, ZLIB]
    origin = json.loads((fetch.output / "files.json").read_text())
    assert origin["foo"] == ["usr/bin/foo", "usr/bin/foo-link"]
    tree = fetch.output / "tree"
    assert [p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()] == ["usr/bin/foo"]
    assert "--include=foo,zlib1g " in archive.read_text()
    assert "--variant=extract" in archive.read_text()
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_exactly_the_locks_versions_are_asked_for(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [FOO, ZLIB]})
    assert fetch("foo") == [FOO, ZLIB]
    assert "--include=foo=2.0-1,zlib1g=1:1.3 " in archive.read_text()


@pytest.mark.parametrize("locked", [[], [FOO]], ids=["set", "package"])
def test_what_the_lock_does_not_have_is_named(archive: Path, fetch: Caller, locked: list[Package]) -> None:
    packages.write_lock({"tools": [FOO, ZLIB], "host": locked})
    with pytest.raises(SallyportError, match=r"set 'host' lacks .*zlib1g") as caught:
        fetch("foo", "zlib1g")
    assert "invoke image.lock" in caught.value.hint


@pytest.mark.parametrize("gone", ["foo 9.9", "nothing"])
def test_an_archive_that_has_moved_on_is_an_error_that_says_what_to_do(archive: Path, fetch: Caller, gone: str) -> None:
    packages.write_lock({"host": [package(*gone.split()) if " " in gone else package(gone, "1")]})
    with pytest.raises(SallyportError, match=rf"no longer has {gone} \(set 'host'\)") as caught:
        fetch(gone.split()[0])
    assert not isinstance(caught.value, CommandError)
    for way_out in ("`--newest`", "`invoke image.lock`", "snapshot"):
        assert way_out in caught.value.hint
    assert len(archive.read_text().splitlines()) == 1


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_newest_is_an_environment_variable(
    monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool
) -> None:
    monkeypatch.delenv(packages.NEWEST, raising=False)
    if value is not None:
        monkeypatch.setenv(packages.NEWEST, value)
    assert packages.newest() is wanted


def test_what_is_not_as_locked_is_told_package_by_package() -> None:
    now = [package("foo", "3"), package("bar", "1"), ZLIB]
    assert packages.differences(now, [FOO, ZLIB, package("old", "1")]) == [
        "bar none -> 1",
        "foo 2.0-1 -> 3",
        "old 1 -> none",
    ]
    assert packages.differences([FOO], [FOO]) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_neither_umask_nor_place_matters(
    archive: Path, fetch: Caller, umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmdebstrap splits the words of a hook, and its parts run as other users."""
    odd = tmp_path / "a place, 'quoted'"
    odd.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    before = os.umask(umask)
    try:
        fetch("foo", newest=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((fetch.output / "tree/usr/bin/foo").stat().st_mode) == 0o644
    assert str(odd) not in archive.read_text()


def test_a_password_of_a_mirror_is_in_no_command_line_no_message_and_no_tree(
    archive: Path, fetch: Caller, program: Program
) -> None:
    program("apt-get", indextargets("http://me:secret@mirror.example/debian/"))
    packages.write_lock({"host": [package("broken", "1")]})
    with pytest.raises(CommandError) as caught:
        fetch("broken")
    # The failing mmdebstrap prints the sources that it was given.
    given = (archive.parent / "given").read_text()
    assert "me:secret@mirror.example" in given
    assert "me:secret@proxy.example" in given
    assert "***@mirror.example" in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value.hint} {archive.read_text()}"


def test_other_bytes_than_the_locks_are_refused(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [Package("foo", "2.0-1", "amd64", "0" * 64), ZLIB]})
    with pytest.raises(SallyportError, match=r"set 'host': foo 2\.0-1 .* is not as locked"):
        fetch("foo")


def test_a_package_that_is_not_in_the_lock_is_refused(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [FOO]})
    with pytest.raises(SallyportError, match="zlib1g"):
        fetch("foo")


@pytest.mark.parametrize("newest", [True, False])
def test_another_failure_is_not_taken_for_an_old_lock(archive: Path, fetch: Caller, newest: bool) -> None:
    packages.write_lock({"host": [package("broken", "1")]})
    with pytest.raises(CommandError, match="on fire") as caught:
        fetch("broken", newest=newest)
    assert "trixie by /" in caught.value.hint


def test_a_machine_without_mmdebstrap_is_told_what_to_do(
    lock: Path, fetch: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(SallyportError, match="mmdebstrap is not installed") as caught:
        fetch("foo")
    assert "apt-get install mmdebstrap" in caught.value.hint
    assert list(fetch.output.iterdir()) == []
