"""Vulnerabilities of what was built from source: which version of which name, and what cannot be told is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rootfs.artifact import nvd, sbom, vulnerabilities
from rootfs.base.errors import SallyportError
from rootfs.base.packages import Package


def cpe(product: str, version: str, update: str = "*") -> str:
    return f"cpe:2.3:a:{product}:{product}:{version}:{update}:*:*:*:*:*:*"


OPENSSL = Package("libopenssl", "3.6.3", "x86_64", "ab" * 32, by="buildroot", cpe=cpe("openssl", "3.6.3"))
BUSYBOX = Package("busybox", "1.37.0", "x86_64", "ab" * 32, by="buildroot")
LIBC = Package("libc6", "2.41-12", "amd64", "ab" * 32, "glibc", "2.41-12")


def issue(name: str, *matches: dict[str, Any], operator: str = "OR", **more: Any) -> dict[str, Any]:
    nodes = [{"operator": "OR", "negate": False, "cpeMatch": [{"vulnerable": True} | match for match in matches]}]
    return {
        "id": name,
        "vulnStatus": "Analyzed",
        "descriptions": [{"lang": "es", "value": "un agujero"}, {"lang": "en", "value": "a hole"}],
        "metrics": {"cvssMetricV31": [{"cvssData": {"baseScore": 9.8, "baseSeverity": "CRITICAL"}}]},
        "configurations": [{"operator": operator, "nodes": nodes}],
    } | more


@pytest.fixture
def bill(tmp_path: Path) -> Path:
    parts = [
        sbom.Part("host", "", [OPENSSL, BUSYBOX, LIBC], {}, "backend"),
        sbom.Part("frontend", "", [OPENSSL], {}, "frontend_vm"),
    ]
    file = tmp_path / "image.cdx.json"
    file.write_text(sbom.document("image", "1", "00" * 32, parts))
    return file


def find(bill: Path, *issues: dict[str, Any]) -> list[vulnerabilities.Finding]:
    file = bill.with_name("nvd.json")
    file.write_text(json.dumps({"vulnerabilities": [{"cve": one} for one in issues]}))
    return nvd.find(bill, nvd.read([file]))


def test_each_is_found_once_with_all_places(bill: Path) -> None:
    match = {"criteria": cpe("openssl", "*"), "versionStartIncluding": "3.6.0", "versionEndExcluding": "3.6.4"}
    (found,) = find(bill, issue("CVE-2026-1", match, match), issue("CVE-2026-2", {"criteria": cpe("bash", "*")}))
    assert (found.name, found.source, found.version, found.fixed) == ("CVE-2026-1", "openssl", "3.6.3", "3.6.4")
    assert (found.urgency, found.description, found.certain) == ("critical", "a hole", True)
    assert found.where == ("frontend/libopenssl", "host/libopenssl")


@pytest.mark.parametrize(
    ("version", "bounds", "affected"),
    [
        ("*", {}, True),
        ("-", {}, True),
        ("3.6.3", {}, True),
        ("3.6.2", {}, False),
        ("*", {"versionEndIncluding": "3.6.3"}, True),
        ("*", {"versionEndExcluding": "3.6.3"}, False),
        ("*", {"versionEndExcluding": "3.6.10"}, True),
        ("*", {"versionStartExcluding": "3.6.3"}, False),
        ("*", {"versionStartIncluding": "3.6.3"}, True),
        ("*", {"versionStartIncluding": "1.0", "versionEndExcluding": "1.1"}, False),
    ],
)
def test_the_version_decides(bill: Path, version: str, bounds: dict[str, str], affected: bool) -> None:
    assert bool(find(bill, issue("CVE-2026-1", {"criteria": cpe("openssl", version)} | bounds))) == affected


def test_a_release_candidate_is_not_the_release(bill: Path) -> None:
    assert find(bill, issue("CVE-2026-1", {"criteria": cpe("openssl", "3.6.3", "rc1")})) == []


def test_what_is_withdrawn_or_only_stands_beside_is_not_listed(bill: Path) -> None:
    beside = {"criteria": cpe("openssl", "*"), "vulnerable": False}
    withdrawn = issue("CVE-2026-2", {"criteria": cpe("openssl", "*")}, vulnStatus="Rejected")
    assert find(bill, issue("CVE-2026-1", beside), withdrawn) == []


def test_what_cannot_be_told_is_listed_as_uncertain(bill: Path) -> None:
    odd = issue("CVE-2026-1", {"criteria": cpe("openssl", "*"), "versionEndExcluding": "three point six"})
    elsewhere = issue("CVE-2026-2", {"criteria": cpe("openssl", "*")}, operator="AND")
    assert [(found.name, found.certain) for found in find(bill, odd, elsewhere)] == [
        ("CVE-2026-1", False),
        ("CVE-2026-2", False),
    ]


def test_files_by_year_are_read_from_their_directory(bill: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nvd"
    folder.mkdir()
    for year in (2025, 2026):
        one = issue(f"CVE-{year}-1", {"criteria": cpe("openssl", "*")})
        (folder / f"CVE-{year}.json").write_text(json.dumps({"cve_items": [one]}))
    assert [found.name for found in nvd.find(bill, nvd.read([folder]))] == ["CVE-2025-1", "CVE-2026-1"]


def test_what_was_compared_is_told_apart_from_what_was_not(bill: Path) -> None:
    assert vulnerabilities.unknown(bill, by_cpe=True) == ["host/busybox"]
    everything = {"host/libopenssl", "host/busybox", "frontend/libopenssl"}
    assert set(vulnerabilities.unknown(bill, by_cpe=False)) == everything


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not the database's JSON"),
        ("{}", "has neither"),
        ('{"vulnerabilities": [{"cve": {}}]}', r"vulnerabilities\.0\.cve\.id"),
    ],
)
def test_data_that_is_something_else_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "nvd.json"
    file.write_text(text)
    with pytest.raises(SallyportError, match=rf"nvd\.json: {why}|nvd\.json: .*{why}"):
        nvd.read([file])
    file.write_text(json.dumps({"cve_items": [issue("CVE-2026-1", {"criteria": "openssl"})]}))
    with pytest.raises(SallyportError, match="CVE-2026-1: not a CPE"):
        nvd.read([file])
    with pytest.raises(SallyportError, match=r"none\.json cannot be read: No such file"):
        nvd.read([tmp_path / "none.json"])
    with pytest.raises(SallyportError, match="no file of the database"):
        nvd.read([])
