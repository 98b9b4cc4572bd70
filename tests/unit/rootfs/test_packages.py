"""The lock file, apt's sources, and fetching with mmdebstrap (a script in its place)."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pytest

from rootfs.debian import packages
from rootfs.debian.packages import Package
from rootfs.errors import CommandError, SallyportError
from tests.unit.rootfs.conftest import Program

APT = """\
http://deb.example/debian/ bookworm main Debian
http://deb.example/debian/ bookworm contrib Debian
http://deb.example/debian/ bookworm-updates main Debian
http://deb.example/debian/ bookworm-backports main Debian Backports
http://deb.example/debian-security/ bookworm-security main Debian
http://deb.example/debian/ bookworm main Debian
https://browser.example/deb/ stable main Browser Inc.
https://nodes.example nodistro main Nodes
"""
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
    program("apt-get", f"cat <<'END'\n{APT}END")
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
    esac
done
case "$include" in
*=9.9*) echo "E: Version '9.9' for 'foo' was not found"; echo half >"$tar"; exit 25 ;;
*broken*) echo "E: the mirror is on fire"; exit 25 ;;
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
        self.said: list[str] = []

    def __call__(self, *include: str, locked: bool = False) -> list[Package]:
        return packages.fetch("host", include, self.output, locked=locked, say=self.said.append)


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


def test_the_archive_is_the_one_that_apt_has_in_our_suite(archive: Path) -> None:
    signed = f"[signed-by={packages.KEYRING}]"
    assert packages.archive() == [
        f"deb {signed} http://deb.example/debian/ trixie main",
        f"deb {signed} http://deb.example/debian/ trixie-updates main",
        f"deb {signed} http://deb.example/debian-security/ trixie-security main",
    ]


@pytest.mark.parametrize("printed", ["", "https://browser.example/deb/ stable main Browser Inc."])
def test_a_machine_whose_apt_knows_no_debian_is_told(program: Program, printed: str) -> None:
    program("apt-get", f"echo '{printed}'")
    with pytest.raises(SallyportError, match="no Debian archive") as caught:
        packages.archive()
    assert "sources.list" in caught.value.hint


def test_without_a_lock_the_archives_present_versions_are_fetched(archive: Path, fetch: Caller) -> None:
    assert fetch("foo", "zlib1g") == [FOO, ZLIB]
    assert fetch.said == []
    assert packages.load(fetch.output) == [FOO, ZLIB]
    origin = json.loads((fetch.output / "files.json").read_text())
    assert origin["foo"] == ["usr/bin/foo", "usr/bin/foo-link"]
    tree = fetch.output / "tree"
    assert [p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()] == ["usr/bin/foo"]
    assert "--include=foo,zlib1g " in archive.read_text()
    assert "--variant=extract" in archive.read_text()
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_with_a_lock_exactly_its_versions_are_asked_for(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [FOO, ZLIB]})
    assert fetch("foo", locked=True) == [FOO, ZLIB]
    assert "--include=foo=2.0-1,zlib1g=1:1.3 " in archive.read_text()


def test_a_lock_without_the_set_is_enough_only_when_nobody_insists(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"tools": [FOO]})
    with pytest.raises(SallyportError, match="no packages for 'host'"):
        fetch("foo", locked=True)
    assert fetch("foo") == [FOO, ZLIB]


def test_an_archive_that_has_moved_on_is_said_and_used(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [package("foo", "9.9")]})
    assert fetch("foo") == [FOO, ZLIB]
    assert len(fetch.said) == 1
    assert "moved on" in fetch.said[0]
    assert "1 packages of set 'host'" in fetch.said[0]
    assert "--include=foo " in archive.read_text().splitlines()[1]


def test_an_archive_that_has_moved_on_is_an_error_when_somebody_insists(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [package("foo", "9.9")]})
    with pytest.raises(SallyportError, match=r"no longer has foo 9\.9") as caught:
        fetch("foo", locked=True)
    assert not isinstance(caught.value, CommandError)
    assert len(archive.read_text().splitlines()) == 1


def test_other_bytes_than_the_locks_are_refused(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [Package("foo", "2.0-1", "amd64", "0" * 64), ZLIB]})
    with pytest.raises(SallyportError, match=r"set 'host': foo 2\.0-1 .* is not what is locked"):
        fetch("foo")


def test_a_package_that_is_not_in_the_lock_is_refused(archive: Path, fetch: Caller) -> None:
    packages.write_lock({"host": [FOO]})
    with pytest.raises(SallyportError, match="zlib1g"):
        fetch("foo")


@pytest.mark.parametrize("locked", [True, False])
def test_another_failure_is_not_taken_for_an_old_lock(archive: Path, fetch: Caller, locked: bool) -> None:
    packages.write_lock({"host": [package("broken", "1")]})
    with pytest.raises(CommandError, match="on fire"):
        fetch("foo", locked=locked)
    assert fetch.said == []


def test_a_machine_without_mmdebstrap_is_told_what_to_do(
    lock: Path, fetch: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(SallyportError, match="mmdebstrap is not installed") as caught:
        fetch("foo")
    assert "apt-get install mmdebstrap" in caught.value.hint
    assert list(fetch.output.iterdir()) == []
