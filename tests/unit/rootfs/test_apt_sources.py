"""What is made of the machine's own apt sources (apt-get is a script; entries are files of either format)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rootfs.base import apt_sources
from rootfs.base.apt_sources import KEYRING, Source
from rootfs.base.errors import SallyportError
from tests.unit.rootfs.conftest import Program

URI = "http://deb.example/debian/"
SECURITY = "http://deb.example/debian-security/"
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEZ\n -----END PGP PUBLIC KEY BLOCK-----"
Row = tuple[str, str, str, str, str, str, str]
Apt = Callable[..., None]
"""What apt-get says: an entry, the archive, release, suite; then component, origin and label."""


def row(entry: Path | str, uri: str, release: str, suite: str = "", *more: str) -> Row:
    component, origin, label = (*more, *("main", "Debian", "Debian")[len(more) :])
    return (str(entry), uri, release, suite or release, component, origin, label)


@pytest.fixture
def apt(program: Program, tmp_path: Path) -> Apt:
    def says(*rows: Row) -> None:
        (tmp_path / "said").write_text("".join("\t".join(words) + "\n" for words in rows))
        program("apt-get", f"cat '{tmp_path}/said'")

    return says


@pytest.fixture
def one_line(tmp_path: Path) -> Callable[[str], str]:
    def write(options: str) -> str:
        (tmp_path / "a.list").write_text(f"# comment\ndeb {options} {URI} bookworm main\n")
        return f"{tmp_path / 'a.list'}:2"

    return write


@pytest.fixture
def deb822(tmp_path: Path) -> Callable[[str], str]:
    def write(fields: str) -> str:
        stanza = f"Types: deb deb-src\n# comment\nURIs: {URI}\nSuites: bookworm bookworm-updates\nComponents: main\n"
        (tmp_path / "a.sources").write_text(f"Types: deb\nURIs: x\nSuites: x\nSigned-By: /no\n\n{stanza}{fields}")
        return f"{tmp_path / 'a.sources'}:2"

    return write


@pytest.mark.parametrize(
    ("release", "suite", "label", "wanted"),
    [
        ("bookworm", "oldstable", "Debian", "trixie"),
        ("oldstable", "oldstable", "Debian", "trixie"),
        ("trixie", "stable", "Debian", "trixie"),
        ("unstable", "unstable", "Debian", "trixie"),
        ("sid", "unstable", "Debian", "trixie"),
        ("duke", "testing", "Debian", "trixie"),
        ("bookworm-updates", "oldstable-updates", "Debian", "trixie-updates"),
        ("bookworm-security", "oldstable-security", "Debian-Security", "trixie-security"),
        ("oldstable/updates", "oldstable-security", "Debian-Security", "trixie-security"),
    ],
)
def test_a_suite_by_any_name_leads_to_ours(
    apt: Apt, one_line: Callable[[str], str], release: str, suite: str, label: str, wanted: str
) -> None:
    entry = one_line("")
    apt(row(entry, URI, "bookworm"), row(entry, SECURITY, release, suite, "main", "Debian", label))
    assert (wanted, SECURITY) in {(source.suite, source.uri) for source in apt_sources.archive()}


@pytest.mark.parametrize(
    "other",
    [
        row("/x:1", URI, "bookworm", "oldstable", "contrib"),
        row("/x:1", URI, "bookworm-backports", "", "main", "Debian Backports"),
        row("/x:1", URI, "bookworm-proposed-updates"),
        row("/x:1", URI, "rc-buggy", "experimental"),
        row("/x:1", "https://browser.example/deb/", "stable", "", "main", "Browser Inc."),
        row("/x:1", "https://nodes.example", "nodistro", "", "main", "Nodes"),
    ],
    ids=lambda other: f"{other[2]} {other[4]} {other[5]}",
)
def test_what_is_no_debian_release_is_not_taken(apt: Apt, one_line: Callable[[str], str], other: Row) -> None:
    apt(other, row(one_line(""), URI, "bookworm"))
    assert [source.suite for source in apt_sources.archive()] == ["trixie"]
    apt(other)
    with pytest.raises(SallyportError, match="no Debian archive") as caught:
        apt_sources.archive()
    assert "sources.list" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "fields", "wanted"),
    [
        ("", "", {"signed-by": str(KEYRING)}),
        ("[signed-by=/k/own.gpg]", "Signed-By: /k/own.gpg\n", {"signed-by": "/k/own.gpg"}),
        ("[ signed-by=/a.gpg,/b.gpg ]", "signed-by: /a.gpg /b.gpg\n", {"signed-by": "/a.gpg /b.gpg"}),
        ("[signed-by=0123ABCD!]", "Signed-By: 0123ABCD!\n", {"signed-by": "0123ABCD!"}),
        (None, f"Signed-By:\n {KEY}\n", {"signed-by": f"\n {KEY}"}),
        ("[trusted=yes]", "Trusted: yes\n", {"trusted": "yes"}),
        ("[trusted=no]", "Trusted: no\n", {"trusted": "no", "signed-by": str(KEYRING)}),
        (
            "[check-valid-until=no allow-weak=yes by-hash=force signed-by=/k]",
            "Check-Valid-Until: no\nAllow-Weak: yes\nBy-Hash: force\nSigned-By: /k\n",
            {"check-valid-until": "no", "allow-weak": "yes", "by-hash": "force", "signed-by": "/k"},
        ),
        (
            "[arch=amd64,arm64 lang-=de target=Packages signed-by=/k]",
            "Architectures: amd64 arm64\nLanguages-Remove: de\nTargets: Packages\nSigned-By: /k\nX-Repolib-Name: x\n",
            {"signed-by": "/k"},
        ),
        ("[Arch=amd64 Signed-By=/k]", "ARCHITECTURES: amd64\nSIGNED-BY: /k\n", {"signed-by": "/k"}),
    ],
)
def test_how_an_archive_is_checked_is_kept_in_either_format(
    apt: Apt,
    one_line: Callable[[str], str],
    deb822: Callable[[str], str],
    options: str | None,
    fields: str,
    wanted: dict[str, str],
) -> None:
    entries = [deb822(fields)] + ([one_line(options)] if options is not None else [])
    for entry in entries:
        apt(row(entry, URI, "bookworm"))
        (source,) = apt_sources.archive("amd64")
        assert {name.lower(): value for name, value in source.options} == wanted
        assert source.where == entry


def test_what_is_made_is_understood_as_it_was_meant(apt: Apt, deb822: Callable[[str], str], tmp_path: Path) -> None:
    """Written and read again: an embedded key is a field of several lines."""
    apt(row(deb822(f"Check-Valid-Until: no\nSigned-By:\n {KEY}\n"), URI, "bookworm"))
    (source,) = apt_sources.archive()
    (tmp_path / "b.sources").write_text(source.stanza("deb-src", ["trixie", "sid"]))
    apt(row(tmp_path / "b.sources:1", URI, "sid"))
    (again,) = apt_sources.archive()
    assert again.options == source.options
    assert again.stanza() == source.stanza()


@pytest.mark.parametrize(
    ("options", "arch", "taken"),
    [
        ("", "arm64", True),
        ("[arch=amd64]", "amd64", True),
        ("[arch=amd64]", "arm64", False),
        ("[arch=amd64 arch+=arm64]", "arm64", True),
        ("[arch-=arm64]", "arm64", False),
        ("[arch-=arm64]", "amd64", True),
    ],
)
def test_an_entry_that_leaves_an_architecture_out_is_not_taken_and_named(
    apt: Apt, one_line: Callable[[str], str], options: str, arch: str, taken: bool
) -> None:
    entry = one_line(options)
    apt(row(entry, URI, "bookworm"))
    if taken:
        assert len(apt_sources.archive(arch)) == 1
    else:
        with pytest.raises(SallyportError, match=f"exclude the architecture {arch}: {entry}"):
            apt_sources.archive(arch)


@pytest.mark.parametrize(
    ("number", "text"), [("2", "deb"), ("9", ""), ("x", "")], ids=["no entry", "no such line", "no number"]
)
def test_an_entry_that_is_not_understood_is_named(apt: Apt, tmp_path: Path, number: str, text: str) -> None:
    (tmp_path / "a.list").write_text(f"\nsomething else {text}\n")
    apt(row(f"{tmp_path / 'a.list'}:{number}", URI, "bookworm"))
    with pytest.raises(SallyportError, match=f"a.list:{number}: "):
        apt_sources.archive()


def test_an_option_that_is_of_one_suite_is_named(apt: Apt, one_line: Callable[[str], str]) -> None:
    apt(row(entry := one_line("[inrelease-path=x]"), URI, "bookworm"))
    with pytest.raises(SallyportError, match=f"{entry}: inrelease-path"):
        apt_sources.archive()


def test_two_entries_of_one_archive_are_one_and_that_of_our_suite_counts(apt: Apt, tmp_path: Path) -> None:
    """apt refuses two sources of the same suite whose keys differ."""
    (tmp_path / "a.list").write_text("deb [signed-by=/old] x bookworm main\ndeb [signed-by=/new] x trixie main\n")
    apt(row(tmp_path / "a.list:1", URI, "bookworm"), row(tmp_path / "a.list:2", URI, "trixie", "stable"))
    assert [dict(source.options)["Signed-By"] for source in apt_sources.archive()] == ["/new"]


def test_how_apt_reaches_archives_is_kept_and_nothing_else(program: Program) -> None:
    """A proxy, a snapshot's age, a certificate; but not that unsigned archives are allowed."""
    kept = [
        'Acquire::http::Proxy "http://me:secret@proxy.example:3128";',
        'Acquire::https::deb.example::CAInfo "/etc/own.pem";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Max-ValidTime::Debian "86400";',
        'Acquire::Retries "3";',
        'Acquire::ForceIPv4 "true";',
    ]
    others = [
        'Acquire "";',
        'Acquire::http "";',
        'Acquire::http::Proxy "";',
        'Acquire::AllowInsecureRepositories "1";',
        'Acquire::Languages:: "de";',
        'Acquire::IndexTargets::deb::Packages::MetaKey "x";',
        'APT::Update::Post-Invoke:: "rm -f /x";',
    ]
    program("apt-config", "cat <<'END'\n" + "\n".join([*others, *kept, *others]) + "\nEND")
    said = apt_sources.settings().splitlines()
    assert said[: len(kept)] == kept
    assert all(line.startswith("Dir::Etc::netrc") for line in said[len(kept) :])


def test_a_source_that_is_shown_shows_no_password() -> None:
    source = Source("http://me:secret@mirror.example/", "trixie", where="/a.list:1")
    assert "secret" not in f"{source} {apt_sources.told([source])}"
