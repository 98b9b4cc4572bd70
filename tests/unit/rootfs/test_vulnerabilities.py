"""Known vulnerabilities: which version is affected, and what cannot be told is not called safe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rootfs.artifact import sbom, vulnerabilities
from rootfs.base.errors import SallyportError
from rootfs.base.packages import Package, origin

LIBC = Package("libc6", "2.41-12", "amd64", "ab" * 32, "glibc", "2.41-12")
ZLIB = Package("zlib1g", "1:1.3+b1", "amd64", "cd" * 32, "zlib", "1:1.3")


def issue(status: str, fixed: str = "", urgency: str = "not yet assigned", release: str = "trixie") -> dict[str, Any]:
    known = {"status": status, "urgency": urgency, "repositories": {release: "1"}} | (
        {"fixed_version": fixed} if fixed else {}
    )
    return {"description": "a [bold]hole[/]\nin it", "scope": "remote", "releases": {release: known}}


@pytest.fixture
def bill(tmp_path: Path) -> Path:
    parts = [sbom.Part("host", "", [LIBC, ZLIB], {}, "backend"), sbom.Part("frontend", "", [LIBC], {}, "frontend_vm")]
    file = tmp_path / "image.cdx.json"
    file.write_text(sbom.document("image", "1", "00" * 32, parts))
    return file


def find(bill: Path, feed: dict[str, Any]) -> list[vulnerabilities.Finding]:
    file = bill.with_name("feed.json")
    file.write_text(json.dumps(feed))
    return vulnerabilities.find(bill, vulnerabilities.read_feed(file))


def test_each_is_found_once_with_all_places(bill: Path) -> None:
    (found,) = find(bill, {"glibc": {"CVE-2026-1": issue("open")}, "bash": {"CVE-2026-2": issue("open")}})
    assert (found.name, found.source, found.version, found.fixed) == ("CVE-2026-1", "glibc", "2.41-12", "")
    assert found.where == ("frontend/libc6", "host/libc6")
    assert found.certain
    assert not found.minor


@pytest.mark.parametrize(
    ("status", "fixed", "affected"),
    [
        ("resolved", "2.41-12", False),
        ("resolved", "2.41-12+deb13u1", True),
        ("resolved", "2.41-9", False),  # as Debian counts: 12 is more than 9
        ("resolved", "2.41-12~deb13u1", False),
        ("resolved", "0", False),  # was never affected
        ("open", "", True),
        ("undetermined", "", True),
        ("resolved", "", True),
    ],
)
def test_the_version_decides(bill: Path, status: str, fixed: str, affected: bool) -> None:
    found = find(bill, {"glibc": {"CVE-2026-1": issue(status, fixed)}})
    assert bool(found) == affected
    assert [finding.certain for finding in found] == [status == "open" or bool(fixed)] * affected


def test_the_sources_version_counts_and_not_the_binarys(bill: Path) -> None:
    assert find(bill, {"zlib": {"CVE-2026-1": issue("resolved", "1:1.3")}}) == []
    assert find(bill, {"zlib": {"CVE-2026-1": issue("resolved", "1:1.3.1")}})


def test_a_signed_kernel_is_the_kernel(tmp_path: Path) -> None:
    linux = Package("linux-image-6.12-amd64", "6.12.117-1", "amd64", "ef" * 32, "linux-signed-amd64", "6.12.117+1")
    file = tmp_path / "image.cdx.json"
    file.write_text(sbom.document("image", "1", "00" * 32, [sbom.Part("host", "", [linux], {}, "backend")]))
    known = {"CVE-2026-1": issue("resolved", "6.12.118-1"), "CVE-2026-2": issue("resolved", "6.12.117-1")}
    (found,) = find(file, {"linux": known})
    assert (found.name, found.source, found.version) == ("CVE-2026-1", "linux", "6.12.117-1")


def test_another_releases_are_not_ours(bill: Path) -> None:
    assert find(bill, {"glibc": {"CVE-2026-1": issue("open", release="bookworm")}}) == []


def test_a_bill_that_does_not_say_where_a_package_is_from_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "image.cdx.json"
    old = [sbom.Part("host", "", [replace(LIBC, source="")], {}, "backend")]
    file.write_text(sbom.document("image", "1", "00" * 32, old))
    with pytest.raises(SallyportError, match="host/libc6 names no source package"):
        find(file, {})
    for text in ("", "{}", "[]", '{"components": [1]}', '{"components": [{"bom-ref": "a", "purl": "b"}]}'):
        file.write_text(text)
        with pytest.raises(SallyportError, match="not a bill of materials"):
            find(file, {})
    with pytest.raises(SallyportError, match=r"gone\.json"):
        vulnerabilities.find(tmp_path / "gone.json", {})


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ""),
        ("[]", ""),
        ('{"glibc": {"CVE-1": 7}}', "glibc.CVE-1"),
        ('{"glibc": {"CVE-1": {"releases": {"trixie": {"status": "fine"}}}}}', "glibc.CVE-1.releases.trixie.status"),
        (
            '{"glibc": {"CVE-1": {"releases": {"trixie": {"status": "resolved", "fixed_version": "a b"}}}}}',
            "glibc.CVE-1.releases.trixie.fixed_version",
        ),
    ],
)
def test_a_feed_that_is_something_else_is_refused(tmp_path: Path, text: str, where: str) -> None:
    file = tmp_path / "feed.json"
    file.write_text(text)
    with pytest.raises(SallyportError, match=rf"feed\.json: not the Debian security tracker's JSON: {where}"):
        vulnerabilities.read_feed(file)
    with pytest.raises(SallyportError, match=r"none\.json cannot be read: No such file"):
        vulnerabilities.read_feed(tmp_path / "none.json")


def test_minor_ones_are_counted_and_listed_on_request(bill: Path) -> None:
    feed = {"glibc": {"CVE-2026-1": issue("open", urgency="unimportant"), "CVE-2026-2": issue("resolved", "3")}}
    found = find(bill, feed)
    for all_of_them, listed in ((False, 1), (True, 2)):
        console = Console(record=True, width=200)
        vulnerabilities.show(found, console, all_of_them=all_of_them)
        text = console.export_text()
        assert ("CVE-2026-1" in text) == all_of_them
        assert f"known vulnerabilities: {listed}, of them fixed in a newer version: 1" in text
        assert ("minor, not listed: 1" in text) != all_of_them
        assert "a [bold]hole[/] in it" in text
    assert [row["fixed"] for row in json.loads(vulnerabilities.to_json(found))] == ["", "3"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", ("libc6", "2-1+b1")),
        ("glibc", ("glibc", "2-1+b1")),
        ("glibc (2-1)", ("glibc", "2-1")),
    ],
)
def test_a_binary_package_names_its_source_as_policy_says(source: str, told: tuple[str, str]) -> None:
    assert origin("libc6", "2-1+b1", source) == told


def test_what_is_built_from_source_is_said_to_be_unknown(tmp_path: Path) -> None:
    own = Package("openssl", "3.6", "x86_64", "ab" * 32, by="buildroot")
    file = tmp_path / "image.cdx.json"
    file.write_text(sbom.document("image", "1", "00" * 32, [sbom.Part("frontend", "", [LIBC, own], {}, "frontend_vm")]))
    assert vulnerabilities.unknown(file, by_cpe=True) == ["frontend/openssl"]
    assert find(file, {"openssl": {"CVE-2026-1": issue("open")}}) == []
