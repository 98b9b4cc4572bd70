"""Known vulnerabilities of packages that were built from source, by data of the National Vulnerability Database.

No distribution has advisories about such packages. They are identified by CPE names (NIST IR 7695), which Buildroot's
packages declare; the database lists for each vulnerability which versions of a name are affected (CVE API 2.0, schema
`cve_api_json_2.0`). It does not know our patches, so some of the listed vulnerabilities may be fixed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from debian.debian_support import Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rootfs.artifact.vulnerabilities import MAX_FEED, Finding, components
from rootfs.base import untrusted
from rootfs.base.errors import SallyportError

_WITHDRAWN = "Rejected"
_SPLIT = re.compile(r"(?<!\\):")
"""Separates the parts of a CPE name; a colon within a part is escaped."""
_ANY, _NONE = "*", "-"
_REMEDY = "name a JSON file of CVE API 2.0, or a directory of such files"


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class _Match(_Loose):
    """Affected versions of one CPE name."""

    vulnerable: bool
    criteria: str
    at_least: str = Field(default="", validation_alias="versionStartIncluding")
    more_than: str = Field(default="", validation_alias="versionStartExcluding")
    at_most: str = Field(default="", validation_alias="versionEndIncluding")
    less_than: str = Field(default="", validation_alias="versionEndExcluding")


class _Node(_Loose):
    negate: bool = False
    matches: tuple[_Match, ...] = Field(default=(), validation_alias="cpeMatch")


class _Configuration(_Loose):
    operator: str = "OR"
    nodes: tuple[_Node, ...] = ()


class _Text(_Loose):
    lang: str
    value: str


class _Score(_Loose):
    severity: str = Field(default="", validation_alias="baseSeverity")


class _Metric(_Loose):
    score: _Score = Field(default=_Score(), validation_alias="cvssData")


class _Metrics(_Loose):
    newest: tuple[_Metric, ...] = Field(default=(), validation_alias="cvssMetricV40")
    newer: tuple[_Metric, ...] = Field(default=(), validation_alias="cvssMetricV31")
    new: tuple[_Metric, ...] = Field(default=(), validation_alias="cvssMetricV30")


class _Issue(_Loose):
    id: str
    status: str = Field(default="", validation_alias="vulnStatus")
    descriptions: tuple[_Text, ...] = ()
    metrics: _Metrics = _Metrics()
    configurations: tuple[_Configuration, ...] = ()


class _Wrapped(_Loose):
    cve: _Issue


class _File(_Loose):
    """An answer of the database's interface (``vulnerabilities``), or a file of its yearly mirror (``cve_items``)."""

    vulnerabilities: tuple[_Wrapped, ...] | None = None
    items: tuple[_Issue, ...] | None = Field(default=None, validation_alias="cve_items")


_Key = tuple[str, str, str]
"""Part, vendor and product of a CPE name."""


@dataclass(frozen=True)
class _Entry:
    """What one vulnerability says about one CPE name."""

    issue: _Issue
    match: _Match
    more: bool
    """Whether a further condition must hold, such as another product being present or absent."""


Feed = dict[_Key, list[_Entry]]


@dataclass(frozen=True)
class _Product:
    """The product that a CPE name names, and its version."""

    key: _Key
    version: str
    update: str


def _product(cpe: str) -> _Product:
    words = _SPLIT.split(cpe)
    if len(words) != 13 or words[:2] != ["cpe", "2.3"]:
        raise ValueError(f"not a CPE 2.3 name: {cpe!r}")
    part, vendor, product, version, update = words[2:7]
    return _Product((part, vendor, product), version.replace("\\", ""), update)


def read(paths: Iterable[Path]) -> Feed:
    """Read the database's files; returns their entries by part, vendor and product.

    Args:
        paths: files, or directories whose ``.json`` files are read.

    Raises:
        SallyportError: a file cannot be read or is malformed; names the file and the field.
    """
    feed: Feed = {}
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if not files:
        raise SallyportError("no file of the database was found", _REMEDY)
    for file in files:
        for issue in _issues(file):
            for entry in _entries(issue):
                try:
                    feed.setdefault(_product(entry.match.criteria).key, []).append(entry)
                except ValueError as error:
                    raise SallyportError(f"{file}: {issue.id}: {error}", _REMEDY) from error
    return feed


def _entries(issue: _Issue) -> Iterator[_Entry]:
    if issue.status == _WITHDRAWN:
        return
    for configuration in issue.configurations:
        more = configuration.operator == "AND" or any(node.negate for node in configuration.nodes)
        for match in chain.from_iterable(node.matches for node in configuration.nodes):
            if match.vulnerable:
                yield _Entry(issue, match, more)


def _issues(file: Path) -> Iterator[_Issue]:
    try:
        content = _File.model_validate_json(untrusted.read(file, MAX_FEED))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SallyportError(f"{file}: not the database's JSON: {where}: {first['msg']}", _REMEDY) from error
    if content.vulnerabilities is None and content.items is None:
        raise SallyportError(f"{file}: has neither `vulnerabilities` nor `cve_items`", _REMEDY)
    yield from (wrapped.cve for wrapped in content.vulnerabilities or ())
    yield from content.items or ()


def find(bill: Path, feed: Feed) -> list[Finding]:
    """Vulnerabilities of the components of a bill that have a CPE name, each once for each product.

    Raises:
        SallyportError: the bill cannot be read.
    """
    places: dict[_Product, list[str]] = {}
    for component in components(bill):
        if component.cpe:
            try:
                places.setdefault(_product(component.cpe), []).append(component.reference)
            except ValueError as error:
                raise SallyportError(f"{bill}: {component.reference}: {error}", "build the image again") from error
    found: list[Finding] = []
    for product, references in places.items():
        by_name: dict[str, Finding] = {}
        for entry in feed.get(product.key, []):
            affected = _affected(product, entry.match)
            if affected is not False:
                finding = _finding(entry, product, tuple(sorted(references)), certain=affected is True)
                known = by_name.setdefault(finding.name, finding)
                by_name[finding.name] = max(known, finding, key=lambda one: one.certain)
        found += by_name.values()
    return sorted(found, key=lambda finding: (finding.source, finding.name))


def _finding(entry: _Entry, product: _Product, where: tuple[str, ...], *, certain: bool) -> Finding:
    issue, metrics = entry.issue, entry.issue.metrics
    scores = metrics.newest or metrics.newer or metrics.new
    return Finding(
        name=issue.id,
        source=product.key[2],
        version=product.version,
        fixed=entry.match.less_than,
        urgency=scores[0].score.severity.lower() if scores else "",
        certain=certain and not entry.more,
        where=where,
        description=next((text.value for text in issue.descriptions if text.lang == "en"), ""),
    )


def _affected(product: _Product, match: _Match) -> bool | None:
    """Whether a version is affected by a match; None if the versions cannot be compared."""
    wanted = _product(match.criteria)
    if wanted.update not in (_ANY, _NONE, product.update):
        return False  # another update, such as a release candidate
    try:
        own = Version(product.version)
        if wanted.version not in (_ANY, _NONE):
            return bool(own == Version(wanted.version))
        bounds = (
            not match.at_least or own >= Version(match.at_least),
            not match.more_than or own > Version(match.more_than),
            not match.at_most or own <= Version(match.at_most),
            not match.less_than or own < Version(match.less_than),
        )
    except ValueError:
        return None
    return all(bounds)
